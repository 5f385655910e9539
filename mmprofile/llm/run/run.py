"""The whole stage: ``python -m mmprofile.llm.run data=demo student=tiny``.

Teacher, vote, distillation, both kinds of reinforcement, and a table of what each is worth on people that no student saw. Gold
values are used for scoring only. The same command again goes on where it stopped.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from mmprofile.config.settings import VoteConfig
from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, parse_answer
from mmprofile.llm.distill.run import main as run_distill
from mmprofile.llm.journal import Journal
from mmprofile.llm.labels import LABELS, Label, load_labels
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.run import REWARDS
from mmprofile.llm.reinforce.run import main as run_reinforce
from mmprofile.llm.rollouts import rollouts
from mmprofile.llm.scores import percentiles, resampled_f1, score_labels, tabulate
from mmprofile.llm.stage import answers, open_schema, purpose, read_people, stage_folder
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import STUDENT, student_settings
from mmprofile.llm.teacher.run import ask
from mmprofile.llm.vote.run import main as run_vote
from mmprofile.llm.vote.voting import Ballot, ballots, vote
from mmprofile.profile.metrics import RESAMPLES
from mmprofile.profile.schema import Schema

DRAWN = "draws.jsonl"  # where the students' sampled answers are kept
TITLES = {
    "teacher": "one teacher sample",
    "majority": "majority vote",
    "cisc": "CISC",
    "voted": "ours, voted",
    "calibrated": "ours, calibrated",
    "start": "student before",
    "sft": "SFT",
    "ttrl": "SFT + TTRL",
    "ours": "SFT + ours",
}
Claims = Sequence[Mapping[str, Claim]]


def main(cfg: Any) -> None:
    """Entry point: every stage, then the table. What would end it late is looked at first."""
    clock = time.perf_counter()
    schema, folder = open_schema(cfg), stage_folder(cfg)
    people = [person for person in read_people(cfg, schema) if person.split == "test"]
    if not any(person.gold for person in people):
        raise UserError("nobody of the split test has gold values to score by: run the stages one by one (docs/llm.md)")
    Student(cfg.student, student_settings(cfg), schema)
    for stage in (ask, run_vote, run_distill):
        stage(cfg)
    for name in REWARDS:
        cfg.reinforce.reward = name
        run_reinforce(cfg)
    drawn, unread = student_rows(cfg, schema, people, folder)
    rows = teacher_rows(cfg, schema, people) | drawn
    resampled = {name: resample(schema, people, draws, cfg.seed) for name, draws in rows.items()}
    scored = {name: score(schema, people, draws, resampled[name]) for name, draws in rows.items()}
    compared = {
        f"ours - {name}": {
            "f1": round(scored["ours"]["f1"] - scored[name]["f1"], 4),
            "interval": interval(resampled["ours"] - resampled[name]),
        }
        for name in ("sft", "ttrl")
    }
    facts = {
        "rows": scored,
        "differences": compared,
        "minutes": round((time.perf_counter() - clock) / 60, 2),
        "people": len(people),
        "unread": unread,
        "seed": cfg.seed,
        "purpose": purpose(cfg),
    }
    (folder / "metrics.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print_rows(scored, len(people))
    for name in ("sft", "ttrl"):
        print(describe(TITLES[name], **compared[f"ours - {name}"]))
    if unread:
        print(f"{unread:,} of them are too long for the student's context: of these it says nothing")
    print(f"{folder / 'metrics.json'}; {facts['minutes']:.1f} minutes since this command began")


def teacher_rows(cfg: Any, schema: Schema, people: Sequence[Person]) -> dict[str, list[Claims]]:
    """What the teacher's answers are worth: each sample by itself, and three ways to vote."""
    records, _ = answers(people, schema, cfg)
    polled, settings = ballots(people, schema, records), cast(VoteConfig, OmegaConf.to_object(cfg.vote))
    samples: list[Claims] = [
        [
            {
                name: Claim(one.value, one.confidence)
                for name in schema.names
                for one in polled.get((person.user_id, name), Ballot((), ())).votes
                if one.sample == sample
            }
            for person in people
        ]
        for sample in range(cfg.samples)
    ]
    found: dict[str, list[Claims]] = {"teacher": samples}
    for row, method in (("majority", "majority"), ("cisc", "cisc"), ("voted", "confidence")):
        how = replace(settings, method=method, calibration="none", unknown_rate=None)
        found[row] = [by_person(people, vote(people, polled, schema, how)[0])]
    found["calibrated"] = [by_person(people, load_labels(stage_folder(cfg) / LABELS))]
    return found


