"""Rows of an input file, one at a time and checked: JSON lines, CSV, Parquet, or JSON lines from standard input (``-``).

A row holds one user: ``{"user_id": "ann", "reviews": ["...", "..."], "photos": ["photos/1.jpg"], "captions": ["..."]}``.
``photos`` (relative to the input file) and ``captions`` (parallel to them) may be left out. In a cell of a CSV file a list
is written as in JSON; other text is a list of one item.
"""

import csv
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from mmprofile.errors import UserError

LINES = (".jsonl", ".ndjson", ".json")
LISTS = ("reviews", "photos", "captions")
SHOWN = 200
"""Characters of a bad row that are kept."""
LONGEST_CELL = 1 << 24
"""Characters of a cell of a CSV file; of more the quote was not closed."""
BATCH = 256
"""Rows of a Parquet file that are read at a time."""


@dataclass(frozen=True)
class InputUser:
    """A user of an input file; ``captions`` is empty or parallel to ``photos``, None where a photo has none."""

    user_id: str
    reviews: list[str]
    photos: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)


class BadRow(NamedTuple):
    """A row that is no user.

    Attributes:
        row: its number; rows are counted from 1, in a file of lines the lines.
        reason: why.
        text: how it begins.
    """

    row: int
    reason: str
    text: str


class _RawRow(NamedTuple):
    """A row before it is checked; ``reason``: why it cannot be read, or None."""

    number: int
    value: Any
    text: str
    reason: str | None = None


def read_rows(source: str) -> Iterator[InputUser | BadRow]:
    """Yield the users of a file, and what stands in the place of a user; only the ids are kept in memory.

    Args:
        source: a path, or ``-`` for standard input.

    Raises:
        UserError: the file cannot be read, is of another kind, or lacks the columns.
    """
    seen: set[int] = set()
    for raw in _raw_rows(source):
        if raw.reason is not None:
            yield BadRow(raw.number, raw.reason, raw.text[:SHOWN])
            continue
        try:
            user = _checked(raw.value, f"row-{raw.number}")
        except ValueError as error:
            yield BadRow(raw.number, str(error), raw.text[:SHOWN])
            continue
        key = hash(user.user_id)  # 64 bits: two of a million ids share one with a probability of 3e-8
        if key in seen:
            yield BadRow(raw.number, f"user_id {user.user_id!r} was there before", raw.text[:SHOWN])
            continue
        seen.add(key)
        yield user


def _raw_rows(source: str) -> Iterator[_RawRow]:
    if source == "-":
        if sys.stdin is None:
            raise UserError("input=-: the standard input is closed")
        return _json_rows(sys.stdin.buffer)
    path = Path(source).expanduser()
    kind = path.suffix.lower()
    if kind not in (*LINES, ".csv", ".parquet"):
        raise UserError(f"input={source}: the name should end in {', '.join(LINES)}, .csv or .parquet, or be -")
    if not path.is_file():
        raise UserError(f"input={source}: {'this is no regular file' if path.exists() else 'there is no such file'}")
    reader = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(kind, _file_of_lines)
    return reader(path)


def _file_of_lines(path: Path) -> Iterator[_RawRow]:
    try:
        with path.open("rb") as file:
            yield from _json_rows(file)
    except OSError as error:
        raise UserError(f"input={path}: cannot be read ({error.strerror})") from error


def _json_rows(lines: Iterable[bytes]) -> Iterator[_RawRow]:
    """Yield the values of the lines that are not blank."""
    for number, line in enumerate(lines, 1):
        content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not content.strip():
            continue
        text = content[: 4 * SHOWN].decode("utf-8", "replace").strip()
        try:
            yield _RawRow(number, json.loads(content.decode("utf-8")), text)
        except UnicodeDecodeError as error:
            yield _RawRow(number, None, text, f"no UTF-8 (byte {error.start + 1})")
        except RecursionError:
            yield _RawRow(number, None, text, "nested too deep")
        except ValueError as error:
            yield _RawRow(number, None, text, f"no JSON ({error})")


