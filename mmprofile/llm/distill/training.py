"""Voted labels -> a student that writes them: ``python -m mmprofile.llm.distill data=demo student=tiny``.

Supervised fine-tuning by TRL: the student reads a person and learns rationale, value and calibrated confidence of every attribute.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.labels import Label
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import NoLastCheckpoint, last_checkpoint
from mmprofile.profile.schema import UNKNOWN, Schema

IGNORE = -100


class Examples(NamedTuple):
    """What a student is trained on.

    Attributes:
        rows: ``input_ids``, ``labels`` (IGNORE where it reads) and ``weights``, a number a token.
        unlabelled: people without labels, who teach nothing.
        too_long: people whose texts, in one epoch or more, leave no room for an answer.
        unwritable: people with an answer that is longer than the student's ``max_new_tokens``.
    """

    rows: list[dict[str, Any]]
    unlabelled: list[str]
    too_long: list[str]
    unwritable: list[str]


def target(labels: Sequence[Label], schema: Schema) -> str:
    """What a student is to write of a person."""
    return render_answer({one.attribute: Claim(one.label, one.confidence, one.rationale) for one in labels}, schema)


def examples(people: Sequence[Person], labels: Sequence[Label], student: Student, settings: Any, seed: int) -> Examples:
    """Tokens of every person, once for each epoch, with other texts left out each time.

    Args:
        people: who is read.
        labels: what is written of them.
        student: whose tokens.
        settings: the ``distill`` of ``conf/llm.yaml``.
        seed: of what is left out.

    Raises:
        UserError: ``thin`` is no share.
    """
    if not 0 <= settings.thin <= 1:
        raise UserError(f"distill.thin={settings.thin} is not a share (0 to 1)")
    by_user: dict[str, list[Label]] = {}
    for label in labels:
        by_user.setdefault(label.user_id, []).append(label)
    made, rng = Examples([], [], [], []), random.Random(seed)
    for epoch in range(student.settings.epochs):
        for person in people:
            own = by_user.get(person.user_id)
            if own is None:
                if not epoch:
                    made.unlabelled.append(person.user_id)
                continue
            text = target(own, student.schema)
            written, spans = student.answer(text)
            if len(written) > student.settings.max_new_tokens:
                if not epoch:
                    made.unwritable.append(person.user_id)
                continue
            quotes = [one.rationale for one in own if one.label != UNKNOWN]
            read = student.prompt(thinned(person, quotes, settings.thin, rng))
            if len(read) > student.room:
                made.too_long.append(person.user_id)
                continue
            weights = (
                token_weights(text, spans, {one.attribute: one.confidence for one in own})
                if settings.weighted
                else None
            )
            made.rows.append(
                {
                    "input_ids": read + written,
                    "labels": [IGNORE] * len(read) + written,
                    "weights": [0.0] * len(read) + (weights or [1.0] * len(written)),
                }
            )
    return made._replace(too_long=[*dict.fromkeys(made.too_long)])


def thinned(person: Person, rationales: Sequence[str], share: float, rng: random.Random) -> Person:
    """A person without a share of their texts, at random; a text that a rationale quotes stays.

    Who has a rationale that no text contains is read whole: what it goes by could be anywhere.
    """
    quotes = [rationale.lower() for rationale in rationales if rationale]
    texts = [" ".join(review.split()).lower() for review in person.reviews]
    kept = tuple(
        review
        for review, text in zip(person.reviews, texts, strict=True)
        if rng.random() >= share or any(quote in text for quote in quotes)
    )
    if not all(any(quote in text for text in texts) for quote in quotes):
        return person
    return replace(person, reviews=kept or person.reviews[:1])


def token_weights(text: str, spans: Sequence[tuple[int, int]], confidences: Mapping[str, float]) -> list[float]:
    """What each token of an answer weighs: as much as the attribute is confident that it stands in, from the attribute's name to
    the next one's; 1 behind the last.

    Args:
        text: as :func:`target` writes it.
        spans: the characters of each token.
        confidences: of the attributes, in the text's order.
    """
    begins = [(text.index(f'"{name}": {{'), confidence) for name, confidence in confidences.items()]
    found = []
    for start, end in spans:
        middle = (start + end) / 2
        own = [confidence for begin, confidence in begins if begin <= middle]
        found.append(own[-1] if own and start < len(text) else 1.0)
    return found


class Collator:
    """Rows -> tensors of (B, T), padded on the right."""

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


class Trainer(SFTTrainer):
    """TRL's, with a loss whose tokens are weighted."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy of the answers' tokens times their weights, over the number of tokens."""
        labels, weights = inputs["labels"][:, 1:], inputs["weights"][:, 1:]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        losses = F.cross_entropy(
            outputs.logits[:, :-1].float().transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
        )
        count = (labels != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        loss = (losses * weights).sum() / count
        return (loss, outputs) if return_outputs else loss


def train(student: Student, rows: Sequence[Mapping[str, Any]], cfg: Any, folder: Path) -> float:
    """Trains the student in place; a killed run goes on from its last checkpoint. Returns the mean loss."""
    settings, gpu = student.settings, torch.cuda.is_available()
    made = SFTConfig(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr, lr_scheduler_type="cosine", warmup_steps=0.05, use_cpu=not gpu, bf16=gpu,
        save_strategy="steps", save_steps=0.25, save_total_limit=1, logging_steps=1, report_to="none",
        disable_tqdm=not cfg.progress, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length", seed=cfg.seed, max_length=None,
    )  # fmt: skip
    trainer = Trainer(
        student.model, args=made, train_dataset=Dataset.from_list([dict(row) for row in rows]),
        data_collator=Collator(student.tokenizer.pad_token_id), processing_class=student.tokenizer,
        peft_config=student.adapter(), callbacks=[NoLastCheckpoint()],
    )  # fmt: skip
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    student.keep(trainer.model)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]  # also those before a checkpoint
    return float(sum(losses) / len(losses))