def student_rows(
    cfg: Any, schema: Schema, people: Sequence[Person], folder: Path
) -> tuple[dict[str, list[Claims]], int]:
    """What each student writes of people it never saw, sampled; and how many of them it cannot read.

    Raises:
        UserError: it can read nobody.
    """
    where = {"start": cfg.student, "sft": folder / STUDENT} | {
        row: folder / f"{STUDENT}_{name}" for row, name in (("ttrl", "majority"), ("ours", "confidence"))
    }
    how, found, unread = cfg.table, dict[str, list[Claims]](), 0
    for row, path in where.items():
        student = Student(str(path), student_settings(cfg), schema)
        label = TITLES[row] if cfg.progress else None
        journal = Journal(folder / DRAWN)
        drawn = rollouts(student, people, how.draws, how.temperature, how.top_p, cfg.seed, journal, label)
        texts = [[record.answer for record in own] for part in drawn for own in part]
        found[row] = [
            [parse_answer(own[draw], schema).claims if own else {} for own in texts] for draw in range(how.draws)
        ]
        unread = sum(not own for own in texts)
        if unread == len(people):
            raise UserError(
                f"student={cfg.student}: all {unread:,} people of the split test are too long for its context"
            )
    return found, unread


def by_person(people: Sequence[Person], labels: Sequence[Label]) -> Claims:
    """Labels as claims, in the people's order."""
    found: dict[str, dict[str, Claim]] = {person.user_id: {} for person in people}
    for label in labels:
        if label.user_id in found:
            found[label.user_id][label.attribute] = Claim(label.label, label.confidence)
    return list(found.values())


def resample(schema: Schema, people: Sequence[Person], draws: Sequence[Claims], seed: int) -> np.ndarray:
    """(R,) mean F1 of the draws on resamples of the people, the same ones for every row."""
    gold = [person.gold for person in people]
    return np.mean([resampled_f1(tabulate(schema.names, gold, claims), RESAMPLES, seed) for claims in draws], axis=0)


def score(schema: Schema, people: Sequence[Person], draws: Sequence[Claims], resampled: np.ndarray) -> dict[str, Any]:
    """Means over draws of F1, ECE and AURC, and the 95 % interval of the mean F1 over people."""
    gold = [person.gold for person in people]
    scores = [score_labels(schema.names, gold, claims, resamples=0).overall for claims in draws]
    means = {name: float(np.mean([getattr(one, name) for one in scores])) for name in ("f1", "ece", "aurc")}
    rounded = {name: None if np.isnan(value) else round(value, 4) for name, value in means.items()}
    return rounded | {"interval": interval(resampled)}


def interval(resampled: np.ndarray) -> list[float]:
    """The middle 95 %."""
    return [round(end, 4) for end in percentiles(resampled)]


def describe(other: str, f1: float, interval: Sequence[float]) -> str:
    """A line on how ours compares."""
    low, high = interval
    what = "above" if low > 0 else "below" if high < 0 else "neither above nor below (within chance)"
    return f"{TITLES['ours']} is {what} {other}: {f1:+.2f} F1, 95 % {low:+.2f} to {high:+.2f}"


def print_rows(rows: Mapping[str, Mapping[str, Any]], people: int) -> None:
    """The table."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"{people:,} people of the split test", title_justify="left"
    )
    table.add_column("")
    for name in ("F1", "95 % interval", "ECE", "AURC"):
        table.add_column(name, justify="right")
    for name, row in rows.items():
        low, high = row["interval"]
        trust = ["-" if row[key] is None else f"{row[key]:.3f}" for key in ("ece", "aurc")]
        table.add_row(TITLES[name], f"{row['f1']:.2f}", f"{low:.2f} to {high:.2f}", *trust)
    Console(highlight=False, width=80).print(table)