def _csv_rows(path: Path) -> Iterator[_RawRow]:
    """Yield the rows of a CSV file as mappings. A quote that is not closed spoils its own line, not those that follow."""
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = _Lines(file)
            names = [name.strip() for name in next(csv.reader(lines), [])]
            _check_columns(names, path)
            for number in count(2):
                lines.taken.clear()
                try:
                    cells = next(csv.reader(lines, strict=True))
                except StopIteration:
                    return
                except csv.Error as error:
                    first, *others = lines.taken
                    lines.put_back(others)
                    yield _RawRow(number, None, _writable(first), f"no CSV ({error})")
                    continue
                if cells:
                    yield _csv_row(number, names, cells)
    except (OSError, csv.Error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise UserError(f"input={path}: cannot be read ({reason})") from error


class _Lines:
    """The lines of a file; those that were taken can be put back."""

    def __init__(self, file: Iterable[str]) -> None:
        self._file, self._waiting = iter(file), deque[str]()
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._file)
        self.taken.append(line)
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        """Give lines again, in the same order, before the others."""
        self._waiting.extendleft(reversed(lines))


def _csv_row(number: int, names: list[str], cells: list[str]) -> _RawRow:
    text = _writable(",".join(cells))
    if len(cells) > len(names):
        return _RawRow(number, None, text, f"{len(cells)} cells in {len(names)} columns")
    row: dict[str, Any] = dict(zip(names, cells, strict=False))
    try:
        row |= {name: _cell(row[name]) for name in LISTS if name in row}
    except (ValueError, RecursionError) as error:
        return _RawRow(number, None, text, f"a cell that begins with [ is no JSON list ({error})")
    return _RawRow(number, row | {"user_id": row.get("user_id") or None}, text)


def _writable(text: str) -> str:
    """Return the beginning of a text, with question marks for what is no text."""
    return text[: 4 * SHOWN].strip().encode("utf-8", "replace").decode("utf-8")


def _cell(text: str) -> Any:
    """Return the list that a cell of a CSV file stands for."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [text] if text.strip() else []


def _parquet_rows(path: Path) -> Iterator[_RawRow]:
    """Yield the rows of a Parquet file as mappings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if name in ("user_id", *LISTS)]
        _check_columns(file.schema_arrow.names, path)
        number = 0
        for batch in file.iter_batches(batch_size=BATCH, columns=names):
            for place in range(batch.num_rows):
                number += 1
                try:
                    [row] = batch.slice(place, 1).to_pylist()
                except UnicodeDecodeError as error:
                    yield _RawRow(number, None, "", f"no UTF-8 (byte {error.start + 1})")
                    continue
                except (ValueError, OverflowError, pa.ArrowException) as error:  # a date in the year 3,000,000
                    yield _RawRow(number, None, "", f"no value of Python ({error})")
                    continue
                row |= {name: [row[name]] for name in LISTS if isinstance(row.get(name), str)}
                yield _RawRow(number, row, str(row)[:SHOWN])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"input={path}: cannot be read as Parquet ({error})") from error


def _check_columns(names: list[str], path: Path) -> None:
    if not {"reviews", "photos"} & set(names):
        raise UserError(f"input={path}: no column reviews or photos; it has: {', '.join(names) or 'none'}")


def _checked(row: Any, default_id: str) -> InputUser:
    """Return the user of a row.

    Raises:
        ValueError: says why it is none.
    """
    if not isinstance(row, dict):
        raise ValueError("expected an object with reviews, photos")
    lists = {key: row.get(key) or [] for key in LISTS}
    for key, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) or value is None for value in values):
            raise ValueError(f"{key!r} must be a list of strings")
        if any(value and _unwritable(value) for value in values):
            raise ValueError(f"{key!r} has characters that are no text (NUL, or half of a surrogate pair)")
    given = row.get("user_id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise ValueError("'user_id' must be a string or a whole number")
    user = InputUser(
        user_id=default_id if given is None else str(given),
        reviews=[text for text in lists["reviews"] if text and text.strip()],
        photos=[photo for photo in lists["photos"] if photo is not None],
        captions=lists["captions"],
    )
    if _unwritable(user.user_id):
        raise ValueError("'user_id' has characters that are no text (NUL, or half of a surrogate pair)")
    if len(user.photos) < len(lists["photos"]):
        raise ValueError("'photos' has an empty place")
    if not user.reviews and not user.photos:
        raise ValueError(f"user {user.user_id!r} has neither reviews nor photos")
    if user.captions and len(user.captions) != len(user.photos):
        raise ValueError(f"{len(user.captions)} captions for {len(user.photos)} photos; give one for each, or null")
    return user


def _unwritable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
