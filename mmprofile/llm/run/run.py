"""The whole stage: ``python -m mmprofile.llm.run data=demo student=tiny``.

Teacher, vote, distillation, reinforcement by each of ``table.recipes``, and a table that compares them on people that no student
saw. Gold values are used for scoring only. The same command again goes on where it stopped.
"""

import time

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.errors import UserError
from mmprofile.files import write_json
from mmprofile.llm.distill.run import main as distill
from mmprofile.llm.reinforce.run import reinforce
from mmprofile.llm.run.comparison import compare, describe, print_rows, student_draws, teacher_draws
from mmprofile.llm.stage import opened_stage, purpose, read_people
from mmprofile.llm.student import Student, student_settings
from mmprofile.llm.teacher.run import ask_teacher
from mmprofile.llm.vote.run import main as vote


def main(cfg: LlmConfig) -> None:
    """Run every step, then print the table. What would stop it late is checked first."""
    start = time.perf_counter()
    with opened_stage(cfg) as (schema, folder):
        people = [person for person in read_people(cfg, schema) if person.split == "test"]
        if not any(person.gold for person in people):
            raise UserError(
                "nobody of the split test has gold values to score by: run the stages one by one (docs/llm.md)"
            )
        Student(cfg.student, student_settings(cfg), schema, cfg.student_revision)
        if cfg.estimate:
            ask_teacher(cfg)
            return
        for step in (ask_teacher, vote, distill):
            step(cfg)
        for recipe in cfg.table.recipes:
            reinforce(cfg, recipe)
        of_students, unread = student_draws(cfg, schema, people, folder)
        rows, differences = compare(schema, people, teacher_draws(cfg, schema, people) | of_students, cfg.seed)
        minutes = round((time.perf_counter() - start) / 60, 2)
        facts = {
            "rows": rows,
            "differences": differences,
            "minutes": minutes,
            "people": len(people),
            "unread": unread,
            "seed": cfg.seed,
            "purpose": purpose(cfg),
        }
        write_json(folder / "metrics.json", facts)
        print_rows(rows, len(people))
        for names, difference in differences.items():
            print(describe(names, **difference))
        if unread:
            print(f"{unread:,} of them are too long for the student's context: it makes no prediction for them")
        print(f"{folder / 'metrics.json'}; {minutes:.1f} minutes since this command began")
