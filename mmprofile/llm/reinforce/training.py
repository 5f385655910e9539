"""GRPO by TRL: a student learns to agree with labels that were voted from its own answers.

Shapes: B answers, T tokens, A attributes.
"""

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from mmprofile.config.llm_settings import LlmConfig, ReinforceConfig
from mmprofile.llm.answers import Spellings, parse_answer
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.divergence import Weights, divergence, keep_weights
from mmprofile.llm.reinforce.rewards import FrozenLabels, score_answer, vote_group
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import NoLastCheckpoint, in_parts, train_student
from mmprofile.llm.trackers import open_trackers
from mmprofile.profile.schema import Schema

DIVERGENCE_STEPS, DIVERGENCE_PEOPLE = 10, 16
"""The divergence from the start is measured after each so many steps, on so many people."""
_NAME = re.compile(r'"([^"\\]*)"\s*:\s*\{')  # of an attribute in an answer


class AgreementReward:
    """TRL's reward function: what answers earn, on the mean of their attributes. It logs the share of answers with faults.

    Attributes:
        earned: of each answer of the last step, what each of the A attributes earned.
        sample: a person of the last step, an answer about them and what it earned.
    """

    def __init__(self, frozen: FrozenLabels, schema: Schema, settings: ReinforceConfig) -> None:
        self.frozen, self.schema, self.settings = frozen, schema, settings
        self.__name__ = "agreement"
        self.earned: list[list[float]] = []
        self.sample: dict[str, Any] = {}

    def __call__(
        self, completions: Sequence[Any], user_id: Sequence[str], log_metric: Any = None, **kwargs: Any
    ) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        parsed = [parse_answer(text, self.schema) for text in texts]
        if log_metric is not None:
            log_metric("parse_faults", sum(bool(answer.faults) for answer in parsed) / len(parsed))
        self.earned = []
        for start in range(0, len(parsed), self.settings.group):
            group = [answer.claims for answer in parsed[start : start + self.settings.group]]
            targets = self.frozen.targets.get(user_id[start], {})
            if self.settings.vote == "online":
                targets = vote_group(group, targets, self.schema)
            self.earned += [score_answer(claims, targets, self.settings.reward) for claims in group]
        means = [sum(earned) / len(earned) for earned in self.earned]
        self.sample = {"user_id": user_id[0], "answer": texts[0], "earned": means[0]}
        return [*means]


def visits(people: Sequence[Person], settings: ReinforceConfig, seed: int) -> list[Person]:
    """Return whom each step visits, ``settings.people`` after another: all in random order, then all again in another.

    They are listed for all steps, so that the trainer makes one pass, which it can resume exactly.
    """
    rng, wanted, order = random.Random(seed), settings.steps * settings.people, list[Person]()
    while len(order) < wanted:
        order += rng.sample(list(people), len(people))
    return order[:wanted]


