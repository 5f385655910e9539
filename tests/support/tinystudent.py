"""Random students of a few thousand parameters, made as ``scripts/pretrain_student.py`` makes the one that is shipped."""

from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import PreTrainedTokenizerFast

from mmprofile.config.compose import load_config
from mmprofile.llm.answers import Claim
from mmprofile.llm.labels import Label
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student, student_settings
from mmprofile.llm.student_folder import open_checkpoints, save_student
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

SPEC = spec_from_file_location("pretrain_student", Path(__file__).parents[2] / "scripts" / "pretrain_student.py")
assert SPEC is not None
assert SPEC.loader is not None
script = module_from_spec(SPEC)
SPEC.loader.exec_module(script)

SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")
CLAIMS = {name: Claim(SCHEMA[name].values[0], 0.1 * (i + 1), f"cue {i}") for i, name in enumerate(SCHEMA.names)}
PEOPLE = [
    Person(f"u{i}", ("The soup was hot. I live alone.", "My wife waits! It rained.", "We left.")) for i in range(3)
]
MADE_OF = {"purpose": "a test"}
READ = [
    "students.other.reads=first_person",
    "students.other.prompt.system=''",
    "students.other.prompt.user='{person}'",
    "students.other.dtype=float32",
    "students.other.lora=0",
    "students.other.max_new_tokens=100",
]
"""The words that have any student read and write as the tiny one does."""


def save_random_student(
    folder: Path, texts: Sequence[str], schema: Schema, *, size: int = 400, layers: int = 2
) -> PreTrainedTokenizerFast:
    """Save a random student in the hub's layout; returns its tokenizer.

    Args:
        folder: to write to.
        texts: that the tokenizer is trained on.
        schema: whose answers it writes with few tokens.
        size: of the vocabulary.
        layers: of the model, 32 wide.
    """
    tokenizer: PreTrainedTokenizerFast = script.build_tokenizer(texts, schema, size=size)
    torch.manual_seed(0)
    script.build_model(tokenizer, width=32, layers=layers).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def open_student(folder: Path, *overrides: str) -> tuple[Student, Any]:
    """Return a saved student, and the configuration that chooses it."""
    cfg = load_config("llm", [f"student={folder}", *READ, *overrides])
    return Student(str(folder), student_settings(cfg), SCHEMA), cfg


def adapt(pupil: Student) -> None:
    """Give a student a random adapter."""
    torch.manual_seed(1)
    model = get_peft_model(**pupil.trainable())
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    pupil.adopt(model)


def save_as(pupil: Student, folder: Path) -> None:
    """Save a student as its training does."""
    open_checkpoints(folder, MADE_OF)
    save_student(pupil, folder, MADE_OF)


def labels_of(user: str = "u0") -> list[Label]:
    """Return the labels that say of a person what ``CLAIMS`` does."""
    return [
        Label(user, name, claim.value, claim.confidence, rationale=claim.rationale) for name, claim in CLAIMS.items()
    ]
