"""Columns of tables that label rules read: kept as text, and read as numbers, flags or lists where a rule asks for them.

Expressions of Ibis. A value that cannot be read is null, as if it were not given.
"""

from itertools import combinations
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.engine import LIST_OF_JSON, Engine
from datamodules.files import intact
from datamodules.rules import Columns, key_of
from mmprofile.errors import UserError, nearest

LARGEST_NUMBER = 1e12
NAMES = {"number": "a number", "flag": "true or false"}
SHOWN = 3
"""Values that cannot be read of which examples are given."""


def parquet_schema(path: Path) -> pa.Schema:
    """Return the columns of a Parquet file.

    Raises:
        UserError: it cannot be read.
    """
    with intact(path, "write it again as Parquet"):
        return pq.read_schema(path)


def text_columns(columns: Columns, known: dict[str, str]) -> dict[str, str]:
    """Return the columns to be read of a file, and their types: those that are known, and text for those of sources.

    Raises:
        UserError: two differ only in case, which the engine ignores.
    """
    types = {key_of(source): "VARCHAR" for source in columns} | known
    for one, other in combinations(sorted(types), 2):
        if one.lower() == other.lower():
            raise UserError(f"a label rule reads the column {one!r} beside {other!r}: rename one of them")
    return types


def with_sources(table: ir.Table, columns: Columns, kept: tuple[str, ...]) -> ir.Table:
    """Return some columns of a table, and one named by each source, as :func:`as_column` gives it."""
    return table.select(*kept, **{source: as_column(table[key_of(source)]) for source in columns})


def as_column(values: ir.Value) -> ir.Value:
    """Return a column as this module reads it: texts without blanks around them, or lists; empty texts and NaN are null."""
    if isinstance(values.type(), dt.Array):
        return values.cast("array<string>")
    if values.type().is_floating():
        values = values.isnan().ifelse(ibis.null(values.type()), values)
    return values.cast("string").strip().nullif("")


def as_number(values: ir.Value) -> ir.Value:
    """Return finite numbers."""
    numbers = values if values.type().is_numeric() else _text(values).try_cast("float64")
    return (numbers.abs() < LARGEST_NUMBER).ifelse(numbers, ibis.null(numbers.type()))


def as_flag(values: ir.Value) -> ir.Value:
    """Return truth values: the words true and false, in any case."""
    if values.type().is_boolean():
        return values
    text = _text(values).lower()
    return text.isin(["true", "false"]).ifelse(text == "true", ibis.null("boolean"))


@ibis.udf.scalar.builtin(name=LIST_OF_JSON)
def list_of_json(text: str) -> list[str]:  # type: ignore[empty-body]
    """Return the items of a JSON list; null of any other text. Each engine has it as a function of this name."""


def as_list(values: ir.Value) -> ir.Value:
    """Return lists of texts: a text that is no JSON list is one item; whole numbers are written without ``.0``."""
    if not isinstance(values.type(), dt.Array):
        text = values.cast("string")
        listed = list_of_json(text.startswith("[").ifelse(text, ibis.null("string")))
        values = listed.fill_null(text.isnull().ifelse(ibis.null("array<string>"), ibis.array([text])))
    # Not re_replace, whose replacements the engines spell differently.
    whole = r"^(-?[0-9]+)\.0+$"
    return values.map(lambda item: item.strip()).map(
        lambda item: item.re_search(whole).ifelse(item.re_extract(whole, 1), item)
    )


def _text(values: ir.Value) -> ir.Value:
    return values[0] if isinstance(values.type(), dt.Array) else values.cast("string")


READERS = {"number": as_number, "flag": as_flag, "list": as_list}


def check_columns(engine: Engine, table: ir.Table, columns: Columns, path: Path, has: list[str]) -> dict[str, Any]:
    """Return what the columns hold, for the manifest.

    Args:
        engine: runs the queries.
        table: with a column for each source, as :func:`as_column` gives it.
        columns: source -> how rules read it.
        path: the file.
        has: the columns of the file.

    Raises:
        UserError: a column is not there or empty, or most of its values cannot be read.
    """
    notes = {}
    for source, reads in columns.items():
        key = key_of(source)
        given = table.select(value=table[source]).drop_null("value")
        number = int(given.count().execute())
        if not number:
            why = "is empty" if key in has else f"is not there{nearest(key, has)}; columns: {', '.join(has)}"
            raise UserError(f"{path}: the column {key!r}, which a label rule reads ({source}), {why}")
        note: dict[str, Any] = {"given": number, "wrong": 0}
        notes[source] = note
        for kind in sorted(reads & NAMES.keys()):
            unread = given.filter(READERS[kind](given.value).isnull())
            wrong, examples = int(unread.count().execute()), unread.distinct().order_by("value").limit(SHOWN)
            if wrong:
                shown = [row["value"] for row in engine.rows(examples)]
                note |= {"wrong": wrong, "examples": shown, "expected": NAMES[kind]}
            if 2 * wrong > number:
                line = wrong_values(source, note)
                raise UserError(f"{path}: {line}, which a label rule reads there: correct the column or the rule")
    return notes


def wrong_values(source: str, note: dict[str, Any]) -> str:
    """Return a line on the values of a column that cannot be read."""
    shown = ", ".join(map(repr, note["examples"]))
    return f"{note['wrong']:,} of {note['given']:,} values of {source} are not {note['expected']}, such as {shown}"


def lines(notes: dict[str, Any]) -> list[str]:
    """Return a line for each thing that was left out, of the manifest's notes on the tables."""
    found = [wrong_values(source, note) for source, note in notes.get("columns", {}).items() if note["wrong"]]
    if notes.get("repeated_businesses"):
        found.append(f"{notes['repeated_businesses']:,} rows of businesses have the business_id of another row")
    return [f"{line}: left out" for line in found]
