"""Labels of a user's own file: a bad row or value among many is left out, counted and named."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from datamodules.files import intact
from datamodules.labels import Labels, as_label
from datamodules.yelp import json_lines
from mmprofile.errors import UserError, counted, nearest
from mmprofile.profile.schema import UNKNOWN, Attribute, Profile, Schema

SHOWN = 5
"""Wrong values of an attribute that are named."""


@dataclass
class GivenLabels:
    """The labels of a file.

    Attributes:
        labels: raw user id -> profile.
        columns: the attributes that the file has a column for.
        rows: their number.
        left_out: why rows are left out, by their number.
        given: attribute -> the number of users with a value.
        wrong: attribute -> value that is none of the schema -> the number of users.
        strangers: the number of users who have no reviews that are kept.
    """

    labels: Labels = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    rows: int = 0
    left_out: dict[int, str] = field(default_factory=dict)
    given: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, Counter[str]] = field(default_factory=dict)
    strangers: int = 0

    def notes(self) -> dict[str, Any]:
        """Return what the manifest says of the file."""
        return {
            "rows": self.rows,
            "left_out": len(self.left_out),
            "wrong": {name: dict(values) for name, values in self.wrong.items()},
            "users_without_reviews": self.strangers,
        }

    def lines(self, schema: Schema) -> list[str]:
        """Return a line for each thing that was left out."""
        lines = [f"{_wrong_values(schema[name], self)}: these labels are left out" for name in self.wrong]
        if self.left_out:
            number, reason = next(iter(self.left_out.items()))
            lines.append(
                f"{len(self.left_out):,} of {self.rows:,} rows are left out; the first is row {number}: {reason}"
            )
        if self.strangers:
            lines.append(f"{self.strangers:,} of {len(self.labels):,} users have no reviews that are kept")
        return lines


def read_labels(path: Path, schema: Schema, people: set[str]) -> GivenLabels:
    """Return the labels of a file of JSON lines or Parquet.

    Args:
        path: rows of ``user_id`` and attributes of the schema.
        schema: names may be written in any case.
        people: raw ids of the users who have reviews that are kept.

    Raises:
        UserError: there is no row, a column is no attribute, most rows cannot be used, most values of an attribute are none
            of the schema's, or nobody in the file has reviews.
    """
    found = GivenLabels()
    for number, row in label_rows(path):
        found.rows += 1
        reason = row if isinstance(row, str) else unusable(row, found.labels)
        if reason is not None or isinstance(row, str):
            found.left_out[number] = str(reason)
            continue
        user = str(row.pop("user_id"))
        found.labels[user] = _profile(row, schema, found, f"{path}, row {number}")
    if not found.rows:
        raise UserError(f"{path} is empty: expected a row for each user, with user_id and attributes")
    if 2 * len(found.left_out) > found.rows:
        number, reason = next(iter(found.left_out.items()))
        raise UserError(
            f"{path}: {len(found.left_out)} of {found.rows} rows cannot be used, the first is row {number}: {reason}"
        )
    for name, values in found.wrong.items():
        if 2 * values.total() > found.given[name]:
            raise UserError(f"{path}: {_wrong_values(schema[name], found)}: correct the labels or the profile schema")
    found.strangers = len(found.labels.keys() - people)
    if found.labels and found.strangers == len(found.labels):
        raise UserError(
            f"{path}: none of its {found.strangers} users has reviews that are kept; its ids look like "
            f"{next(iter(found.labels))!r}, those of the reviews like {min(people, default='')!r}"
        )
    return found


def label_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each row's number (from 1) with the row, or what is wrong with it.

    Raises:
        UserError: the file cannot be read.
    """
    if path.suffix.lower() != ".parquet":
        yield from json_lines(path)
        return
    with intact(path, "write it again as Parquet"):
        rows = pq.read_table(path).to_pylist()
    yield from enumerate(rows, start=1)


def unusable(row: Mapping[str, Any], labels: Collection[str]) -> str | None:
    """Return why a row cannot be used."""
    if row.get("user_id") is None:
        return "no user_id"
    return f"user {row['user_id']!r} has a row already" if str(row["user_id"]) in labels else None


def _profile(row: Mapping[str, Any], schema: Schema, found: GivenLabels, where: str) -> Profile:
    """Return the labels of a row, and count those that are wrong.

    Raises:
        UserError: a column is no attribute.
    """
    profile: Profile = {}
    for name, value in row.items():
        if name.lower() not in {known.lower() for known in schema.names}:
            raise UserError(
                f"{where}: {name!r} is no attribute of the profile schema{nearest(name, schema.names)}; it has: "
                f"{', '.join(schema.names)}"
            )
        attribute = schema[name]
        found.columns.add(attribute.name)
        try:
            values = _values(attribute, value)
        except ValueError as error:
            found.given[attribute.name] += 1
            found.wrong.setdefault(attribute.name, Counter())[str(error)] += 1
            continue
        if values is not None:
            found.given[attribute.name] += 1
            profile[attribute.name] = values
    return profile


def label_texts(value: Any) -> list[str]:
    """Return the items of a cell as texts: empty ones and NaN are none, and whole numbers have no ``.0``."""
    items = [
        item for item in (value if isinstance(value, list) else [value]) if item not in (None, "") and item == item
    ]
    return [str(int(item)) if isinstance(item, float) and item.is_integer() else str(item).strip() for item in items]


def _values(attribute: Attribute, value: Any) -> tuple[str, ...] | None:
    """Return the values of a label, () for Unknown; None where it is no label.

    Raises:
        ValueError: says what is no value, as the file has it.
    """
    spelled = {known.lower(): known for known in (*attribute.values, *attribute.empty)}
    if value == [] and attribute.empty:
        return attribute.empty
    texts = label_texts(value)
    known = [*dict.fromkeys(text for text in texts if text.lower() != UNKNOWN.lower())]
    if not known:
        return () if texts and attribute.unknown else None
    if attribute.kind == "number" and len(known) == 1 and (number := _number(known[0])) is not None:
        return as_label(number)
    values = [spelled.get(text.lower(), text) for text in known]
    if not attribute.allows(values):
        raise ValueError(", ".join(known))
    return attribute.canonical(values)


def _number(text: str) -> float | None:
    """Return the finite number that a text is; None where it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _wrong_values(attribute: Attribute, found: GivenLabels) -> str:
    """Return what is wrong with the labels of an attribute."""
    wrong = found.wrong[attribute.name]
    shown = ", ".join(repr(value) for value, _ in wrong.most_common(SHOWN)) + (", ..." if len(wrong) > SHOWN else "")
    wanted = f"one of {', '.join(attribute.values)}"
    if attribute.sizes != "1":
        wanted = f"{attribute.sizes} different values of {', '.join(attribute.values)}"
    elif attribute.kind == "number":
        wanted = "a number"
    hint = nearest(wrong.most_common(1)[0][0], attribute.values)
    users = counted(found.given[attribute.name], "user")
    return f"{wrong.total():,} of {users}: {attribute.name}={shown} is not {wanted}{hint}"
