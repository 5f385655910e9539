"""GRPO by TRL: a student learns to agree with labels that were voted from its own answers and frozen.

The reward ``majority`` is after TTRL (Zuo et al., 2025): the plain majority's value, every attribute and person weighing alike.
TTRL itself rewards 1 or 0 and filters nobody; here the two rewards differ in votes and weights only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.divergence import Weights, divergence, keep_weights
from mmprofile.llm.reinforce.rewards import FrozenLabels, reward
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import NoLastCheckpoint, in_parts, train_student
from mmprofile.llm.trackers import open_trackers
from mmprofile.profile.schema import Schema

DIVERGENCE_STEPS, DIVERGENCE_PEOPLE = 10, 16
"""The divergence from the start is measured after each so many steps, on so many people."""


class AgreementReward:
    """TRL's reward function: what answers earn against the frozen labels. It logs the share of answers with faults.

    Attributes:
        sample: a person of the last step, an answer about them and what it earned.
    """

    def __init__(self, frozen: FrozenLabels, schema: Schema) -> None:
        self.frozen, self.schema = frozen, schema
        self.__name__ = "agreement"
        self.sample: dict[str, Any] = {}

    def __call__(
        self, completions: Sequence[Any], user_id: Sequence[str], log_metric: Any = None, **kwargs: Any
    ) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        if log_metric is not None:
            faulty = [bool(parse_answer(text, self.schema).faults) for text in texts]
            log_metric("parse_faults", sum(faulty) / len(faulty))
        earned = [
            reward(text, self.frozen.targets[user], self.schema) for text, user in zip(texts, user_id, strict=True)
        ]
        self.sample = {"user_id": user_id[0], "answer": texts[0], "earned": earned[0]}
        return [*earned]


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
    student: Student, people: Sequence[Person], frozen: FrozenLabels, cfg: LlmConfig, checkpoints: Path
) -> list[dict[str, Any]]:
    """Train the student in place, from its last checkpoint where there is one.

    ``scale_rewards="none"``: scaling by a group's deviation would cancel the weights, which all answers of a group share.

    Args:
        student: to train.
        people: whom it writes about.
        frozen: the labels that it is rewarded for.
        cfg: its ``reinforce``, whether to show progress, and the seed.
        checkpoints: the folder for them.

    Returns:
        A row of health metrics for each step.
    """
    settings, gpu = cfg.reinforce, torch.cuda.is_available()
    prompts = [{"prompt": student.chat(person), "user_id": person.user_id} for person in people]
    arguments = GRPOConfig(
        output_dir=str(checkpoints), max_steps=settings.steps, **in_parts(student.settings, settings.people * settings.group),
        num_generations=settings.group, max_completion_length=student.settings.max_new_tokens, learning_rate=student.settings.rl_lr,
        lr_scheduler_type="constant", temperature=settings.temperature, epsilon=settings.clip[0],
        epsilon_high=settings.clip[1], beta=settings.beta, scale_rewards="none", use_cpu=not gpu, bf16=gpu,
        use_vllm=settings.vllm, vllm_mode="colocate",
        vllm_gpu_memory_utilization=settings.vllm_memory, vllm_max_model_length=cfg.vllm.max_model_len,
        save_strategy="steps", save_steps=10, save_total_limit=1,
        logging_steps=1, report_to="none", disable_tqdm=not cfg.progress, seed=cfg.seed, top_k=0,
        chat_template_kwargs=dict(student.settings.template),
    )  # fmt: skip
    agreement = AgreementReward(frozen, student.schema)
    trainer = GRPOTrainer(
        **student.trainable(), reward_funcs=agreement, args=arguments, train_dataset=Dataset.from_list(prompts),
        processing_class=student.tokenizer, callbacks=[NoLastCheckpoint()],
    )  # fmt: skip
    health = HealthMetrics(student, keep_weights(student.model), people[:DIVERGENCE_PEOPLE], agreement)
    for callback in (health, *open_trackers(cfg.trackers, checkpoints)):
        trainer.add_callback(callback)
    train_student(student, trainer, checkpoints)
    return [row for row in trainer.state.log_history if "reward" in row]
