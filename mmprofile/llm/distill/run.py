"""Voted labels -> a student that writes them: ``python -m mmprofile.llm.distill data=demo student=tiny``."""

import time
from dataclasses import asdict

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.errors import UserError
from mmprofile.llm.fine_tuning import Examples, build_examples, train
from mmprofile.llm.labels import LABELS, load_labels
from mmprofile.llm.stage import digest, opened_stage, purpose, read_people
from mmprofile.llm.student import Student, decisive, plain, student_settings
from mmprofile.llm.student_folder import STUDENT, is_finished, open_checkpoints, save_student


def main(cfg: LlmConfig) -> None:
    """Train a student on the people of the split ``train``, and write its folder; a killed run goes on where it stopped."""
    with opened_stage(cfg) as (schema, folder):
        labels = load_labels(folder / LABELS)
        target = folder / STUDENT
        made_of = {
            "labels": digest([asdict(label) for label in labels]), "student": cfg.student, "seed": cfg.seed,
            "settings": decisive(student_settings(cfg)) | plain(cfg.distill), "purpose": purpose(cfg),
        } | ({} if cfg.student_revision is None else {"revision": cfg.student_revision})  # fmt: skip
        if is_finished(target, made_of):
            print(f"{target}: found")
            return
        people = [person for person in read_people(cfg, schema) if person.split == "train"]
        student = Student(cfg.student, student_settings(cfg), schema, cfg.student_revision)
        examples = build_examples(people, labels, student, cfg.distill, cfg.seed)
        if not examples.rows:
            raise UserError(
                f"{folder / LABELS}: nothing to learn from {len(people):,} people of the split train: "
                f"{describe_left_out(examples, student)}"
            )
        print(
            f"{len(people):,} people of the split train; left out: {describe_left_out(examples, student)}; "
            f"{len(examples.rows):,} examples",
            flush=True,
        )
        start = time.perf_counter()
        loss = train(student, examples.rows, cfg, open_checkpoints(target, made_of))
        save_student(student, target, made_of)
        print(f"{target}: mean loss {loss:.3f}; {time.perf_counter() - start:.0f} s")


def describe_left_out(examples: Examples, student: Student) -> str:
    """Return how many people are left out, and why."""
    return (
        f"{len(examples.unlabelled):,} without labels, {len(examples.too_long):,} with texts too long for the student's "
        f"context of {student.room:,} tokens, {len(examples.unwritable):,} with an answer longer than its max_new_tokens="
        f"{student.settings.max_new_tokens}"
    )
