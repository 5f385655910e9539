"""The table of the whole stage: teacher, votes and students, scored on the same people.

Shapes: R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, parse_answer
from mmprofile.llm.journal import Record, open_journal
from mmprofile.llm.labels import LABELS, Label, load_labels
from mmprofile.llm.people import Person
from mmprofile.llm.rollouts import rollouts
from mmprofile.llm.scores import percentiles, resampled_f1, score_labels, tabulate
from mmprofile.llm.stage import current_answers, stage_folder
from mmprofile.llm.student import Student, student_settings
from mmprofile.llm.student_folder import STUDENT
from mmprofile.llm.vote.voting import NO_VOTES, collect_ballots, of_whole_readings, vote, vote_settings
from mmprofile.profile.metrics import RESAMPLES, Array
from mmprofile.profile.schema import Schema

DRAWS = "draws.jsonl"  # the journal of the students' sampled answers
TITLES = {
    "teacher": "one teacher sample",
    "majority": "majority vote",
    "cisc": "CISC",
    "voted": "ours, voted",
    "calibrated": "ours, calibrated",
    "start": "student before",
    "sft": "SFT",
    "sft_voted": "SFT, voted",
}
"""The first rows of the table, in order; recipes of reinforcement follow."""
ACRONYMS = {"ttrl": "TTRL", "rlcr": "RLCR", "scrl": "SCRL"}
Claims = Sequence[Mapping[str, Claim]]
"""Attribute -> claim, one mapping per person."""


def teacher_draws(cfg: LlmConfig, schema: Schema, people: Sequence[Person]) -> dict[str, list[Claims]]:
    """Return the claims of the teacher's rows: those of each sample, and those of each way to vote."""
    records, _ = current_answers(people, schema, cfg)
    ballots = collect_ballots(people, schema, records)
    draws: dict[str, list[Claims]] = {
        "teacher": [
            [
                {
                    name: Claim(vote.value, vote.confidence)
                    for name in schema.names
                    for vote in ballots.get((person.user_id, name), NO_VOTES).votes
                    if vote.sample == sample
                }
                for person in people
            ]
            for sample in range(cfg.samples)
        ]
    }
    for row, method in (("majority", "majority"), ("cisc", "cisc"), ("voted", "confidence")):
        settings = replace(vote_settings(cfg), method=method, calibration="none", unknown_rate=None)
        draws[row] = [by_person(people, vote(people, ballots, schema, settings)[0])]
    draws["calibrated"] = [by_person(people, load_labels(stage_folder(cfg) / LABELS))]
    return draws


def student_draws(
    cfg: LlmConfig, schema: Schema, people: Sequence[Person], folder: Path
) -> tuple[dict[str, list[Claims]], int]:
    """Return the claims in each student's sampled answers about people it never saw.

    Returns:
        The claims of each draw by the row's name, and the number of people whom the students cannot read.

    Raises:
        UserError: they can read nobody.
    """
    sources = {"start": cfg.student, "sft": folder / STUDENT}
    sources |= {recipe: folder / f"{STUDENT}_{recipe}" for recipe in cfg.table.recipes}
    draws: dict[str, list[Claims]] = {}
    unread = 0
    for row, source in sources.items():
        revision = cfg.student_revision if row == "start" else None
        student, ways = Student(str(source), student_settings(cfg), schema, revision), cfg.table
        records = drawn(student, people, ways.draws, ways.temperature, ways.top_p, title(row), cfg, folder)
        draws[row] = [
            [parse_answer(of_person[draw].answer, schema).claims if of_person else {} for of_person in records]
            for draw in range(ways.draws)
        ]
        unread = sum(not of_person for of_person in records)
        if unread == len(people):
            raise UserError(
                f"student={cfg.student}: all {unread:,} people of the split test are too long for its context"
            )
        if row == "sft":  # as the rollouts of the training are drawn and voted: what imitation of votes could reach
            settings = cfg.reinforce
            records = drawn(
                student, people, settings.rollouts, settings.temperature, 1.0, title("sft_voted"), cfg, folder
            )
            ballots = collect_ballots(people, schema, chain(*records))
            draws["sft_voted"] = [
                by_person(people, vote(people, ballots, schema, of_whole_readings(vote_settings(cfg)))[0])
            ]
    return draws, unread


