"""Every reader and spoilt files: a result or one line, whatever is in them. ``tests/faults/fuzz.py`` runs more cases."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmprofile.errors import LONGEST, UserError
from tests.faults.fuzz import ROOT, Worker, fuzz, problem_of, shares, spoil
from tests.support.readers import READERS

CASES = 100_000
FOUND: dict[str, tuple[int, ...]] = {
    "yelp_zip": (1, 2143),
    "yelp_tar.gz": (17487,),
    "model": (7, 12, 33, 47),
    "custom_parquet": (54, 103, 104, 111),
    "literals": (66, 143, 165),
    "people": (68, 448, 667),
    "answers": (29, 172),
    "labels": (16, 18, 27, 43, 66),
    "prepared": (2, 4, 55, 96, 138, 141, 170, 172, 204, 226, 361, 1363, 1654),
    "run": (324,),
    "report": (105, 119, 150),
    "yaml": (34, 2690),
}
"""Cases that a reader did not survive once."""


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_survives(reader: str, tmp_path: Path) -> None:
    """Good files are read, and a few spoilt ones; more of them where a case takes little time."""
    good, folder = tmp_path / "good", tmp_path / "case"
    good.mkdir()
    READERS[reader].make(good)
    shutil.copytree(good, folder)
    READERS[reader].read(folder)
    for number in {*FOUND.get(reader, ()), *range(READERS[reader].share)}:
        path, content = spoil(reader, number, good)
        (folder / path.relative_to(good)).write_bytes(content)
        assert problem_of(READERS[reader].read, folder, len(content)) is None, (number, path.name, content[:300])
        shutil.copyfile(path, folder / path.relative_to(good))


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_survives_many_cases(reader: str) -> None:
    assert [*fuzz(reader, shares(CASES, [*READERS])[reader])] == []


MEMORY = """
from pathlib import Path
from tests.faults import fuzz
print(fuzz.problem_of(lambda folder: b"x" * (fuzz.BASE + 50_000_000), Path(), 1))
print(fuzz.problem_of(lambda folder: b"x" * fuzz.BASE, Path(), 1))
"""


def test_what_is_not_survived_is_found(tmp_path: Path) -> None:
    """The watcher sees an exception, memory, and a worker that ends; a case is the same each time."""
    good = tmp_path / "good"
    good.mkdir()
    READERS["people"].make(good)
    assert spoil("people", 7, good) == spoil("people", 7, good)

    def fail(folder: Path) -> None:
        raise KeyError("a")

    assert problem_of(fail, good, 1) == "KeyError at ?: 'a'"
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=ROOT)
    assert re.fullmatch(r"2\d\d MB for a file of 1 bytes\nNone\n", done.stdout)
    worker = Worker(["one word too few"])
    assert [*worker.lines()] == []
    assert worker.ended == "the process ended with 1"


def test_a_message_quotes_no_whole_file_and_steers_no_terminal() -> None:
    assert str(UserError(f"a\x1b[2Jb\x9b{'x' * 10_000} end")).startswith("a?[2Jb?xxx")
    assert len(str(UserError("x" * 10_000 + " end"))) <= LONGEST
    assert str(UserError("x" * 10_000 + " end")).endswith(" end")
