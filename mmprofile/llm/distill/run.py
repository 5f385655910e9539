"""The command ``llm.distill``: voted labels -> a student that writes them."""

import time
from dataclasses import asdict
from typing import Any

from mmprofile.errors import UserError
from mmprofile.llm.distill.training import Examples, examples, train
from mmprofile.llm.labels import LABELS, load_labels
from mmprofile.llm.stage import digest, open_schema, purpose, read_people, stage_folder
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import STUDENT, begin, finish, finished, plain, student_settings


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
