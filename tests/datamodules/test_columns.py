"""Columns of one's own tables as numbers, flags and lists."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datamodules.columns import as_flag, as_list, as_number, check_columns, lines, text_columns, with_sources
from datamodules.engine import Engine
from mmprofile.errors import UserError

pytestmark = pytest.mark.fast
PRICE: dict[str, set[str]] = {"review.price": {"number"}}


def column(engine: Engine, folder: Path, values: list[Any]) -> Any:
    """The values as the column review.x of a table that was read from a file of JSON lines."""
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps({"n": n, "x": value}) + "\n" for n, value in enumerate(values)))
    sources: dict[str, set[str]] = {"review.x": set()}
    return with_sources(engine.read_json(path, text_columns(sources, {"n": "BIGINT"})), sources, ("n",))


CASES = [
    (5, 5.0, None, ["5"]),
    ("5.0", 5.0, None, ["5"]),
    (" 12.50 ", 12.5, None, ["12.50"]),
    (-3.0, -3.0, None, ["-3"]),
    (True, None, True, ["true"]),
    ("FALSE", None, False, ["FALSE"]),
    ("12,50", None, None, ["12,50"]),
    (1e300, None, None, ["1e+300"]),
    ("nan", None, None, ["nan"]),
    ("", None, None, None),
    ("  ", None, None, None),
    (None, None, None, None),
    ("Café ☕, 北京", None, None, ["Café ☕, 北京"]),
    (["a", " b ", 2.0], None, None, ["a", "b", "2"]),
    ([], None, None, []),
    ("[draft] no list", None, None, ["[draft] no list"]),
    ({"a": 1}, None, None, ['{"a":1}']),
]


def test_values_of_every_kind(engine: Engine, tmp_path: Path) -> None:
    table = column(engine, tmp_path, [value for value, *_ in CASES])
    read = table.select("n", number=as_number(table["review.x"]), flag=as_flag(table["review.x"]))
    for row, (value, number, flag, _) in zip(engine.rows(read.order_by("n")), CASES, strict=True):
        assert (row["number"], row["flag"]) == (number, flag), value
    read = table.select("n", items=as_list(table["review.x"]))
    for row, (value, *_, items) in zip(engine.rows(read.order_by("n")), CASES, strict=True):
        assert row["items"] in (items, ["1.0E300"]), value  # as Spark writes that number


def test_columns_of_parquet_have_types_of_their_own(engine: Engine) -> None:
    table = engine.table(
        "typed",
        pa.table(
            {"x": [1.5, float("nan"), None], "tags": [["a"], [], None], "ok": [True, None, False], "n": [1, 2, 3]}
        ),
    )
    read = with_sources(table, {f"review.{name}": set() for name in ("x", "tags", "ok", "n")}, ())
    rows = engine.rows(
        read.select(
            x=as_number(read["review.x"]),
            tags=as_list(read["review.tags"]),
            ok=as_flag(read["review.ok"]),
            n=as_list(read["review.n"]),
        )
    )
    assert sorted(rows, key=lambda row: row["n"]) == [
        {"x": 1.5, "tags": ["a"], "ok": True, "n": ["1"]},
        {"x": None, "tags": [], "ok": None, "n": ["2"]},
        {"x": None, "tags": None, "ok": False, "n": ["3"]},
    ]


def prices(engine: Engine, values: list[str | None]) -> dict[str, Any]:
    table = engine.table("prices", pa.table({"review.price": pa.array(values, pa.string())}))
    return check_columns(engine, table, PRICE, Path("reviews.jsonl"), ["user_id", "text", "price"])


def test_few_wrong_values_are_counted_and_named(engine: Engine) -> None:
    notes = prices(engine, ["1", "2.5", "3", None, "cheap"])
    assert notes == {
        "review.price": {"given": 4, "wrong": 1, "examples": ["cheap"], "expected": "a number"},
    }
    assert lines({"columns": notes, "repeated_businesses": 2}) == [
        "1 of 4 values of review.price are not a number, such as 'cheap': left out",
        "2 rows of businesses have the business_id of another row: left out",
    ]


def test_a_column_of_text_where_numbers_are_needed(engine: Engine) -> None:
    with pytest.raises(
        UserError, match=r"^reviews.jsonl: 2 of 3 values of review.price are not a number, such as 'a', 'b'"
    ):
        prices(engine, ["a", "b", "1"])


def test_a_column_that_is_empty_or_not_there(engine: Engine) -> None:
    with pytest.raises(UserError, match=r"the column 'price', which a label rule reads \(review\.price\), is empty"):
        prices(engine, [None, None])
    table = engine.table("others", pa.table({"review.prise": pa.nulls(2, pa.string())}))
    with pytest.raises(UserError, match=r"'prise'.* is not there \(did you mean price\?\); columns: user_id, price"):
        check_columns(engine, table, {"review.prise": {"list"}}, Path("reviews.jsonl"), ["user_id", "price"])


def test_columns_that_differ_in_case_alone() -> None:
    with pytest.raises(UserError, match="reads the column 'Date' beside 'date': rename one"):
        text_columns({"review.Date": {"list"}}, {"date": "VARCHAR"})
