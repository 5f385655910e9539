"""A student: what it reads, how it samples answers."""

from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student, condense, student_settings
from tests.support.tinystudent import PEOPLE, SCHEMA, open_student

pytestmark = pytest.mark.fast


def test_only_sentences_about_the_writer_are_read() -> None:
    assert condense(PEOPLE[0], "first_person") == "I live alone. My wife waits! We left."
    assert condense(PEOPLE[0], "all").count("- ") == 3
    cued = Person("u", ("Nice.",), {"searched": ("prams", "cots")})
    assert condense(cued, "first_person") == "searched: prams, cots\n"
    with pytest.raises(UserError, match=r"student.reads='some'"):
        condense(PEOPLE[0], "some")


def test_sampling_is_the_same_again_and_greedy_is_one_by_one(random_student: Path) -> None:
    pupil, _ = open_student(random_student)
    people = [*PEOPLE, Person("v", ("I went. " * 30,))]
    drawn = pupil.write(people, 3, 1.0, seed=1)
    assert drawn == pupil.write(people, 3, 1.0, seed=1)
    assert drawn != pupil.write(people, 3, 1.0, seed=2)
    assert len({text for texts in drawn for text in texts}) > 6
    greedy = pupil.write(people, 1, 0.0, seed=0)
    assert greedy == [pupil.write([person], 1, 0.0, seed=0)[0] for person in people]


def test_the_fingerprint_is_of_every_byte(random_student: Path) -> None:
    """Sums are not enough: they depend on the number of threads, and two weights that change places keep them."""
    pupil, _ = open_student(random_student)
    before = pupil.fingerprint()
    assert open_student(random_student)[0].fingerprint() == before
    weight = pupil.model.get_input_embeddings().weight.data
    weight[[0, 1]] = weight[[1, 0]]
    assert pupil.fingerprint() != before


def test_without_weights_the_tiny_student_says_how_to_make_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mmprofile.llm.student.TINY", tmp_path / "absent")
    with pytest.raises(UserError, match=r"scripts/pretrain_student.py makes them"):
        Student("tiny", student_settings(load_config("llm", [])), SCHEMA)
