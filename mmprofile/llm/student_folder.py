"""A student's folder: the settings it was made of, the checkpoints on the way to it, its card."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mmprofile.config.llm_settings import StudentConfig
from mmprofile.files import read_json, write_json, write_text
from mmprofile.llm.student import Student

STUDENT, MADE_OF = "student", "made_of.json"
CARD = """# Guesses at attributes of people

Made by mmprofile's auxiliary stage (`made_of.json` says of what) for this purpose: {purpose}.

{attributes}

The labels it learned from are votes of a language model, not facts; its confidences are as good as their calibration. Do not let a
guess alone decide anything about anyone, and do not use the model for another purpose.
"""


def read_made_of(folder: Path) -> Any:
    """Return what the contents of a folder were made of; None where it does not say."""
    try:
        return read_json(folder / MADE_OF)
    except (OSError, ValueError):
        return None


def is_finished(folder: Path, made_of: Mapping[str, Any]) -> bool:
    """Return whether the folder holds a student that was made of exactly this; then it needs no checkpoints any more."""
    finished = read_made_of(folder) == made_of and any(folder.rglob("*.safetensors"))
    if finished:  # a command that was killed while it removed them
        shutil.rmtree(_checkpoints(folder), ignore_errors=True)
    return finished


def open_checkpoints(folder: Path, made_of: Mapping[str, Any]) -> Path:
    """Return the folder of the checkpoints on the way to a student; those of a student made of anything else are removed."""
    checkpoints = _checkpoints(folder)
    if read_made_of(checkpoints) != made_of:
        shutil.rmtree(checkpoints, ignore_errors=True)
        checkpoints.mkdir(parents=True)
        write_json(checkpoints / MADE_OF, made_of)
    return checkpoints


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the last checkpoint that is whole: the trainer's state is written last."""
    for path in sorted(checkpoints.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            read_json(path / "trainer_state.json")
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def in_parts(settings: StudentConfig, answers: int) -> dict[str, Any]:
    """Return the arguments of a trainer that say how much of a step is in memory at a time.

    Args:
        settings: the student's.
        answers: of a step.
    """
    part = settings.micro_batch_size or answers
    return {
        "per_device_train_batch_size": part,
        "gradient_accumulation_steps": answers // part,
        "gradient_checkpointing": settings.gradient_checkpointing,
    }


def train_student(student: Student, trainer: Trainer, checkpoints: Path) -> None:
    """Train the student in place, from its last checkpoint where there is one."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    student.adopt(trainer.model)


def save_student(student: Student, folder: Path, made_of: Mapping[str, Any]) -> None:
    """Save a student with a card, and remove the checkpoints on the way to it."""
    (folder / MADE_OF).unlink(missing_ok=True)  # it was of the student that is overwritten
    student.save(folder)
    attributes = "\n".join(
        f"- {a.name}{' (sensitive)' if a.sensitive else ''}: {', '.join(a.values)}" for a in student.schema.attributes
    )
    write_text(folder / "README.md", CARD.format(attributes=attributes, purpose=made_of["purpose"]))
    write_json(folder / MADE_OF, made_of)
    shutil.rmtree(_checkpoints(folder))


def _checkpoints(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


class NoLastCheckpoint(TrainerCallback):
    """Writes no checkpoint after the last step: the student itself is saved, and training resumed there would take a step more."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