class CreditTrainer(GRPOTrainer):
    """TRL's trainer with an advantage for each attribute: only the tokens of an attribute pay for its mistakes."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored: dict[str, Any] = super()._generate_and_score_completions(inputs)
        agreement: Any = self.reward_funcs[0]
        if agreement.settings.credit == "attribute":
            earned = torch.tensor(agreement.earned, device=scored["advantages"].device)
            advantages = attribute_advantages(earned, agreement.settings.group, self.scale_rewards == "group")
            owners = [
                attribute_of_tokens(ids, self.processing_class, agreement.schema) for ids in scored["completion_ids"]
            ]
            owner = torch.tensor(owners, device=earned.device)
            scored["advantages"] = torch.cat([advantages, advantages.mean(1, keepdim=True)], 1).gather(1, owner)
        return scored


def attribute_advantages(earned: Tensor, group: int, scaled: bool) -> Tensor:
    """Return how much more each attribute earned than in the mean of its group's answers, (B, A).

    Args:
        earned: of B answers, whole groups after another, (B, A).
        group: answers of a group.
        scaled: divide by the group's standard deviation, as GRPO does first.
    """
    grouped = earned.view(-1, group, earned.shape[1])
    advantages = grouped - grouped.mean(1, keepdim=True)
    if scaled:
        advantages = advantages / (grouped.std(1, keepdim=True) + 1e-4)
    return advantages.view_as(earned)


def attribute_of_tokens(ids: Tensor, tokenizer: Any, schema: Schema) -> list[int]:
    """Return for each token of an answer the number of the attribute that it stands in; A where it stands in none.

    An attribute reaches from its name to the next attribute's, or to the answer's end. Where it stands there twice, the last
    counts, as for :func:`mmprofile.llm.answers.parse_answer`.

    Args:
        ids: of the answer, (T,).
        tokenizer: that they are of.
        schema: the A attributes.
    """
    names, tokens = Spellings(schema.names), ids.tolist()

    def length(count: int) -> int:
        return len(tokenizer.decode(tokens[:count], skip_special_tokens=True))

    text = tokenizer.decode(tokens, skip_special_tokens=True)
    starts = {names.find(match[1]): match.start() for match in _NAME.finditer(text)}
    starts.pop(None, None)
    none = len(schema.names)
    owners = [none] * len(tokens)
    begins = sorted((start, schema.names.index(name)) for name, start in starts.items() if name is not None)
    for start, number in begins:
        first = bisect_right(range(len(tokens)), start, key=lambda token: length(token + 1))
        owners[first:] = [number] * (len(tokens) - first)
    end = bisect_left(range(len(tokens)), len(text), key=lambda token: length(token + 1)) + 1
    return owners[:end] + [none] * (len(tokens) - end)


class HealthMetrics(TrainerCallback):
    """Adds a sampled answer to the metrics of each step, and to those of every tenth and the last the divergence from the start.

    Args:
        student: that is trained.
        start: its weights before.
        people: whom both are asked about.
        agreement: the reward, which knows the answers of the step.
    """

    def __init__(self, student: Student, start: Weights, people: Sequence[Person], agreement: AgreementReward) -> None:
        self.student, self.start, self.people, self.agreement = student, start, people, agreement

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        row: dict[str, Any] = state.log_history[-1]
        if "reward" not in row:
            return
        row["sample"] = self.agreement.sample
        if state.global_step % DIVERGENCE_STEPS == 0 or state.global_step == state.max_steps:
            with torch.random.fork_rng():
                row["kl"] = divergence(self.student, self.start, self.people, seed=args.seed)
            kwargs["logs"]["kl"] = row["kl"]  # for the trackers


def train(
    student: Student,
    people: Sequence[Person],
    frozen: FrozenLabels,
    settings: ReinforceConfig,
    cfg: LlmConfig,
    checkpoints: Path,
) -> list[dict[str, Any]]:
    """Train the student in place, from its last checkpoint where there is one.

    Args:
        student: to train.
        people: whom it writes about.
        frozen: the labels that it is rewarded for.
        settings: of the recipe.
        cfg: whether to show progress, and the seed.
        checkpoints: the folder for them.

    Returns:
        A row of health metrics for each update; those of a draw stand in the row of its first.
    """
    gpu = torch.cuda.is_available()
    prompts = [
        {"prompt": student.chat(person), "user_id": person.user_id} for person in visits(people, settings, cfg.seed)
    ]
    arguments = GRPOConfig(
        output_dir=str(checkpoints), max_steps=settings.steps * settings.updates, num_generations=settings.group,
        **in_parts(student.settings, settings.people * settings.group), num_iterations=settings.updates,
        scale_rewards=settings.scale, max_completion_length=student.settings.max_new_tokens,
        learning_rate=student.settings.rl_lr, lr_scheduler_type="constant", temperature=settings.temperature,
        epsilon=settings.clip[0], epsilon_high=settings.clip[1], beta=settings.beta, use_cpu=not gpu, bf16=gpu,
        use_vllm=settings.vllm, vllm_mode="colocate",
        vllm_gpu_memory_utilization=settings.vllm_memory, vllm_max_model_length=cfg.vllm.max_model_len,
        save_strategy="steps", save_steps=10, save_total_limit=1,
        logging_steps=1, report_to="none", disable_tqdm=not cfg.progress, seed=cfg.seed, top_k=0,
        shuffle_dataset=False, chat_template_kwargs=dict(student.settings.template),
    )  # fmt: skip
    agreement = AgreementReward(frozen, student.schema, settings)
    trainer = CreditTrainer(
        **student.trainable(), reward_funcs=agreement, args=arguments, train_dataset=Dataset.from_list(prompts),
        processing_class=student.tokenizer, callbacks=[NoLastCheckpoint()],
    )  # fmt: skip
    health = HealthMetrics(student, keep_weights(student.model), people[:DIVERGENCE_PEOPLE], agreement)
    for callback in (health, *open_trackers(cfg.trackers, checkpoints)):
        trainer.add_callback(callback)
    train_student(student, trainer, checkpoints)
    return [row for row in trainer.state.log_history if "loss" in row]
