"""A student's folder: what it was made of, its checkpoints on the way, its card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from transformers import TrainerCallback

from mmprofile.llm.student import Student

STUDENT, MADE_OF = "student", "made_of.json"
CARD = """# Guesses at attributes of people

Made by mmprofile's auxiliary stage (`made_of.json` says of what) for this purpose: {purpose}.

{attributes}

The labels it learned from are votes of a language model, not facts; its confidences are as good as their calibration. Do not let a
guess alone decide anything about anyone, and do not use the model for another purpose.
"""


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


class NoLastCheckpoint(TrainerCallback):
    """The student itself is saved at the end; training that is resumed from the last step would take one step more."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
