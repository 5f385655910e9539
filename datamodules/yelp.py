"""Yelp's raw files as tables: reviews and photos read by the engine, the few businesses parsed here.

Reviews and photo rows have an explicit schema, because inference from the first lines loses rare keys.
"""

import ast
import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from datamodules.columns import LARGEST_NUMBER, check_columns, parquet_schema, text_columns, with_sources
from datamodules.engine import Engine
from datamodules.rules import Columns, columns_of, key_of
from mmprofile.errors import UserError
from mmprofile.files import parse_json

REVIEW_COLUMNS = {
    "review_id": "VARCHAR",
    "user_id": "VARCHAR",
    "business_id": "VARCHAR",
    "text": "VARCHAR",
    "stars": "DOUBLE",
    "date": "VARCHAR",
}
REVIEW_REQUIRED = ("review_id", "user_id", "business_id", "text", "stars")
PHOTO_COLUMNS = {"photo_id": "VARCHAR", "business_id": "VARCHAR", "label": "VARCHAR"}
PHOTO_REQUIRED = ("photo_id", "business_id")
MALFORMED_LIMIT = 0.01
LOOKED_AT = 1000
"""Lines of a file that are looked at before it is read in bulk."""


@dataclass
class Tables:
    """What the selection works on, whatever the source.

    Args:
        reviews: review_id, user_id, business_id, stars, photo_key, words, and a column for each further source of a rule.
        full: the same rows with ``text``, by far the widest column, and ``date``: read from the file again where they
            are needed, which is faster than to store them for reviews that are not kept.
        photos: photo_id, photo_key, business_id, label: the photos of a review are those of its ``photo_key``.
        businesses: business_id and a column for each source of a rule; None: there are none.
        notes: what was read and what was not understood, for the manifest.
    """

    reviews: ir.Table
    full: ir.Table
    photos: ir.Table
    businesses: ir.Table | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def read_tables(engine: Engine, files: dict[str, Path], columns: Columns) -> Tables:
    """Return the raw files as tables.

    Args:
        files: paths of the business, review and photos files; without the last one there are no photos.
        columns: what the label rules read.

    Raises:
        UserError: more than 1 % of a file's lines are malformed, or a column cannot be read.
    """
    notes: dict[str, Any] = {"malformed_lines": {}}
    sources, of_businesses = (columns_of(columns, table) for table in ("review", "business"))
    raw = engine.read_json(files["review"], text_columns(sources, REVIEW_COLUMNS))
    raw = with_sources(raw, sources, tuple(REVIEW_COLUMNS))
    raw = raw.mutate(date=raw.date.fill_null(""), words=engine.words(raw.text))
    with ThreadPoolExecutor(1) as pool:  # the engine lets go of the interpreter's lock
        lines = pool.submit(engine.table, "review_lines", raw.drop("text", "date"))
        about: dict[str, Any] = {}
        keys = {key_of(name): min(reads) if len(reads) == 1 else "list" for name, reads in of_businesses.items()}
        businesses = read_businesses(files["business"], keys, about).rename_columns(["business_id", *of_businesses])
        reviews = well_formed(lines.result(), files["review"], REVIEW_REQUIRED, notes)
    if sources:
        notes["columns"] = check_columns(engine, reviews, sources, files["review"], columns_in(files["review"]))
    reviews, full = (
        table.mutate(photo_key=table.business_id) for table in (reviews, raw.filter(_complete(raw, REVIEW_REQUIRED)))
    )
    photos = _photo_rows(engine, files["photos"], notes) if "photos" in files else no_photos(engine)
    notes["malformed_lines"] |= about.pop("malformed_lines")
    return Tables(
        reviews=reviews,
        full=full,
        photos=photos,
        businesses=engine.table("businesses", businesses),
        notes=notes | about,
    )


