"""A student that teaches itself: ``python -m mmprofile.llm.reinforce data=demo recipe=ours``.

Its own answers are voted once, for as many people as the training visits; the winners and their weights are frozen. GRPO then
rewards agreeing with them.
"""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from mmprofile.config.llm_settings import LlmConfig, ReinforceConfig, StudentConfig, VoteConfig
from mmprofile.errors import UserError
from mmprofile.files import write_text
from mmprofile.llm.calibrate import AGREEMENT
from mmprofile.llm.checks import recipe_settings
from mmprofile.llm.fine_tuning import build_examples
from mmprofile.llm.fine_tuning import train as fine_tune
from mmprofile.llm.journal import Record, open_journal
from mmprofile.llm.labels import LABELS, Label, load_labels
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.rewards import UNWEIGHTED, FrozenLabels, freeze_labels, moderate_users
from mmprofile.llm.reinforce.training import train
from mmprofile.llm.rollouts import rollouts
from mmprofile.llm.stage import digest, opened_stage, purpose, read_people
from mmprofile.llm.student import Student, decisive, plain, student_settings
from mmprofile.llm.student_folder import (
    STUDENT,
    is_finished,
    open_checkpoints,
    read_made_of,
    save_student,
)
from mmprofile.llm.vote.agreement import likelihoods, raw_likelihoods
from mmprofile.llm.vote.voting import collect_ballots, of_whole_readings, vote, vote_settings
from mmprofile.profile.schema import Schema

ROLLOUTS = "rollouts.jsonl"


def main(cfg: LlmConfig) -> None:
    """Reinforce the student by the recipe of the configuration; a killed run goes on where it stopped."""
    reinforce(cfg, cfg.recipe)


def reinforce(cfg: LlmConfig, recipe: str) -> None:
    """Draw rollouts, vote and freeze labels, train by GRPO, and write the new student's folder.

    Args:
        cfg: all settings but the recipe.
        recipe: one of its ``recipes``.

    Raises:
        UserError: there is no student to start from, or too few people of moderate difficulty.
    """
    with opened_stage(cfg) as (schema, folder):
        start = read_made_of(folder / STUDENT)
        if start is None:
            raise UserError(f"{folder / STUDENT}: no student to start from; run python -m mmprofile.llm.distill first")
        settings, target = recipe_settings(cfg, recipe), folder / f"{STUDENT}_{recipe}"
        made_of = {
            "start": start, "seed": cfg.seed, "purpose": purpose(cfg),
            "settings": decisive(student_settings(cfg)) | asdict(settings) | {"recipe": recipe, "vote_settings": plain(cfg.vote)},
        }  # fmt: skip
        if is_finished(target, made_of):
            print(f"{target}: found")
            return
        people = [person for person in read_people(cfg, schema) if person.split == "train"]
        before_repair = folder / f"{target.name}_before_repair" if settings.repair else target
        if settings.repair and is_finished(before_repair, made_of):
            print(f"{before_repair}: found")
        else:
            _learn(people, settings, recipe, cfg, before_repair, made_of)
        if settings.repair:
            _repair(people, settings, cfg, before_repair, target, made_of)


def _learn(
    people: Sequence[Person],
    settings: ReinforceConfig,
    recipe: str,
    cfg: LlmConfig,
    target: Path,
    made_of: dict[str, Any],
) -> None:
    """Train the student of the target's folder by GRPO, and save it there."""
    folder, schema = target.parent, Schema.from_config(cfg.profile)
    student = Student(str(folder / STUDENT), student_settings(cfg), schema)
    checkpoints = open_checkpoints(target, made_of)
    if needs_votes(settings):
        labels = vote_rollouts(student, people, settings, cfg, folder)
        frozen = frozen_labels(folder / f"frozen_{recipe}.json", labels, schema, settings, digest(made_of))
        learned_from = moderate_people(people, labels, settings)
        print(
            f"{recipe}: {len(learned_from):,} of {len(frozen.targets):,} people are of moderate difficulty (mean agreement of "
            f"{settings.rollouts} answers from {settings.low} to {settings.high}); {len(people) - len(frozen.targets):,} more are "
            f"not needed, or too long for the student's context of {student.room:,} tokens",
            flush=True,
        )
    else:
        frozen, learned_from = FrozenLabels({}), [p for p in people if len(student.prompt(p)) <= student.room]
        print(
            f"{recipe}: {len(learned_from):,} people; {len(people) - len(learned_from):,} more are too long for the student's "
            f"context of {student.room:,} tokens",
            flush=True,
        )
    if len(learned_from) < settings.people:
        raise UserError(
            f"a step is to learn from reinforce.people={settings.people} people, and there are {len(learned_from)}: give "
            "less, or widen reinforce.low and reinforce.high"
        )
    clock, before = time.perf_counter(), frozen.digest()
    history = train(student, learned_from, frozen, settings, cfg, checkpoints)
    if frozen.digest() != before:
        raise RuntimeError("the frozen labels changed during training")
    write_text(folder / f"reinforce_{recipe}.jsonl", "".join(json.dumps(row) + "\n" for row in history))
    save_student(student, target, made_of)
    print(f"{target}: {describe(history)}; {time.perf_counter() - clock:.0f} s")