def drawn(
    student: Student,
    people: Sequence[Person],
    samples: int,
    temperature: float,
    top_p: float,
    label: str,
    cfg: LlmConfig,
    folder: Path,
) -> list[list[Record]]:
    """Return a student's answers about each person, from the stage's journal where it has them."""
    parts = rollouts(
        student, people, samples=samples, temperature=temperature, top_p=top_p, seed=cfg.seed,
        journal=open_journal(folder / DRAWS), label=label if cfg.progress else None,
    )  # fmt: skip
    return [of_person for part in parts for of_person in part]


def title(row: str) -> str:
    """Return the title of a row."""
    return TITLES.get(row) or f"SFT + {ACRONYMS.get(row, row)}"


def by_person(people: Sequence[Person], labels: Sequence[Label]) -> Claims:
    """Return labels as claims, in the people's order."""
    claims: dict[str, dict[str, Claim]] = {person.user_id: {} for person in people}
    for label in labels:
        if label.user_id in claims:
            claims[label.user_id][label.attribute] = Claim(label.label, label.confidence)
    return list(claims.values())


def compare(
    schema: Schema, people: Sequence[Person], draws: Mapping[str, Sequence[Claims]], seed: int
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Score each row of the table, and compare the last with SFT and the other recipes on the same resamples of the people.

    Args:
        schema: the attributes.
        people: with gold values.
        draws: the claims of each draw by the row's name; the last row is compared.
        seed: of the resampling.

    Returns:
        The scores by the row's name, and the last row's differences in F1 from SFT and other recipes, with their intervals.
    """
    resampled = {name: resample(schema, people, of_row, seed) for name, of_row in draws.items()}
    rows = {name: score(schema, people, of_row, resampled[name]) for name, of_row in draws.items()}
    *others, last = ("sft", *(name for name in rows if name not in TITLES))
    differences = {
        f"{last} - {name}": {
            "f1": round(rows[last]["f1"] - rows[name]["f1"], 4),
            "interval": rounded_interval(resampled[last] - resampled[name]),
        }
        for name in others
    }
    return rows, differences


def resample(schema: Schema, people: Sequence[Person], draws: Sequence[Claims], seed: int) -> Array:
    """Return the mean F1 of the draws on resamples of the people, (R,), the same resamples for every row."""
    gold = [person.gold for person in people]
    f1 = [resampled_f1(tabulate(schema.names, gold, claims), RESAMPLES, seed) for claims in draws]
    return np.asarray(np.mean(f1, axis=0))


def score(schema: Schema, people: Sequence[Person], draws: Sequence[Claims], resampled: Array) -> dict[str, Any]:
    """Return the means over the draws of F1, ECE and AURC, and the 95 % interval over people of the mean F1.

    Args:
        schema: the attributes.
        people: with gold values.
        draws: claims about them.
        resampled: of the draws, (R,), as :func:`resample` returns.
    """
    gold = [person.gold for person in people]
    scores = [score_labels(schema.names, gold, claims, resamples=0).overall for claims in draws]
    means = {name: float(np.mean([getattr(of_draw, name) for of_draw in scores])) for name in ("f1", "ece", "aurc")}
    rounded = {name: None if np.isnan(mean) else round(mean, 4) for name, mean in means.items()}
    return rounded | {"interval": rounded_interval(resampled)}


def rounded_interval(resampled: Array) -> list[float]:
    """Return the ends of the middle 95 % of resamples (R,)."""
    return [round(end, 4) for end in percentiles(resampled)]


def describe(difference: str, f1: float, interval: Sequence[float]) -> str:
    """Return a line that says how a row compares with another.

    Args:
        difference: the names of both, as :func:`compare` gives them.
        f1: the one minus the other.
        interval: of the difference.
    """
    low, high = interval
    relation = "above" if low > 0 else "below" if high < 0 else "neither above nor below (within chance)"
    one, other = (title(name) for name in difference.split(" - "))
    return f"{one} is {relation} {other}: {f1:+.2f} F1, 95 % {low:+.2f} to {high:+.2f}"


def print_rows(rows: Mapping[str, Mapping[str, Any]], people: int) -> None:
    """Print the table of so many people."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"{people:,} people of the split test", title_justify="left"
    )
    table.add_column("")
    for name in ("F1", "95 % interval", "ECE", "AURC"):
        table.add_column(name, justify="right")
    for name, row in rows.items():
        low, high = row["interval"]
        confidence = ["-" if row[key] is None else f"{row[key]:.3f}" for key in ("ece", "aurc")]
        table.add_row(title(name), f"{row['f1']:.2f}", f"{low:.2f} to {high:.2f}", *confidence)
    Console(highlight=False, width=80).print(table)