def _photo_rows(engine: Engine, path: Path, notes: dict[str, Any]) -> ir.Table:
    """Return the photos of a file, and count them in ``notes``."""
    lines = engine.table("photo_lines", engine.read_json(path, PHOTO_COLUMNS))
    rows = well_formed(lines, path, PHOTO_REQUIRED, notes).mutate(label=ibis._.label.fill_null(""))
    # A photo id is one photo: of several rows the first in alphabetical order stays.
    order = ibis.row_number().over(group_by=rows.photo_id, order_by=[rows.business_id, rows.label])
    photos = rows.mutate(copy=order).filter(ibis._.copy == 0).drop("copy").mutate(photo_key=ibis._.business_id)
    photos = engine.table("photo_rows", photos)
    notes["photo_rows"] = _count(rows)
    notes["duplicate_photo_rows"] = notes["photo_rows"] - _count(photos)
    return photos


def no_photos(engine: Engine) -> ir.Table:
    """Return the photos of data without photos."""
    schema = pa.schema([(name, pa.string()) for name in ("photo_id", "photo_key", "business_id", "label")])
    return engine.table("photo_rows", schema.empty_table())


def well_formed(lines: ir.Table, path: Path, required: tuple[str, ...], notes: dict[str, Any]) -> ir.Table:
    """Return the rows that have all required fields, and stars that are a number; count the others in ``notes``.

    Raises:
        UserError: over 1 % are malformed; names the file and the first bad line.
    """
    good = lines.filter(_complete(lines, required))
    total = _count(lines)
    check_malformed(path, total - _count(good), total, required, notes)
    return good


def _complete(lines: ir.Table, required: tuple[str, ...]) -> list[ir.BooleanValue]:
    # Where the lines are without their text, ``words`` stands for it: it is null where the text is.
    conditions = [lines[name if name in lines.columns else "words"].notnull() for name in required]
    if "stars" in lines.columns:  # NaN and infinity are none
        conditions.append(lines.stars.isnull() | (lines.stars.abs() < LARGEST_NUMBER))
    return conditions


def check_malformed(path: Path, bad: int, total: int, required: tuple[str, ...], notes: dict[str, Any]) -> None:
    """Note the number of malformed lines of a file.

    Raises:
        UserError: there are no lines at all, or over 1 % are malformed.
    """
    if total == 0:
        raise UserError(f"{path} is empty: expected one JSON object a line")
    notes.setdefault("malformed_lines", {})[_plain_name(path)] = {"lines": total, "malformed": bad}
    if bad > MALFORMED_LIMIT * total:
        first = None if path.suffix.lower() == ".parquet" else first_malformed(path, required)
        where = f", the first is line {first[0]} ({first[1]})" if first else f" (needed: {', '.join(required)})"
        raise UserError(
            f"{path}: {bad} of {total} lines are malformed{where}: over 1 % is too many, get the file again"
        )


def _plain_name(path: Path) -> str:
    return path.name.removeprefix("yelp_academic_dataset_")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each line's number (from 1) with its object, or what is wrong with it; skip blank lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except UnicodeError:
                yield number, "not UTF-8"
            except ValueError:
                yield number, "not JSON"
            else:
                yield number, row if isinstance(row, dict) else "not a JSON object"


def columns_in(path: Path) -> list[str]:
    """Return the columns of a Parquet file, or of the first lines of JSON, in the order in which they first stand there."""
    if path.suffix.lower() == ".parquet":
        return list(parquet_schema(path).names)
    rows = islice(json_lines(path), LOOKED_AT)
    return list(dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row))


def first_malformed(path: Path, required: tuple[str, ...]) -> tuple[int, str] | None:
    """Return the number of the first line that is no JSON object with all required fields, and why."""
    for number, row in json_lines(path):
        if isinstance(row, str):
            return number, row
        absent = [name for name in required if not isinstance(row.get(name), str | int | float)]
        if absent:
            return number, f"no {absent[0]}"
        if row.get("stars") is not None and as_number(row["stars"]) is None:
            return number, "stars is not a number"
    return None


def _count(table: ir.Table) -> int:
    return int(table.count().execute())


# Business attributes. Every value is a string that holds a Python literal: "True", "u'free'", "{'lunch': True}".

