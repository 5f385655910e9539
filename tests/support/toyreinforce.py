"""A schema of two attributes, people who say nothing, and a student that has learned to write answers."""

import random
from pathlib import Path
from typing import Any

from mmprofile.config.compose import load_config
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student, student_settings
from mmprofile.profile.schema import Attribute, Schema

TOY = Schema("toy", [Attribute("One", ("a", "b"), unknown=True), Attribute("Two", ("c", "d"), unknown=True)])
TOY_PEOPLE = [Person(f"u{i}", (f"I am number {i}.",)) for i in range(4)]


def random_answer(rng: random.Random) -> str:
    """Return an answer that says anything."""
    claims = {a.name: Claim(rng.choice((*a.values, "Unknown")), rng.choice((0.2, 0.9)), "so") for a in TOY.attributes}
    return render_answer(claims, TOY)


def toy_config(*overrides: str) -> Any:
    """Return the configuration of a short training."""
    read = ["students.tiny.max_new_tokens=60", "progress=false", "reinforce.people=2", "reinforce.group=8", *overrides]
    return load_config("llm", read)


def toy_student(folder: Path, *overrides: str) -> Student:
    """Return a saved student of the toy schema."""
    return Student(str(folder), student_settings(toy_config(*overrides)), TOY)
