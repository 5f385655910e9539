"""Supervised fine-tuning by TRL: a student reads a person and learns to write every attribute's rationale, value and confidence."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from trl import SFTConfig, SFTTrainer

from mmprofile.config.llm_settings import DistillConfig, LlmConfig
from mmprofile.errors import UserError
from mmprofile.inputs.batch import IGNORE
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.labels import Label
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import NoLastCheckpoint, in_parts, train_student
from mmprofile.llm.trackers import open_trackers
from mmprofile.profile.schema import UNKNOWN, Schema


class Examples(NamedTuple):
    """What a student is trained on.

    Attributes:
        rows: ``input_ids``, ``labels`` (IGNORE in the prompt) and ``weights``, a number for each token.
        unlabelled: people without labels.
        too_long: people whose texts leave no room for an answer in at least one epoch.
        unwritable: people with an answer that is longer than the student's ``max_new_tokens``.
    """

    rows: list[dict[str, Any]]
    unlabelled: list[str]
    too_long: list[str]
    unwritable: list[str]


def target_answer(labels: Sequence[Label], schema: Schema) -> str:
    """Return the answer that a student learns to write about a person with these labels."""
    claims = {
        label.attribute: Claim(value=label.label, confidence=label.confidence, rationale=label.rationale)
        for label in labels
    }
    return render_answer(claims, schema)


def build_examples(
    people: Sequence[Person], labels: Sequence[Label], student: Student, settings: DistillConfig, seed: int
) -> Examples:
    """Return the tokens of every person, once for each epoch, with other texts left out each time.

    Args:
        people: whom the student reads.
        labels: the values that it learns to write about them.
        student: whose tokens.
        settings: the ``distill`` of ``conf/llm.yaml``.
        seed: of the texts that are left out.

    Raises:
        UserError: ``thin`` is no share.
    """
    if not 0 <= settings.thin <= 1:
        raise UserError(f"distill.thin={settings.thin} is not a share (0 to 1)")
    by_user: dict[str, list[Label]] = {}
    for label in labels:
        by_user.setdefault(label.user_id, []).append(label)
    examples, rng = Examples(rows=[], unlabelled=[], too_long=[], unwritable=[]), random.Random(seed)
    for epoch in range(student.settings.epochs):
        for person in people:
            of_person = by_user.get(person.user_id)
            if of_person is None:
                if not epoch:
                    examples.unlabelled.append(person.user_id)
                continue
            text = target_answer(of_person, student.schema)
            answer, spans = student.answer(text)
            if len(answer) > student.settings.max_new_tokens:
                if not epoch:
                    examples.unwritable.append(person.user_id)
                continue
            quotes = [label.rationale for label in of_person if label.label != UNKNOWN]
            prompt = student.prompt(thin_texts(person, quotes, settings.thin, rng))
            if len(prompt) > student.room:
                examples.too_long.append(person.user_id)
                continue
            weights = [1.0] * len(answer)
            if settings.weighted:
                weights = token_weights(text, spans, {label.attribute: label.confidence for label in of_person})
            examples.rows.append(
                {
                    "input_ids": prompt + answer,
                    "labels": [IGNORE] * len(prompt) + answer,
                    "weights": [0.0] * len(prompt) + weights,
                }
            )
    return examples._replace(too_long=[*dict.fromkeys(examples.too_long)])


def thin_texts(person: Person, rationales: Sequence[str], share: float, rng: random.Random) -> Person:
    """Return a person without a share of their texts, drawn at random; a text that a rationale quotes stays.

    A person with a rationale that no text contains keeps all texts: its evidence could be in any of them.
    """
    quotes = [rationale.lower() for rationale in rationales if rationale]
    texts = [" ".join(review.split()).lower() for review in person.reviews]
    reviews = tuple(
        review
        for review, text in zip(person.reviews, texts, strict=True)
        if rng.random() >= share or any(quote in text for quote in quotes)
    )
    if not all(any(quote in text for text in texts) for quote in quotes):
        return person
    return replace(person, reviews=reviews or person.reviews[:1])


def token_weights(text: str, spans: Sequence[tuple[int, int]], confidences: Mapping[str, float]) -> list[float]:
    """Return the weight of each token of an answer: the confidence of the attribute that it stands in.

    An attribute reaches from its name to the next one's. Tokens behind the last attribute weigh 1.

    Args:
        text: as :func:`target_answer` writes it.
        spans: the characters (from, to) of each token.
        confidences: of the attributes, in the text's order.
    """
    starts = [(text.index(f'"{name}": {{'), confidence) for name, confidence in confidences.items()]
    weights = []
    for begin, end in spans:
        middle = (begin + end) / 2
        up_to_here = [confidence for start, confidence in starts if start <= middle]
        weights.append(up_to_here[-1] if up_to_here and begin < len(text) else 1.0)
    return weights


class AnswerCollator:
    """Makes tensors (R, N), padded on the right, of R rows: ``input_ids``, ``labels``, ``weights`` and ``attention_mask``.

    Args:
        pad: the id that fills ``input_ids`` up.
    """

    def __init__(self, pad: int) -> None:
        self.fill = {"input_ids": pad, "labels": IGNORE, "weights": 0.0}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        batch = {
            name: torch.tensor([[*row[name], *[fill] * (width - len(row[name]))] for row in rows])
            for name, fill in self.fill.items()
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        return batch | {"attention_mask": (torch.arange(width)[None] < lengths[:, None]).long()}


class WeightedTrainer(SFTTrainer):
    """TRL's trainer with a loss whose tokens are weighted."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the cross-entropy (,) of the answers' tokens times their weights, over the number of tokens.

        Logits are computed of these tokens only: those of the prompts would take most of the memory of a step.
        """
        labels, weights = inputs["labels"][:, 1:], inputs["weights"][:, 1:]
        learned = labels != IGNORE
        with predicting(model, learned):
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        losses = F.cross_entropy(outputs.logits.float(), labels[learned], reduction="none")
        count = learned.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (losses * weights[learned]).sum() / count
        return (loss, outputs) if return_outputs else loss


@contextmanager
def predicting(model: Any, chosen: Tensor) -> Iterator[None]:
    """Have a causal model predict T chosen tokens of its batch only, so that its logits are (T, V).

    Its output head reads their hidden states alone. What the model does to logits behind it, a soft cap for instance, stays.

    Args:
        model: of transformers, with an adapter or without.
        chosen: (R, N - 1), which of the tokens from the second on are predicted.
    """
    head = extract_model_from_parallel(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, hidden: hidden[0][:, :-1][chosen])
    try:
        yield
    finally:
        handle.remove()


def train(student: Student, rows: Sequence[Mapping[str, Any]], cfg: LlmConfig, checkpoints: Path) -> float:
    """Train the student in place, from its last checkpoint where there is one.

    Args:
        student: to train.
        rows: the :class:`Examples`'.
        cfg: whether to show progress, and the seed.
        checkpoints: the folder for them.

    Returns:
        The mean loss.
    """
    settings, gpu = student.settings, torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(checkpoints), num_train_epochs=1, **in_parts(settings, settings.batch_size),
        learning_rate=settings.lr, lr_scheduler_type="cosine", warmup_steps=0.05, use_cpu=not gpu, bf16=gpu,
        save_strategy="steps", save_steps=0.25, save_total_limit=1, logging_steps=1, report_to="none",
        disable_tqdm=not cfg.progress, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length", seed=cfg.seed, max_length=None,
    )  # fmt: skip
    trainer = WeightedTrainer(
        **student.trainable(), args=arguments, train_dataset=Dataset.from_list([dict(row) for row in rows]),
        data_collator=AnswerCollator(student.tokenizer.pad_token_id), processing_class=student.tokenizer,
        callbacks=[NoLastCheckpoint(), *open_trackers(cfg.trackers, checkpoints)],
    )  # fmt: skip
    train_student(student, trainer, checkpoints)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]  # also those before a checkpoint
    return float(sum(losses) / len(losses))
