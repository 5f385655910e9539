"""What the tests of several steps share: a random student."""

from pathlib import Path

import pytest

from mmprofile.llm.answers import render_answer
from mmprofile.llm.student import condense
from tests.support.tinystudent import CLAIMS, PEOPLE, SCHEMA, save_random_student


@pytest.fixture(scope="session")
def random_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random student, in hub layout."""
    folder = tmp_path_factory.mktemp("student")
    texts = [condense(person, "first_person") for person in PEOPLE] + [render_answer(CLAIMS, SCHEMA)]
    save_random_student(folder, texts, SCHEMA)
    return folder
