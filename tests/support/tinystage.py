"""A text-only stage that takes seconds: people who say little, and a random student that learns to write answers about them."""

import json
import random
from pathlib import Path

from mmprofile.llm.answers import Claim, render_answer
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema
from tests.support.tinystudent import save_random_student

SAYS = {
    "Gender": {"Female": "My husband sang.", "Male": "My wife sang."},
    "Life Stage": {"Single": "I live alone.", "Young Family": "Our baby slept."},
}
SCHEMA = Schema("two", [Attribute(name, tuple(values), unknown=True) for name, values in SAYS.items()])
JOURNALS = ("answers.jsonl", "rollouts.jsonl", "draws.jsonl")
STUDENTS = ("student", "student_ttrl", "student_ours")


def make_stage(folder: Path) -> list[str]:
    """Write people and the student; return the words that choose them, and a short training."""
    rng, people, texts = random.Random(0), [], []
    for i in range(144):
        gold = {name: rng.choice([*values, UNKNOWN]) for name, values in SAYS.items()}
        reviews = [SAYS[name][value] for name, value in gold.items() if value != UNKNOWN] + ["We ate."]
        people.append(
            {"user_id": f"u{i:03}", "reviews": reviews, "split": "train" if i < 128 else "test", "gold": gold}
        )
        texts += [
            *reviews,
            render_answer({name: Claim(value, 0.8, "no cue") for name, value in gold.items()}, SCHEMA),
        ]
    (folder / "people.jsonl").write_text("".join(json.dumps(person) + "\n" for person in people))
    save_random_student(folder / "student", texts, SCHEMA, layers=1)
    attributes = ", ".join(f"{{name: {name}, values: [{', '.join(SAYS[name])}], unknown: true}}" for name in SAYS)
    return [
        f"input={folder / 'people.jsonl'}", "purpose=a test", "profile.name=two", f"profile.attributes=[{attributes}]",
        "samples=24", "teacher.batch=1", f"student={folder / 'student'}", "students.other.reads=first_person",
        "students.other.prompt.system=''", "students.other.prompt.user='{person}'", "students.other.dtype=float32",
        "students.other.lora=0", "students.other.epochs=12", "students.other.lr=1e-2", "students.other.rl_lr=1e-3",
        "students.other.max_new_tokens=60", "reinforce.rollouts=4", "reinforce.steps=20", "reinforce.group=4",
        "reinforce.low=0", "reinforce.high=1", "progress=false",
    ]  # fmt: skip
