"""Voted labels -> a student that writes them: ``python -m mmprofile.llm.distill data=demo student=tiny``.

Supervised fine-tuning by TRL: the student reads a person and learns rationale, value and calibrated confidence of every attribute.
"""

from mmprofile.config import check_command_line, entry_point

if __name__ == "__main__":
    check_command_line("llm")


import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.labels import Label, load_labels
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student
from mmprofile.llm.teacher import digest, open_schema, purpose, read_people, stage_folder
from mmprofile.llm.vote import LABELS
from mmprofile.profile import UNKNOWN, Schema

STUDENT, MADE_OF = "student", "made_of.json"
CARD = """# Guesses at attributes of people

Made by mmprofile's auxiliary stage (`made_of.json` says of what) for this purpose: {purpose}.

{attributes}

The labels it learned from are votes of a language model, not facts; its confidences are as good as their calibration. Do not let a
guess alone decide anything about anyone, and do not use the model for another purpose.
"""
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


def main(cfg: Any) -> None:
    """Entry point: trains on the people of the split ``train``, writes the student's folder."""
    schema, folder = open_schema(cfg), stage_folder(cfg)
    labels = load_labels(folder / LABELS)
    made_of = {
        "labels": digest([asdict(label) for label in labels]), "student": cfg.student, "seed": cfg.seed,
        "settings": plain(student_settings(cfg)) | plain(cfg.distill), "purpose": purpose(cfg),
    }  # fmt: skip
    if finished(folder / STUDENT, made_of):
        print(f"{folder / STUDENT}: found")
        return
    people = [person for person in read_people(cfg, schema) if person.split == "train"]
    student = Student(cfg.student, student_settings(cfg), schema)
    made = examples(people, labels, student, cfg.distill, cfg.seed)
    if not made.rows:
        raise UserError(
            f"{folder / LABELS}: nothing to learn from {len(people):,} people of the split train: {describe(made, student)}"
        )
    print(
        f"{len(people):,} people of the split train; left out: {describe(made, student)}; {len(made.rows):,} examples",
        flush=True,
    )
    clock = time.perf_counter()
    loss = train(student, made.rows, cfg, begin(folder / STUDENT, made_of))
    finish(student, folder / STUDENT, made_of)
    print(f"{folder / STUDENT}: mean loss {loss:.3f}; {time.perf_counter() - clock:.0f} s")


def describe(made: Examples, student: Student) -> str:
    """Who is not learned from."""
    return (
        f"{len(made.unlabelled):,} without labels, {len(made.too_long):,} with texts too long for the student's context of "
        f"{student.room:,} tokens, {len(made.unwritable):,} with an answer longer than its max_new_tokens="
        f"{student.settings.max_new_tokens}"
    )


def student_settings(cfg: Any) -> Any:
    """What ``students`` says of the chosen one."""
    return cfg.students[cfg.student if cfg.student in cfg.students else "other"]


def plain(cfg: Any) -> dict[str, Any]:
    """A part of the configuration as plain data."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg))


def finished(folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether a student was made of just that."""
    return made_before(folder) == made_of and any(folder.glob("*.safetensors"))


def made_before(folder: Path) -> Any:
    """What a folder's contents were made of; None where that cannot be told."""
    try:
        return json.loads((folder / MADE_OF).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def begin(target: Path, made_of: Mapping[str, Any]) -> Path:
    """The folder of the checkpoints on the way to a student; those on the way to one made of anything else are removed."""
    folder = target.with_name(f"{target.name}.partial")
    if made_before(folder) != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_made_of(folder, made_of)
    return folder


def write_made_of(folder: Path, made_of: Mapping[str, Any]) -> None:
    """What :func:`finished` compares, whole or not at all."""
    partial = folder / f"{MADE_OF}.tmp"
    partial.write_text(json.dumps(made_of, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MADE_OF)


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that is whole: the trainer's state is written last."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def finish(student: Student, folder: Path, made_of: Mapping[str, Any]) -> None:
    """Saves a student with a card, and removes the checkpoints on the way."""
    (folder / MADE_OF).unlink(missing_ok=True)  # it was of the student that is overwritten
    student.save(folder)
    attributes = "\n".join(
        f"- {a.name}{' (sensitive)' if a.sensitive else ''}: {', '.join(a.values)}" for a in student.schema.attributes
    )
    (folder / "README.md").write_text(CARD.format(attributes=attributes, purpose=made_of["purpose"]), encoding="utf-8")
    write_made_of(folder, made_of)
    shutil.rmtree(folder.with_name(f"{folder.name}.partial"))


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


class NoLastCheckpoint(TrainerCallback):
    """The student itself is saved at the end; training that is resumed from the last step would take one step more."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False


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


if __name__ == "__main__":
    entry_point("llm", main)
