"""Every quirk of the raw files, each as its own small file written here."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.engine import Engine
from datamodules.yelp import (
    NOT_A_LITERAL,
    as_flag,
    as_list,
    as_number,
    categories,
    first_malformed,
    literal,
    read_businesses,
    read_tables,
)
from mmprofile.errors import UserError
from tests.support.rawdata import TEXT, review, write_lines


def read(engine: Engine, folder: Path, reviews: list[Any], photos: list[Any] | None = None) -> Any:
    """The three files as tables, with one business."""
    files = {role: folder / f"{role}.json" for role in ("business", "review", "photos")}
    write_lines(files["business"], [{"business_id": "b"}])
    write_lines(files["review"], reviews)
    write_lines(files["photos"], photos or [{"photo_id": "p", "business_id": "b", "label": "food"}])
    return read_tables(engine, files, {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("u'free'", "free"),
        ("'free'", "free"),
        ("None", None),
        ("2", 2),
        (" 2 ", 2),
        ("{'lunch': True, 'dinner': None}", {"lunch": True, "dinner": None}),
        ("{u'dj': False}", {"dj": False}),
        ("{}", {}),
        ("{'a': True, u'b': None, 'a': False}", {"a": False, "b": None}),
        ("{'a': True 'b': False}", NOT_A_LITERAL),
        ("{'a': True,, 'b': False}", NOT_A_LITERAL),
        ("{'a': True, 'b': False, }", {"a": True, "b": False}),
        ("{'a b': True, 'c': 2}", {"a b": True, "c": 2}),
        ("{'a\\x41': True}", {"aA": True}),
        ("oops(", NOT_A_LITERAL),
        ("free", NOT_A_LITERAL),
        ("", NOT_A_LITERAL),
        ("__import__('os')", NOT_A_LITERAL),
        ("[" * 500, NOT_A_LITERAL),
        (True, True),
        (None, None),
    ],
)
def test_attribute_literals(text: Any, value: Any) -> None:
    assert literal(text) == value if value is not NOT_A_LITERAL else literal(text) is NOT_A_LITERAL


def test_values_as_flags_numbers_and_lists() -> None:
    assert [as_flag(value) for value in (True, False, None, "True", 1)] == [True, False, None, None, None]
    assert [as_number(value) for value in (2, "3", 1.5, True, None, "cheap", float("nan"))] == [
        2,
        3,
        1.5,
        None,
        None,
        None,
        None,
    ]
    assert as_list({"lunch": True, "dinner": None, "brunch": False}) == ["lunch"]
    assert as_list({"lunch": False, "dinner": None}) is None  # no True flag says nothing
    assert as_list("free") == ["free"]
    assert as_list(None) is None
    assert categories("Pizza, Coffee & Tea ,Food") == ["Pizza", "Coffee & Tea", "Food"]
    assert categories(None) is None
    assert categories("") is None


def test_rare_attribute_keys_are_not_lost(tmp_path: Path) -> None:
    rows = [{"business_id": f"b{n}", "attributes": None} for n in range(3000)]
    rows.append({"business_id": "last", "attributes": {"Rare": "True"}, "categories": None})
    write_lines(tmp_path / "business.json", rows)
    notes: dict[str, Any] = {}
    table = read_businesses(tmp_path / "business.json", {"Rare": "flag", "categories": "list"}, notes)
    assert table.column("Rare").to_pylist()[-1] is True
    assert notes["business_attributes"]["Rare"] == {"known": 1, "unknown": 3000, "not_a_literal": 0}


def test_attribute_that_is_no_literal_is_counted_as_unknown(tmp_path: Path) -> None:
    attributes = [{"Caters": "oops("}, {"Caters": "u'maybe'"}, {"Caters": "False"}, {}]
    write_lines(
        tmp_path / "business.json", [{"business_id": str(n), "attributes": each} for n, each in enumerate(attributes)]
    )
    notes: dict[str, Any] = {}
    table = read_businesses(tmp_path / "business.json", {"Caters": "flag"}, notes)
    assert table.column("Caters").to_pylist() == [None, None, False, None]
    assert notes["business_attributes"]["Caters"] == {"known": 1, "unknown": 2, "not_a_literal": 1}


def test_texts_with_line_breaks_emoji_and_great_length(engine: Engine, tmp_path: Path) -> None:
    texts = [
        "first line\n\nsecond\tline \r\n end",
        "très bon 🍕 \u4e00\u4e01",
        "word " * 1000,
        "x" * 2_000_000,
        "nul \u0000 inside",
        "",
    ]
    rows = [review(f"-r{n}", "-u", "-b", 3.5, text) for n, text in enumerate(texts)]
    tables = read(engine, tmp_path, rows)
    found = {row["review_id"]: row for row in engine.rows(tables.full)}
    columns = ("review_id", "user_id", "business_id", "stars", "photo_key", "words")
    both = [table.select(columns).order_by("review_id") for table in (tables.reviews, tables.full)]
    assert engine.rows(both[0]) == engine.rows(both[1])
    assert [found[f"-r{n}"]["text"] for n in range(len(texts))] == texts
    assert [found[f"-r{n}"]["words"] for n in range(len(texts))] == [5, 4, 1000, 1, 3, 0]
    assert found["-r0"]["stars"] == 3.5


def test_date_may_be_missing_and_extra_fields_are_ignored(engine: Engine, tmp_path: Path) -> None:
    row = review("r", "u", "b", 4.0) | {"surprise": {"a": [1]}}
    del row["date"]
    assert engine.rows(read(engine, tmp_path, [row]).full)[0]["date"] == ""


def test_duplicate_photo_rows_are_counted(engine: Engine, tmp_path: Path) -> None:
    rows = [
        {"photo_id": "-p", "business_id": "b", "label": "food"},
        {"photo_id": "-p", "business_id": "b", "label": "drink"},
        {"photo_id": "q", "business_id": "b", "caption": "", "label": None},
    ]
    tables = read(engine, tmp_path, [review("r", "u", "b", 4.0)], rows)
    assert tables.notes["duplicate_photo_rows"] == 1
    found = {row["photo_id"]: row["label"] for row in engine.rows(tables.photos)}
    assert found == {"-p": "drink", "q": ""}  # the first in alphabetical order, whatever the order of rows


def whole(**changes: Any) -> str:
    return json.dumps(review("x", "u", "b", 4.0) | changes)


BAD_LINES = [
    '{"review_id": "x", "tex',
    '{"review_id": "x", "text": "no end',
    "[1, 2]",
    "5",
    '{"review_id": "x"}',
    '{"a": "\\ud83d"}',
    whole(text=None),
    whole(user_id=None),
    whole(stars="many"),
    whole(stars=float("nan")),
    whole(stars=float("inf")),
    whole().replace("4.0", "1e400"),
    whole() + whole(),
]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_few_malformed_lines_are_counted(engine: Engine, tmp_path: Path, bad: str) -> None:
    rows: list[Any] = [review(f"r{n}", "u", "b", 4.0) for n in range(200)]
    rows.insert(77, bad)
    rows.append("")  # a blank line is nothing
    tables = read(engine, tmp_path, rows)
    assert int(tables.reviews.count().execute()) == 200
    assert tables.notes["malformed_lines"]["review.json"] == {"lines": 201, "malformed": 1}


@pytest.mark.parametrize("bad", [b"so\xffp", b"caf\xe9", b"raw\ttab", b"raw\rreturn"])
def test_line_that_is_not_utf8_or_holds_a_raw_control_character_is_malformed(
    engine: Engine, tmp_path: Path, bad: bytes
) -> None:
    rows: list[Any] = [review(f"r{n}", "u", "b", 4.0) for n in range(200)]
    read(engine, tmp_path, rows)
    other = type(engine)(tmp_path / "other")
    files = {role: tmp_path / f"{role}.json" for role in ("business", "review", "photos")}
    files["review"].write_bytes(files["review"].read_bytes().replace(b"soup", bad, 1))
    tables = read_tables(other, files, {})
    assert tables.notes["malformed_lines"]["review.json"] == {"lines": 200, "malformed": 1}
    assert [int(table.count().execute()) for table in (tables.reviews, tables.full)] == [199, 199]
    other.close()


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\n\n \n", b"\r\n\r\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_byte_order_marks_and_blank_lines_change_nothing(
    engine: Engine, tmp_path: Path, ends: bytes, mark: bytes, last: bool
) -> None:
    files = {role: tmp_path / f"{role}.json" for role in ("business", "review", "photos")}
    write_lines(files["business"], [{"business_id": "b", "categories": "Pizza"}, {"business_id": "c"}])
    write_lines(files["review"], [review("r", "u", "b", 4.0), review("s", "v", "c", 3.0)])
    write_lines(files["photos"], [{"photo_id": "p", "business_id": "b"}, {"photo_id": "q", "business_id": "c"}])
    for path in files.values():
        content = mark + path.read_bytes().replace(b"\n", ends)
        path.write_bytes(content if last else content.rstrip())
    tables = read_tables(engine, files, {"business.categories": {"list"}})
    assert tables.businesses is not None
    assert engine.rows(tables.businesses) == [
        {"business_id": "b", "business.categories": ["Pizza"]},
        {"business_id": "c", "business.categories": None},
    ]
    found = engine.rows(tables.full.order_by("review_id"))
    assert [(row["review_id"], row["stars"], row["text"], row["words"]) for row in found] == [
        ("r", 4.0, TEXT, 16),
        ("s", 3.0, TEXT, 16),
    ]
    assert sorted(row["photo_id"] for row in engine.rows(tables.photos)) == ["p", "q"]
    counts = tables.notes["malformed_lines"].values()
    assert [(count["lines"], count["malformed"]) for count in counts] == [(2, 0)] * 3


def test_any_column_of_the_reviews_may_be_read(engine: Engine, tmp_path: Path) -> None:
    files = {role: tmp_path / f"{role}.json" for role in ("business", "review", "photos")}
    write_lines(files["business"], [{"business_id": "b", "attributes": {"Price": "'2'"}}])
    write_lines(
        files["review"], [review(f"r{n}", "u", "b", 4.0) | {"useful": n or None, "words": "mine"} for n in range(2)]
    )
    write_lines(files["photos"], [{"photo_id": "p", "business_id": "b"}])
    columns = {"review.useful": {"number"}, "review.words": {"list"}, "business.Price": {"number", "list"}}
    tables = read_tables(engine, files, columns)
    assert tables.notes["columns"]["review.useful"] == {"given": 1, "wrong": 0}
    rows = engine.rows(tables.reviews.order_by("review_id"))
    assert [(row["review.useful"], row["review.words"], row["words"]) for row in rows] == [
        (None, "mine", 16),
        ("1", "mine", 16),
    ]
    assert tables.businesses is not None
    assert engine.rows(tables.businesses) == [{"business_id": "b", "business.Price": ["2"]}]
    with pytest.raises(UserError, match=r"'usefull', .* is not there \(did you mean useful\?\)"):
        read_tables(type(engine)(tmp_path / "again"), files, {"review.usefull": {"number"}})


def test_over_one_percent_malformed_is_an_error_that_names_the_line(engine: Engine, tmp_path: Path) -> None:
    rows: list[Any] = [review(f"r{n}", "u", "b", 4.0) for n in range(97)]
    rows[40:40] = ["{broken", "{broken"]
    with pytest.raises(
        UserError, match=r"review\.json: 2 of 99 lines are malformed, the first is line 41 \(not JSON\)"
    ):
        read(engine, tmp_path, rows)


def test_malformed_businesses_and_photo_rows_are_errors_too(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"photos\.json: 1 of 1 lines.*line 1 \(no photo_id\)"):
        read(engine, tmp_path, [review("r", "u", "b", 4.0)], [{"business_id": "b"}])
    write_lines(tmp_path / "business.json", [{"business_id": "b"}, "nonsense"])
    with pytest.raises(UserError, match=r"business\.json: 1 of 2 lines.*line 2 \(not JSON\)"):
        read_businesses(tmp_path / "business.json", {}, {})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"stars": 1}', "no text"),
        (b'{"text": "a", "stars": "many"}', "stars is not a number"),
        (b'{"text": "a", "stars": NaN}', "stars is not a number"),
        (b'{"text": "\xff", "stars": 1}', "not UTF-8"),
        (b'{"text": "\\ud83d", "stars": 1}', "not UTF-8"),
    ],
)
def test_first_malformed_line_and_why(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps({"text": TEXT, "stars": 1}).encode()
    (tmp_path / "f").write_bytes(b"\n".join([good, b"", line, good]) + b"\n")
    assert first_malformed(tmp_path / "f", ("text", "stars")) == (3, reason)


def test_empty_file_is_an_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"review\.json is empty"):
        read(engine, tmp_path, [])