NOT_A_LITERAL = object()
_FLAG_VALUES = {"True": True, "False": False, "None": None}
_FLAG = re.compile(r"'(\w+)': (True|False|None)")
_FLAGS = re.compile(r"\{(?:u?'\w+': (?:True|False|None)(?:, (?=u?')|(?=\})))*\}")


def literal(value: Any) -> Any:
    """Return the value of an attribute string; None when it says nothing, NOT_A_LITERAL when it is not Python.

    Values that are already numbers, booleans, lists or dicts are passed through.
    """
    return _parsed(value) if isinstance(value, str) else value


@lru_cache(maxsize=10_000)  # a hundred thousand businesses say the same few things
def _parsed(text: str) -> Any:
    if _FLAGS.fullmatch(text):  # ten times as fast as Python's own parser
        return {name: _FLAG_VALUES[value] for name, value in _FLAG.findall(text)}
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # TypeError: a list as a key
        return NOT_A_LITERAL


def as_flag(value: Any) -> bool | None:
    """Return a boolean, or None."""
    return value if isinstance(value, bool) else None


def as_number(value: Any) -> float | None:
    """Return a finite number, also one written as a string, or None."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) < LARGEST_NUMBER else None


def as_list(value: Any) -> list[str] | None:
    """Return names: the keys with True of a dict, the items of a list, or one value; None when there are none."""
    if isinstance(value, dict):
        names = [str(key) for key, flag in value.items() if flag is True]
    elif isinstance(value, list | tuple | set):
        names = sorted(str(item) for item in value)
    else:
        names = [] if value is None else [str(value)]
    return [name.encode("utf-8", "replace").decode("utf-8") for name in names] or None  # half a surrogate pair


def categories(value: Any) -> list[str] | None:
    """Return Yelp's one string ``Pizza, Coffee & Tea`` as a list."""
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else []
    return [name for name in names if name] or None


READERS: dict[str, tuple[Callable[[Any], Any], pa.DataType]] = {
    "flag": (as_flag, pa.bool_()),
    "number": (as_number, pa.float64()),
    "list": (as_list, pa.list_(pa.string())),
}


def read_businesses(path: Path, keys: dict[str, str], notes: dict[str, Any]) -> pa.Table:
    """Return a row per business: business_id and a column per key, null where nothing is known.

    ``categories``, ``stars`` and ``review_count`` are fields of the business itself, everything else of its attributes.
    """
    columns: dict[str, list[Any]] = {"business_id": [], **{key: [] for key in keys}}
    tally: dict[str, Counter[str]] = {key: Counter(known=0, unknown=0, not_a_literal=0) for key in keys}
    ids: set[str] = set()
    total = bad = 0
    for _, row in json_lines(path):
        total += 1
        if isinstance(row, str) or not isinstance(row.get("business_id"), str | int | float):
            bad += 1
            continue
        if row["business_id"] in ids:
            continue
        ids.add(row["business_id"])
        columns["business_id"].append(str(row["business_id"]))
        for key, reader in keys.items():
            value, state = _business_value(row, key, reader)
            columns[key].append(value)
            tally[key][state] += 1
    check_malformed(path, bad, total, ("business_id",), notes)
    notes["business_attributes"] = {key: dict(counts) for key, counts in tally.items()}
    types = [pa.field("business_id", pa.string()), *(pa.field(key, READERS[reader][1]) for key, reader in keys.items())]
    return pa.table(columns, schema=pa.schema(types))


def _business_value(row: dict[str, Any], key: str, reader: str) -> tuple[Any, str]:
    if key == "categories":
        value = categories(row.get("categories"))
    else:
        attributes = row.get("attributes")
        raw = attributes.get(key) if isinstance(attributes, dict) else None
        if raw is None and key in ("stars", "review_count"):
            raw = row.get(key)
        parsed = literal(raw)
        if parsed is NOT_A_LITERAL:
            return None, "not_a_literal"
        try:
            value = READERS[reader][0](parsed)
        except ValueError:  # a whole number of more digits than Python writes
            return None, "not_a_literal"
    return value, "unknown" if value is None else "known"
