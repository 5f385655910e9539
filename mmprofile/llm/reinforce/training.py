"""A student that teaches itself: ``python -m mmprofile.llm.reinforce data=demo reinforce.reward=confidence|majority``.

Its own answers are voted once, of as many people as the training visits; the winners and their weights are frozen. GRPO by TRL then
rewards agreeing with them. ``majority`` is after TTRL (Zuo et al., 2025): the plain majority's value, every attribute and person
weighing alike. TTRL itself rewards 1 or 0 and filters nobody; here nothing but vote and weights is told apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from mmprofile.llm.answers import parse_answer
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.rewards import Frozen, reward
from mmprofile.llm.stage import messages
from mmprofile.llm.student import Student, condense
from mmprofile.llm.student_folder import NoLastCheckpoint, last_checkpoint
from mmprofile.profile.schema import Schema

EVERY, ASKED_ABOUT = 10, 16  # steps, and people, for the divergence


class Reward:
    """TRL's reward function: what answers earn against the frozen labels; counts those that are not understood.

    Attributes:
        sample: of the last step a person, an answer and what it earned.
    """

    def __init__(self, frozen: Frozen, schema: Schema) -> None:
        self.frozen, self.schema = frozen, schema
        self.__name__ = "agreement"
        self.sample: dict[str, Any] = {}

    def __call__(
        self, completions: Sequence[Any], user_id: Sequence[str], log_metric: Any = None, **_: Any
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


class Health(TrainerCallback):
    """Adds a sampled answer to the metrics of each step, and to every tenth and the last how far the student has gone from
    where it started.

    Args:
        student: that is trained.
        start: the same before; it is not trained.
        people: whom both are asked about.
        agreement: the reward, which knows the answers of the step.
    """

    def __init__(self, student: Student, start: Student, people: Sequence[Person], agreement: Reward) -> None:
        self.student, self.start, self.people, self.agreement = student, start, people, agreement

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if "reward" not in state.log_history[-1]:
            return
        state.log_history[-1]["sample"] = self.agreement.sample
        if state.global_step % EVERY == 0 or state.global_step == state.max_steps:
            with torch.random.fork_rng():
                state.log_history[-1]["kl"] = divergence(self.student, self.start, self.people, seed=args.seed)


def divergence(student: Student, start: Student, people: Sequence[Person], seed: int) -> float:
    """KL(student || start) for each token, in nats, estimated from one answer of the student's about each person: the mean of
    log(student / start), which is 0 for the same student and can come out a little below for a similar one."""
    training = student.model.training
    answers = [(p, text) for p, some in zip(people, student.write(people, 1, 1.0, seed), strict=True) for text in some]
    sums = [one.log_probabilities(answers) for one in (student, start)]
    student.model.train(training)
    return float(torch.cat([new - old for new, old in zip(*sums, strict=True)]).mean())


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
    agreement = Reward(frozen, student.schema)
    start = Student(student.name, student.settings, student.schema)
    trainer = GRPOTrainer(
        student.model, agreement, args=made, train_dataset=Dataset.from_list(prompts),
        processing_class=student.tokenizer, peft_config=student.adapter(),
        callbacks=[NoLastCheckpoint(), Health(student, start, people[:ASKED_ABOUT], agreement)],
    )  # fmt: skip
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    student.keep(trainer.model)
    return [row for row in trainer.state.log_history if "reward" in row]
