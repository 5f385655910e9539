"""The command ``llm.reinforce``: the student votes its own answers once, then learns to agree with them."""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from mmprofile.config.settings import VoteConfig
from mmprofile.errors import UserError
from mmprofile.llm.journal import Journal, Record
from mmprofile.llm.labels import Label
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.rewards import Frozen, freeze, moderate
from mmprofile.llm.reinforce.training import train
from mmprofile.llm.rollouts import rollouts
from mmprofile.llm.stage import digest, open_schema, purpose, read_people, stage_folder
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import (
    STUDENT,
    begin,
    finish,
    finished,
    made_before,
    plain,
    student_settings,
)
from mmprofile.llm.vote.voting import ballots, vote

REWARDS = ("confidence", "majority")
"""Kinds of ``reward``, which are the ways of voting that they go with."""
ROLLOUTS = "rollouts.jsonl"


def main(cfg: Any) -> None:
    """Entry point: rollouts, frozen labels, GRPO; the same command again goes on where it stopped."""
    schema, folder = open_schema(cfg), stage_folder(cfg)
    settings, name = cfg.reinforce, cfg.reinforce.reward
    start = made_before(folder / STUDENT)
    if start is None:
        raise UserError(f"{folder / STUDENT}: no student to start from; run python -m mmprofile.llm.distill first")
    target = folder / f"{STUDENT}_{name}"
    made_of = {
        "start": start, "seed": cfg.seed,
        "settings": plain(student_settings(cfg)) | plain(settings) | {"vote": plain(cfg.vote)}, "purpose": purpose(cfg),
    }  # fmt: skip
    if finished(target, made_of):
        print(f"{target}: found")
        return
    people = [person for person in read_people(cfg, schema) if person.split == "train"]
    student = Student(str(folder / STUDENT), student_settings(cfg), schema)
    checkpoints = begin(target, made_of)
    labels = vote_rollouts(student, people, cfg, folder)
    path, voted_by = folder / f"frozen_{name}.json", digest(made_of)
    if not path.exists() or Frozen.load(path).origin != voted_by:
        freeze(labels, name == "confidence", voted_by).save(path)
    frozen = Frozen.load(path)
    kept = set(moderate(labels, settings.low, settings.high))
    taught = [person for person in people if person.user_id in kept]
    print(
        f"{len(taught):,} of {len(frozen.targets):,} people are of moderate difficulty (mean agreement of {settings.rollouts} "
        f"answers from {settings.low} to {settings.high}); {len(people) - len(frozen.targets):,} more are not needed, or too "
        f"long for the student's context of {student.room:,} tokens",
        flush=True,
    )
    if len(taught) < settings.people:
        raise UserError(
            f"a step is to learn from reinforce.people={settings.people} people, and there are {len(taught)}: give less, or "
            "widen reinforce.low and reinforce.high"
        )
    clock, before = time.perf_counter(), frozen.digest()
    history = train(student, taught, frozen, cfg, checkpoints)
    if frozen.digest() != before:
        raise RuntimeError("the frozen labels changed during training")
    text = "".join(json.dumps(row) + "\n" for row in history)
    (folder / f"reinforce_{name}.jsonl").write_text(text, encoding="utf-8")
    finish(student, target, made_of)
    print(f"{target}: {describe(history)}; {time.perf_counter() - clock:.0f} s")


def vote_rollouts(student: Student, people: Sequence[Person], cfg: Any, folder: Path) -> list[Label]:
    """The student's own votes, of people in random order until there are as many of moderate difficulty as the training visits;
    of those whom it cannot read, none.

    Its answers are kept in a journal, so that none is drawn twice.
    """
    settings, schema = cfg.reinforce, student.schema
    how = replace(
        cast(VoteConfig, OmegaConf.to_object(cfg.vote)),
        method=settings.reward,
        calibration="none",
        unknown_rate=None,
    )
    order = random.Random(cfg.seed).sample(list(people), len(people))
    label = "rollouts" if cfg.progress else None
    drawn = rollouts(
        student, order, settings.rollouts, settings.temperature, 1.0, cfg.seed, Journal(folder / ROLLOUTS), label
    )
    answers: list[list[Record]] = []  # of each person
    labels: list[Label] = []
    for part in drawn:
        answers += part
        polled = [person for person, own in zip(order, answers, strict=False) if own]
        labels, _ = vote(polled, ballots(polled, schema, chain(*answers)), schema, how)
        if len(moderate(labels, settings.low, settings.high)) >= settings.steps * settings.people:
            break
    return labels


def describe(history: Sequence[dict[str, float]]) -> str:
    """The first and the last tenth of the steps."""
    tenth = max(1, len(history) // 10)
    parts = []
    for name in ("reward", "frac_reward_zero_std", "parse_faults", "entropy"):
        values = [row[name] for row in history if name in row]
        if values:
            first, last = (sum(part) / len(part) for part in (values[:tenth], values[-tenth:]))
            parts.append(f"{name} {first:.3f} -> {last:.3f}")
    parts += [f"kl {row['kl']:.3f}" for row in history[-1:]]
    return f"{len(history)} steps; " + ", ".join(parts)
