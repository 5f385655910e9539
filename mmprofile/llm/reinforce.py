"""A student that teaches itself: ``python -m mmprofile.llm.reinforce data=demo reward=confidence|majority``.

Its own answers are voted once, of as many people as the training visits; the winners and their weights are frozen. GRPO by TRL then
rewards agreeing with them. ``majority`` is TTRL's reward (Zuo et al., 2025): the plain majority's value, every attribute and person
weighing alike.
"""

from mmprofile.config import check_command_line, entry_point

if __name__ == "__main__":
    check_command_line("llm")


import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from omegaconf import OmegaConf
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer

from mmprofile.errors import UserError
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.distill import (
    MADE_OF,
    STUDENT,
    NoLastCheckpoint,
    begin,
    finish,
    finished,
    last_checkpoint,
    plain,
    student_settings,
)
from mmprofile.llm.journal import Journal, Record
from mmprofile.llm.labels import Label
from mmprofile.llm.people import Person
from mmprofile.llm.rewards import Frozen, freeze, moderate, reward
from mmprofile.llm.rollouts import rollouts
from mmprofile.llm.student import Student, condense
from mmprofile.llm.teacher import digest, messages, open_schema, purpose, read_people, stage_folder
from mmprofile.llm.vote import ballots, vote
from mmprofile.profile import Schema
from mmprofile.settings import VoteConfig

REWARDS = {"confidence": "confidence", "majority": "majority"}
"""``reward`` -> how the rollouts are voted."""
ROLLOUTS = "rollouts.jsonl"


def main(cfg: Any) -> None:
    """Entry point: rollouts, frozen labels, GRPO; the same command again goes on where it stopped."""
    schema, folder = open_schema(cfg), stage_folder(cfg)
    settings, name = cfg.reinforce, cfg.reinforce.reward
    if name not in REWARDS:
        raise UserError(f"reinforce.reward={name!r} is not one of {', '.join(REWARDS)}")
    if not (folder / STUDENT / MADE_OF).is_file():
        raise UserError(f"{folder / STUDENT}: no student to start from; run python -m mmprofile.llm.distill first")
    target = folder / f"{STUDENT}_{name}"
    made_of = {
        "start": json.loads((folder / STUDENT / MADE_OF).read_text(encoding="utf-8")), "seed": cfg.seed,
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
        f"answers from {settings.low} to {settings.high}); {len(people) - len(frozen.targets):,} more are not needed",
        flush=True,
    )
    if not taught:
        raise UserError("nobody to learn from: widen reinforce.low and reinforce.high")
    clock, before = time.perf_counter(), frozen.digest()
    history = train(student, taught, frozen, cfg, checkpoints)
    if frozen.digest() != before:
        raise RuntimeError("the frozen labels changed during training")
    text = "".join(json.dumps(row) + "\n" for row in history)
    (folder / f"reinforce_{name}.jsonl").write_text(text, encoding="utf-8")
    finish(student, target, made_of)
    print(f"{target}: {describe(history)}; {time.perf_counter() - clock:.0f} s")


def vote_rollouts(student: Student, people: Sequence[Person], cfg: Any, folder: Path) -> list[Label]:
    """The student's own votes, of people in random order until there are as many of moderate difficulty as the training visits.

    Its answers are kept in a journal, so that none is drawn twice.
    """
    settings, schema = cfg.reinforce, student.schema
    how = replace(
        cast(VoteConfig, OmegaConf.to_object(cfg.vote)),
        method=REWARDS[settings.reward],
        calibration="none",
        unknown_rate=None,
    )
    order = random.Random(cfg.seed).sample(list(people), len(people))
    label = "rollouts" if cfg.progress else None
    drawn = rollouts(
        student, order, settings.rollouts, settings.temperature, 1.0, cfg.seed, Journal(folder / ROLLOUTS), label
    )
    answers: list[list[Record]] = []
    labels: list[Label] = []
    for part in drawn:
        answers += part
        polled = order[: len(answers)]
        labels, _ = vote(polled, ballots(polled, schema, chain(*answers)), schema, how)
        if len(moderate(labels, settings.low, settings.high)) >= settings.steps * settings.people:
            break
    return labels


class Reward:
    """TRL's reward function: what answers earn against the frozen labels; counts those that are not understood."""

    def __init__(self, frozen: Frozen, schema: Schema) -> None:
        self.frozen, self.schema = frozen, schema
        self.__name__ = "agreement"

    def __call__(
        self, completions: Sequence[Any], user_id: Sequence[str], log_metric: Any = None, **_: Any
    ) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        if log_metric is not None:
            faulty = [bool(parse_answer(text, self.schema).faults) for text in texts]
            log_metric("parse_faults", sum(faulty) / len(faulty))
        return [reward(text, self.frozen.targets[user], self.schema) for text, user in zip(texts, user_id, strict=True)]


def train(student: Student, people: Sequence[Person], frozen: Frozen, cfg: Any, folder: Path) -> list[dict[str, float]]:
    """GRPO in place. ``scale_rewards="none"``: scaling by a group's deviation would cancel the weights, which are the same for
    all answers of a group. Returns a row of health metrics for each step."""
    settings, gpu = cfg.reinforce, torch.cuda.is_available()
    prompts = [
        {
            "prompt": messages(condense(person, student.settings.reads), student.schema, student.settings.prompt),
            "user_id": person.user_id,
        }
        for person in people
    ]
    made = GRPOConfig(
        output_dir=str(folder), max_steps=settings.steps, per_device_train_batch_size=settings.people * settings.group,
        num_generations=settings.group, max_completion_length=student.settings.max_new_tokens, learning_rate=student.settings.rl_lr,
        lr_scheduler_type="constant", temperature=settings.temperature, epsilon=settings.clip[0],
        epsilon_high=settings.clip[1], beta=settings.beta, scale_rewards="none", use_cpu=not gpu, bf16=gpu,
        use_vllm=settings.vllm, vllm_mode="colocate", save_strategy="steps", save_steps=10, save_total_limit=1,
        logging_steps=1, report_to="none", disable_tqdm=not cfg.progress, seed=cfg.seed, top_k=0,
    )  # fmt: skip
    trainer = GRPOTrainer(
        student.model, Reward(frozen, student.schema), args=made, train_dataset=Dataset.from_list(prompts),
        processing_class=student.tokenizer, peft_config=student.adapter(), callbacks=[NoLastCheckpoint()],
    )  # fmt: skip
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    student.keep(trainer.model)
    return [row for row in trainer.state.log_history if "reward" in row]


def describe(history: Sequence[dict[str, float]]) -> str:
    """The first and the last tenth of the steps."""
    tenth = max(1, len(history) // 10)
    parts = []
    for name in ("reward", "frac_reward_zero_std", "parse_faults", "entropy"):
        values = [row[name] for row in history if name in row]
        if values:
            first, last = (sum(part) / len(part) for part in (values[:tenth], values[-tenth:]))
            parts.append(f"{name} {first:.3f} -> {last:.3f}")
    return f"{len(history)} steps; " + ", ".join(parts)


if __name__ == "__main__":
    entry_point("llm", main)
