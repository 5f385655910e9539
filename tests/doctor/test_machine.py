"""What the doctor says of a machine."""

import os
from pathlib import Path

import pytest

from mmprofile.doctor import machine
from mmprofile.doctor.machine import disk
from mmprofile.doctor.screen import row, table
from mmprofile.errors import UserError
from mmprofile.files import size

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0.0 MB"),
        (5.3e6, "5.3 MB"),
        (12e6, "12 MB"),
        (990e6, "990 MB"),
        (1.4e9, "1.4 GB"),
        (87e9, "87 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_in_words(count: float, words: str) -> None:
    assert size(count) == words


def test_the_nearest_folder_that_is_there_tells_what_is_free(tmp_path: Path) -> None:
    there, free = disk(tmp_path / "not" / "yet")
    assert there == tmp_path
    assert free > 0
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; choose another folder"):
        disk(tmp_path / "file" / "run")
    if os.geteuid():  # root may write everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(UserError, match="cannot be written to"):
            disk(tmp_path / "closed" / "run")


def test_packages_that_are_not_installed() -> None:
    assert machine.package("torch")
    assert machine.package("no-such-package") is None
    assert machine.packages().startswith("python 3.")


def test_rows_are_folded_and_columns_stand_on_the_right() -> None:
    text = row("software", "one " * 40, "two")
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[0].startswith("software   one one")
    assert text.splitlines()[1].startswith("             one")
    assert text.splitlines()[-1] == "           two"
    lines = table(("", "about", "here"), [("a", "1 GB", "x"), ("bb", "10 GB", "")]).splitlines()
    assert lines == ["    about  here", "a    1 GB  x", "bb  10 GB"]
