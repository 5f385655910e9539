"""Rows of an input: read from each kind of file, and each bad one named without hurting its neighbours."""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmprofile.errors import UserError
from mmprofile.predict.rows import BadRow, InputUser, read_rows

pytestmark = pytest.mark.fast

GOOD = b'{"user_id": "after", "reviews": ["fine"]}\n'


def read(path: Path, content: bytes) -> list[InputUser | BadRow]:
    path.write_bytes(content)
    return [*read_rows(str(path))]


def test_users_are_read_with_what_is_left_out(tmp_path: Path) -> None:
    first = b'\xef\xbb\xbf{"reviews": ["a", " ", null]}\r\n\n'
    more = b'{"user_id": 7, "photos": ["x.jpg"]}\n{"user_id": null, "reviews": ["b"]}'
    assert read(tmp_path / "users.jsonl", first + more) == [
        InputUser("row-1", ["a"]),
        InputUser("7", [], photos=["x.jpg"]),
        InputUser("row-4", ["b"]),
    ]


def test_a_row_without_an_id_takes_nobodys(tmp_path: Path) -> None:
    rows = (
        b'{"reviews": ["a"]}\n{"user_id": 1, "reviews": ["b"]}\n{"user_id": "3", "reviews": ["c"]}\n{"reviews": ["d"]}'
    )
    users = read(tmp_path / "users.jsonl", rows)
    assert [user.user_id for user in users if isinstance(user, InputUser)] == ["row-1", "1", "3", "row-4"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"reviews": [', "no JSON (Expecting value"),
        (b"[1, 2]", "expected an object with reviews, photos"),
        (b'{"user_id": "a"}', "user 'a' has neither reviews nor photos"),
        (b'{"user_id": "first", "reviews": ["y"]}', "user_id 'first' was there before"),
        (b'{"reviews": "x"}', "'reviews' must be a list of strings"),
        (b'{"photos": "a.jpg"}', "'photos' must be a list of strings"),
        (b'{"reviews": [1]}', "'reviews' must be a list of strings"),
        (b'{"photos": ["b"], "captions": ["x", "y"]}', "2 captions for 1 photos"),
        (b'{"photos": [null]}', "'photos' has an empty place"),
        (b'{"user_id": ["a"], "reviews": ["y"]}', "'user_id' must be a string or a whole number"),
        (b'{"user_id": 1.5, "reviews": ["y"]}', "'user_id' must be a string or a whole number"),
        (b'{"reviews": ["\\ud800"]}', "'reviews' has characters that are no text"),
        (b'{"reviews": ["a\\u0000"]}', "'reviews' has characters that are no text"),
        (b'{"user_id": "\\udfff", "reviews": ["a"]}', "'user_id' has characters that are no text"),
        (b'{"reviews": ["\xff"]}', "no UTF-8 (byte 15)"),
        (b"\xef\xbb\xbf{}", "no JSON (Unexpected UTF-8 BOM"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"reviews": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
        (b"1" * 5000, "no JSON (Exceeds the limit"),
    ],
)
def test_a_bad_line_is_named_and_its_neighbours_are_read(line: bytes, says: str, tmp_path: Path) -> None:
    first, bad, after = read(
        tmp_path / "users.jsonl", b'{"user_id": "first", "reviews": ["x"]}\n' + line + b"\n" + GOOD
    )
    assert (first, after) == (InputUser("first", ["x"]), InputUser("after", ["fine"]))
    assert isinstance(bad, BadRow)
    assert bad.row == 2
    assert bad.reason.startswith(says)
    assert len(bad.text) <= 200
    json.dumps(bad._asdict(), ensure_ascii=False).encode()  # it can be written


def test_csv(tmp_path: Path) -> None:
    text = (
        "\ufeffuser_id,reviews,photos,note\r\n"
        'ann,"[""one"", ""two""]","[""a.jpg""]",x\r\n'
        '"bob","one, in\ntwo lines",,\r\n'
        "\r\n"
        "cem,[broken,,\r\n"
        "dan,a,,,,\r\n"
        ",just text\r\n"
    )
    found = read(tmp_path / "users.csv", text.encode() + b"eva,\xff\r\nfay,fine\r\n")
    assert [row for row in found if isinstance(row, InputUser)] == [
        InputUser("ann", ["one", "two"], photos=["a.jpg"]),
        InputUser("bob", ["one, in\ntwo lines"]),
        InputUser("row-7", ["just text"]),
        InputUser("fay", ["fine"]),
    ]
    bad = [row for row in found if isinstance(row, BadRow)]
    assert [(row.row, row.reason.split(" (")[0]) for row in bad] == [
        (5, "a cell that begins with [ is no JSON list"),
        (6, "6 cells in 4 columns"),
        (8, "'reviews' has characters that are no text"),
    ]


@pytest.mark.parametrize("tail", ["", ",", "x", '""'])
def test_a_quote_that_is_not_closed_spoils_one_line(tail: str, tmp_path: Path) -> None:
    lines = ["user_id,reviews,photos", "ann,a,", f'bob,"never closed{tail}', "cem,c,", 'dan,"two\nlines",', "eva,e,"]
    for end in ("\n", "\r\n", "\r"):
        rows = read(tmp_path / "users.csv", end.join(lines).encode())
        assert [row.user_id for row in rows if isinstance(row, InputUser)] == ["ann", "cem", "dan", "eva"]
        [bad] = [row for row in rows if isinstance(row, BadRow)]
        assert (bad.row, bad.reason.split(" (")[0], bad.text) == (3, "no CSV", f'bob,"never closed{tail}')


def test_a_value_of_parquet_that_python_does_not_have(tmp_path: Path) -> None:
    table = pa.table({"user_id": pa.array([2**30, 1], pa.date32()), "reviews": [["a"], ["b"]]})
    pq.write_table(table, tmp_path / "users.parquet")
    reasons = [row.reason for row in read_rows(str(tmp_path / "users.parquet")) if isinstance(row, BadRow)]
    assert reasons[0].startswith("no value of Python (days=")
    assert reasons[1] == "'user_id' must be a string or a whole number"


def test_parquet_is_read_in_pieces(tmp_path: Path) -> None:
    rows = [{"user_id": i, "reviews": [f"text {i}"], "photos": None, "more": 1} for i in range(600)]
    rows[300]["reviews"] = []
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "users.parquet")
    found = [*read_rows(str(tmp_path / "users.parquet"))]
    assert found[0] == InputUser("0", ["text 0"])
    assert found[300] == BadRow(301, "user '300' has neither reviews nor photos", found[300].text)  # type: ignore[union-attr]
    assert sum(isinstance(row, InputUser) for row in found) == 599
    pq.write_table(pa.table({"user_id": ["a"], "reviews": ["one text"]}), tmp_path / "users.parquet")
    assert [*read_rows(str(tmp_path / "users.parquet"))] == [InputUser("a", ["one text"])]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD)))
    assert [*read_rows("-")] == [InputUser("after", ["fine"])]
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after <&-
    with pytest.raises(UserError, match="the standard input is closed"):
        next(read_rows("-"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("users.txt", b"", r"should end in \.jsonl, .*, \.csv or \.parquet"),
        ("nowhere.jsonl", None, "there is no such file"),
        ("users.csv", b"id,text\n1,2\n", "no column reviews or photos; it has: id, text"),
        ("users.csv", b"", "no column reviews or photos; it has: none"),
        ("users.parquet", b"PAR", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        next(read_rows(str(tmp_path / name)))


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_rows_each_read_or_named(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    content = b"\n".join(lines)
    rows = read(tmp_path_factory.getbasetemp() / "any.jsonl", content)
    assert len(rows) == sum(bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
