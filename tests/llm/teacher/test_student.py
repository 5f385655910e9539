"""A student as the teacher: its draws by hand, question by question, and through the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.people import Person
from mmprofile.llm.teacher.protocol import Question
from mmprofile.llm.teacher.run import make_teacher
from mmprofile.llm.teacher.student import GumbelDraw
from tests.support.tinystudent import PEOPLE, SCHEMA, open_student
from tests.support.toyteacher import ask, people_file

LONG = Person("long", ("I went. " * 900,))


def student_teacher(name: str | Path, *words: str) -> Any:
    cfg = load_config("llm", ["teacher=tiny", f"teacher.name={name}", "students.tiny.max_new_tokens=40", *words])
    return make_teacher(cfg.teacher, SCHEMA)


def questions(seeds: range) -> list[Question]:
    return [Question(person, [], seed) for person in PEOPLE for seed in seeds]


def test_a_question_has_the_same_answer_in_whatever_batch_it_comes(random_student: Path) -> None:
    teacher = student_teacher(random_student)
    teacher.check()
    together = teacher.ask(questions(range(3)))
    assert together == [teacher.ask([question])[0] for question in questions(range(3))]
    assert len({reply.text for reply in together}) == 9
    assert all(0 < reply.completion_tokens <= 40 and reply.prompt_tokens for reply in together)


def test_without_temperature_it_writes_as_the_student_does(random_student: Path) -> None:
    teacher = student_teacher(random_student, "teacher.temperature=0")
    teacher.check()
    pupil, _ = open_student(random_student, "students.other.max_new_tokens=40")
    assert [reply.text for reply in teacher.ask(questions(range(1)))] == [
        texts[0] for texts in pupil.write(PEOPLE, 1, 0.0, seed=0)
    ]


def test_the_largest_noisy_logit_is_a_sample_of_the_softmax() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, -torch.inf]]).expand(20_000, 4)
    drawn = GumbelDraw(range(20_000), temperature=2.0)(torch.zeros(0), logits).argmax(1).bincount(minlength=4)
    shares = np.exp(np.array([0.5, 0.0, -0.5, -np.inf]))
    assert drawn.numpy() / 20_000 == pytest.approx(shares / shares.sum(), abs=0.015)


def test_too_much_to_read_is_an_error_of_its_question_alone(random_student: Path) -> None:
    teacher = student_teacher(random_student)
    teacher.check()
    replies = teacher.ask([Question(LONG, [], 0), Question(PEOPLE[0], [], 0)])
    assert replies[1] == teacher.ask([Question(PEOPLE[0], [], 0)])[0]
    assert replies[0].error is not None
    assert "has room for 4056 beside its answer" in replies[0].error
    assert teacher.ask([Question(LONG, [], 0)]) == replies[:1]


def test_what_decides_an_answer_is_in_its_request(random_student: Path) -> None:
    settings = []
    for words in ([], ["teacher.temperature=0.5"], ["students.tiny.reads=all"]):
        teacher = student_teacher(random_student, *words)
        teacher.check()
        settings.append(json.dumps(teacher.settings))
    assert len({*settings}) == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [("teacher.temperature=-1", "teacher.temperature=-1"), ("teacher.batch=0", "teacher.batch=0: give 1 or more")],
)
def test_settings_without_meaning(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        student_teacher("tiny", word)


def test_the_tiny_one_answers_through_the_command(tmp_path: Path) -> None:
    texts = {"ann": "My husband says hello. The soup was hot.", "bob": "My wife waited. I am retired."}
    rows = ask(people_file(tmp_path, texts), "teacher=tiny")
    assert [(row["user_id"], row["sample"]) for row in rows] == [(user, k) for user in texts for k in range(3)]
    understood = [bool(parse_answer(row["answer"], SCHEMA).claims) for row in rows]
    assert sum(understood) > len(rows) / 2  # at temperature 1 an answer about so few words may be spoilt
    assert ask(tmp_path / "people.jsonl", "teacher=tiny") == rows
