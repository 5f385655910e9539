"""Gold values of people, the lines of their files, and their splits: what all readers of people share."""

import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from datamodules.files import intact
from mmprofile.errors import UserError
from mmprofile.files import read_numbered_lines
from mmprofile.inputs.views import SPLITS
from mmprofile.llm.people import Person
from mmprofile.profile.schema import UNKNOWN, Profile, Schema

SHARES = (70, 10, 20)  # per cent of people without a split, by a hash of their ids
AGES = {
    "18-24": range(18, 25),
    "25-34": range(25, 35),
    "35-49": range(35, 50),
    "50-64": range(50, 65),
    "65+": range(65, 130),
}
Reading = Callable[[Any], str | None]
"""Published value -> the value of ours that it is, or None where it is none."""
Fields = Mapping[str, tuple[tuple[str, ...], Reading]]
"""Attribute -> where its published value may stand (``education.degree``), and how it is read."""


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a JSONL file, each with its file and line number.

    Raises:
        UserError: it cannot be read, or a line is no object.
    """
    for line in read_numbered_lines(path, "input", "object"):
        if not isinstance(line.value, dict):
            raise UserError(
                f"{line.place}: expected an object, not {json.dumps(line.value, ensure_ascii=False)[:40]!r}"
            )
        yield line.value, line.place


def read_gold(folder: Path, schema: Schema) -> dict[str, Profile]:
    """Return user -> gold values of text-only attributes, for evaluation only; nothing where a folder has no such table.

    Raises:
        UserError: a value that the schema does not have.
    """
    path = folder / "gold_text_only.parquet"
    if not path.is_file():
        return {}
    with intact(path, "prepare the data again"):
        rows = {row.pop("user_id"): row for row in pq.read_table(path).to_pylist()}
    return {user: gold_profile(row, schema, str(path)) for user, row in rows.items()}


def gold_profile(row: Mapping[str, Any], schema: Schema, where: str) -> Profile:
    """Return gold values, ``()`` where they are known to be unknown; attributes of another schema are left out.

    Raises:
        UserError: a value that the schema does not have.
    """
    profile: Profile = {}
    for name in schema.names:
        if name not in row:
            continue
        value = row[name]
        if value is None or value == UNKNOWN:
            profile[name] = ()
        elif value in schema[name].values:
            profile[name] = (value,)
        else:
            raise UserError(f"{where}: gold {name} {value!r} is not in the schema: {', '.join(schema[name].values)}")
    return profile


def split_of(user_id: str) -> str:
    """Return a split by a hash of the id, in the shares of :data:`SHARES`."""
    place = zlib.crc32(user_id.encode()) % 100
    return SPLITS[0] if place < SHARES[0] else SPLITS[1] if place < sum(SHARES[:2]) else SPLITS[2]


def plain(value: Any) -> str:
    """Return a text in lower case, with single blanks and straight apostrophes; nothing of what is no text."""
    return " ".join(value.lower().replace("’", "'").split()) if isinstance(value, str) else ""


def spelled(spellings: Mapping[str, str]) -> Reading:
    """Return a reading by regular expressions, value of ours -> how it may be spelled; whole :func:`plain` texts must match."""
    return partial(_spelled, spellings)


def _spelled(spellings: Mapping[str, str], value: Any) -> str | None:
    text = plain(value)
    return next((name for name, spelling in spellings.items() if re.fullmatch(spelling, text)), None)


def age_group(value: Any) -> str | None:
    """Return the group of :data:`AGES` of a number of years, or of a range of them that lies in one group."""
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    match = re.fullmatch(r"(\d{1,3})(?:\.0)?(?:\s*[-–]\s*(\d{1,3}))?", text.strip())
    ages = [int(age) for age in match.groups() if age] if match else []
    groups = {next((name for name, years in AGES.items() if age in years), None) for age in ages}
    return groups.pop() if len(groups) == 1 else None


class LeftOut:
    """What a reader leaves out of a benchmark's files: how often, for which reason, and where the first time."""

    def __init__(self) -> None:
        self._counts, self._first = Counter[str](), dict[str, str]()

    def add(self, reason: str, where: str) -> None:
        """Count one more."""
        self._counts[reason] += 1
        self._first.setdefault(reason, where)

    def not_understood(self, key: str, value: Any, where: str) -> None:
        """Count a gold value that has none of the known spellings."""
        seen = f"{value!r:.60}" if isinstance(value, str | int | float) else type(value).__name__
        self.add("gold values not understood and left out", f"{where}: {key} {seen}")

    def report(self, source: Path, summary: str, people: Sequence[Person]) -> None:
        """Print what was read and what was left out on standard error.

        Raises:
            UserError: nobody is left.
        """
        lines = [f"{count:,} {reason}, the first: {self._first[reason]}" for reason, count in self._counts.items()]
        if not people:
            raise UserError("; ".join([f"input={source}: nobody in it", *lines]))
        print("\n  ".join([f"{source}: {summary}", *lines]), file=sys.stderr)


def at(content: Any, path: str) -> Any:
    """Return what stands at a place such as ``actions.ac.mode`` in objects; None where nothing does, or an empty text."""
    for key in path.split("."):
        content = content.get(key) if isinstance(content, dict) else None
    return None if content == "" else content


def understood(fields: Fields, content: Any, where: str, left: LeftOut) -> dict[str, str]:
    """Return attribute -> value of ours. Of several places the first counts that is not empty."""
    gold = dict[str, str]()
    for attribute, (paths, read) in fields.items():
        path = next((path for path in paths if at(content, path) is not None), None)
        if path is None:
            continue
        if value := read(at(content, path)):
            gold[attribute] = value
        else:
            left.not_understood(path, at(content, path), where)
    return gold


def published(folder: Path, *names: str) -> list[Path]:
    """Return files of a benchmark's folder.

    Raises:
        UserError: one of them is not there.
    """
    paths = [folder / name for name in names]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UserError(f"input={folder}: expected a folder with {', '.join(names)}; there is no {missing[0]}")
    return paths
