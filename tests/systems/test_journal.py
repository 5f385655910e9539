"""What every journal does, whatever its entries; ``tests/llm/test_journal.py`` and ``test_chat.py`` have those of their kind."""

import time
from pathlib import Path
from typing import NamedTuple

import pytest
from tqdm import tqdm

from mmprofile.errors import UserError
from mmprofile.systems.journal import Journal, ask_in_threads

pytestmark = pytest.mark.fast


class Entry(NamedTuple):
    request: str
    answer: str
    error: str | None = None


def test_the_last_answer_counts_and_an_error_only_until_there_is_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl", Entry)
    journal.write([Entry("a", "", "busy"), Entry("b", "first"), Entry("a", "yes"), Entry("b", "second")])
    journal.write([Entry("a", "", "late"), Entry("c", "", "busy")])
    for read in (journal, Journal(journal.path, Entry)):
        assert [(entry.answer, entry.error) for entry in read.records.values()] == [
            ("yes", None),
            ("second", None),
            ("", "busy"),
        ]
        assert [read.answered(request) for request in "abcd"] == [True, True, False, False]


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl", Entry)

    def ask(number: int) -> int:
        journal.write([Entry(f"{number} {i}", "long " * 1000) for i in range(3)])
        return 3

    bar = tqdm(total=150, disable=True)
    ask_in_threads(ask, range(50), 8, bar)
    assert Journal(journal.path, Entry).records == journal.records
    assert len(journal.records) == 150


def test_the_first_failure_drops_what_has_not_begun() -> None:
    begun: list[int] = []

    def ask(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise UserError("broken")
        time.sleep(0.02)
        return 1

    with pytest.raises(UserError, match="broken"):
        ask_in_threads(ask, range(1000), 2, tqdm(total=1000, disable=True))
    assert len(begun) < 1000


def test_a_disk_that_takes_nothing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "answers.jsonl", Entry)
    with pytest.raises(UserError, match=r"answers.jsonl cannot be written .*: the answers before are kept"):
        journal.write([Entry("a", "yes")])
