"""The journal alone: what is written is read again, whatever an answer holds and wherever a run was killed."""

from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.llm.journal import Record, open_journal

pytestmark = pytest.mark.fast


def record(number: int, answer: str) -> Record:
    return Record(f"u{number}", 0, f"request {number}", "", "toy", 0, "", 0.0, answer)


def test_an_answer_may_hold_any_line_break(tmp_path: Path) -> None:
    records = [record(i, f"one{mark}two") for i, mark in enumerate(("\n", "\r\n", "\x0b", "\x1c", "\x85", "\u2028"))]
    open_journal(tmp_path / "answers.jsonl").write(records)
    assert list(open_journal(tmp_path / "answers.jsonl").records.values()) == records


def test_a_line_without_an_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    open_journal(path).write([record(0, "naïve"), record(1, "日本")])
    whole = path.read_bytes()
    path.write_bytes(whole + whole.partition(b"\n")[0][:-20])
    journal = open_journal(path)
    assert path.read_bytes() != whole  # reading changes nothing: another may be writing
    journal.write([record(2, "so")])
    assert [entry.answer for entry in open_journal(path).records.values()] == ["naïve", "日本", "so"]


def test_what_is_no_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"user_id": "u0"}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl: no journal of answers"):
        open_journal(tmp_path / "answers.jsonl")