def _repair(
    people: Sequence[Person],
    settings: ReinforceConfig,
    cfg: LlmConfig,
    start: Path,
    target: Path,
    made_of: dict[str, Any],
) -> None:
    """Fine-tune a reinforced student on the teacher's labels once more: reinforcement makes overconfident (arXiv 2603.06604)."""
    of_student = cast(StudentConfig, OmegaConf.merge(student_settings(cfg), {"epochs": settings.repair}))
    student = Student(str(start), of_student, Schema.from_config(cfg.profile))
    examples = build_examples(people, load_labels(target.parent / LABELS), student, cfg.distill, cfg.seed)
    loss = fine_tune(student, examples.rows, cfg, open_checkpoints(target, made_of))
    save_student(student, target, made_of)
    print(f"{target}: fine-tuned on {len(examples.rows):,} examples, mean loss {loss:.3f}")


def needs_votes(settings: ReinforceConfig) -> bool:
    """Return whether anything is learned from votes that are frozen; TTRL learns from those of each step alone."""
    return settings.vote == "frozen" or settings.reward not in UNWEIGHTED or (settings.low, settings.high) != (0, 1)


def vote_rollouts(
    student: Student, people: Sequence[Person], settings: ReinforceConfig, cfg: LlmConfig, folder: Path
) -> list[Label]:
    """Return labels voted from the student's own answers, which are kept in a journal, so that none is drawn twice.

    People are visited in random order, until there are as many of moderate difficulty as the training visits; people whom the
    student cannot read have no labels.
    """
    schema, voting = student.schema, rollout_vote(settings, cfg)
    order = random.Random(cfg.seed).sample(list(people), len(people))
    parts = rollouts(
        student,
        order,
        samples=settings.rollouts,
        temperature=settings.temperature,
        top_p=1.0,
        seed=cfg.seed,
        journal=open_journal(folder / ROLLOUTS),
        label="rollouts" if cfg.progress else None,
    )
    records: list[list[Record]] = []  # of each person
    labels: list[Label] = []
    for part in parts:
        records += part
        voters = [person for person, of_person in zip(order, records, strict=False) if of_person]
        labels, _ = vote(voters, collect_ballots(voters, schema, chain(*records)), schema, voting)
        if len(moderate_users(labels, settings.low, settings.high)) >= settings.steps * settings.people:
            break
    return labels


def rollout_vote(settings: ReinforceConfig, cfg: LlmConfig) -> VoteConfig:
    """Return how rollouts are voted; a reward that weighs all alike goes with a plain majority."""
    given = of_whole_readings(vote_settings(cfg))
    method = "majority" if settings.reward in UNWEIGHTED else given.method
    return replace(given, method=method, calibration="none", unknown_rate=None)


def frozen_labels(
    path: Path, labels: Sequence[Label], schema: Schema, settings: ReinforceConfig, origin: str
) -> FrozenLabels:
    """Return the frozen labels of a file; if it has none of this origin, freeze ``labels`` there first."""
    if not path.exists() or FrozenLabels.load(path).origin != origin:
        raw = [raw_likelihoods(label) for label in labels]
        weights = likelihoods(labels, schema, "mean")[0] if settings.calibration == AGREEMENT else raw
        freeze_labels(labels, weights, origin).save(path)
    return FrozenLabels.load(path)


def moderate_people(people: Sequence[Person], labels: Sequence[Label], settings: ReinforceConfig) -> list[Person]:
    """Return the people of moderate difficulty, in their order."""
    moderate = set(moderate_users(labels, settings.low, settings.high))
    return [person for person in people if person.user_id in moderate]


def describe(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the means of the first and the last tenth of the steps."""
    tenth = max(1, len(history) // 10)
    parts = []
    for name in ("reward", "frac_reward_zero_std", "parse_faults", "entropy"):
        values = [row[name] for row in history if name in row]
        if values:
            first, last = (sum(part) / len(part) for part in (values[:tenth], values[-tenth:]))
            parts.append(f"{name} {first:.3f} -> {last:.3f}")
    parts += [f"kl {row['kl']:.3f}" for row in history[-1:]]
    return f"{len(history)} steps; " + ", ".join(parts)
