"""A person's rows in the files of runs: JSON lines, CSV and Parquet are rewritten, whole files about a person are removed.

Every file is replaced at once, so that whoever has the old one open or memory-mapped reads on in it.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmprofile.errors import UserError, counted
from mmprofile.files import MALFORMED, parse_json, whole, write_text

LINES = (".jsonl", ".ndjson", ".partial")
SETTINGS = ("config.yaml", "schema.yaml", "lock")
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pth")
"""Weights hold no row of anybody: the command names the models instead."""
LONG = 40
"""Characters of a review that is looked for; a shorter one may be somebody else's, too."""

DISTINCT = 8
"""Characters of a raw id that is looked for in paths; a shorter one may be the name of anything."""


@dataclass
class Person:
    """What a person is found by.

    Attributes:
        raw: the id as it was given; it may be a short text that means something else elsewhere.
        names: ids that stand for nobody else: hashed ones, of the person, the reviews and the photos.
        texts: of the reviews.
        hashed: a raw id -> the hashed ones that prepared data may show.
    """

    raw: str
    names: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    hashed: Callable[[str], set[str]] = field(default=lambda raw: set())

    def is_called(self, user: str) -> bool:
        """Return whether a user's id, raw or hashed, is the person's."""
        return user == self.raw or user in self.names or not self.names.isdisjoint(self.hashed(user))

    def in_value(self, value: Any, key: str = "") -> bool:
        """Return whether a value of JSON tells of the person, at any depth."""
        if isinstance(value, Mapping):
            return any(name in self.names or self.in_value(item, name) for name, item in value.items())
        if isinstance(value, list):
            return any(self.in_value(item, key) for item in value)
        if not isinstance(value, str):
            return False
        if key == "user_id" and self.is_called(value):
            return True
        return value in self.names or any(text in value for text in self.long_texts) or self._in_path(value)

    @property
    def long_texts(self) -> list[str]:
        """The reviews that are long enough to be nobody else's."""
        return [text for text in self.texts if len(text) >= LONG]

    def in_bytes(self, content: bytes) -> bool:
        """Return whether a file of any kind has one of the names in it."""
        return any(name.encode() in content for name in self.names)

    def _in_path(self, value: str) -> bool:
        parts = value.replace("\\", "/").split("/") if len(value) < 4096 else []
        return len(parts) > 1 and len(self.raw) >= DISTINCT and self.raw in parts


@dataclass(frozen=True)
class Change:
    """What has to be done to a file, and how it is said."""

    path: Path
    what: str
    action: Callable[[], object]

    def apply(self) -> None:
        """Do it."""
        self.action()


def changes_in(folders: Sequence[Path], person: Person) -> Iterator[Change]:
    """Yield what has to be done to the files below some folders, or to files themselves."""
    for top in folders:
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.name not in SETTINGS and path.suffix not in WEIGHTS:
                with searched(path):
                    change = _change(path, person)
                if change is not None:
                    yield change


@contextmanager
def searched(path: Path) -> Iterator[None]:
    """Say in one line that a file, or one of a folder's, cannot be searched: nothing tells whether the person is in it.

    Raises:
        UserError: it cannot.
    """
    try:
        yield
    except (OSError, csv.Error, pa.ArrowException, *MALFORMED) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read ({reason}): remove it, and forget the person again") from error


def _change(path: Path, person: Person) -> Change | None:
    if any(name in path.name for name in person.names):
        return _removal(path)
    if path.suffix in LINES:
        return _lines(path, person)
    if path.suffix == ".parquet":
        return without_rows(path, "user_id", person.is_called)
    if path.suffix == ".csv":
        return _csv(path, person)
    content = path.read_bytes()
    if path.suffix == ".json":
        return _removal(path) if _tells(content.decode("utf-8", "replace"), person) else None
    return _removal(path) if person.in_bytes(content) else None


def _removal(path: Path) -> Change:
    return Change(path, "the file", path.unlink)


def _lines(path: Path, person: Person) -> Change | None:
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    tells = [_tells(line, person) for line in lines]
    if not any(tells):
        return None
    gone, kept = (
        [line for line, theirs in zip(lines, tells, strict=True) if theirs is wanted] for wanted in (True, False)
    )
    photos = _own_photos(path, [_value(line) for line in gone], person)

    def apply() -> None:
        for photo in photos:
            photo.unlink(missing_ok=True)
        with whole(path) as partial:
            partial.write_bytes("\n".join(kept).encode("utf-8", "surrogateescape"))

    what = f"{len(gone)} of {len([line for line in lines if line])} rows"
    return Change(path, what + (f" and {counted(len(photos), 'photo')}" if photos else ""), apply)


def _own_photos(path: Path, rows: Sequence[Any], person: Person) -> list[Path]:
    """Return the photos that :mod:`mmprofile.predict.fit` wrote for the rows of a person, and for nobody else's."""
    folder = path.parent.parent / "photos"
    if path.parent.parent.name != "people":
        return []
    named = {str(photo) for row in rows if isinstance(row, Mapping) for photo in row.get("photos") or []}
    lines = (
        line for file in path.parent.parent.glob("*/reviews.jsonl") for line in file.read_text("utf-8").split("\n")
    )
    others = [line for line in lines if not _tells(line, person)]
    names = {Path(photo).name for photo in named if not any(photo in line for line in others)}
    return [folder / name for name in sorted(names) if (folder / name).is_file()]


def _value(text: str) -> Any:
    try:
        return parse_json(text) if text.strip() else None
    except ValueError:
        return None


def _tells(text: str, person: Person) -> bool:
    """Return whether a text of JSON tells of the person; of one that is torn or no JSON, the words are looked at."""
    value = _value(text)
    if value is None:
        return any(name in text for name in (*person.names, f'"{person.raw}"'))
    return person.in_value(value)


def _csv(path: Path, person: Person) -> Change | None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    kept = [
        row for row in rows if not any(person.in_value(cell, name) for name, cell in zip(rows[0], row, strict=False))
    ]
    if len(kept) == len(rows):
        return None
    text = io.StringIO(newline="")
    csv.writer(text).writerows(kept)
    return Change(path, f"{len(rows) - len(kept)} of {len(rows)} rows", lambda: write_text(path, text.getvalue()))


def without_rows(path: Path, column: str, gone: Callable[[str], bool]) -> Change | None:
    """Return the change that takes rows out of a Parquet file; None where there are none to take.

    Args:
        path: the file.
        column: of ids; a file without it has no row of anybody.
        gone: whether the row with such an id goes.
    """
    with path.open("rb") as file:
        if column not in pq.read_schema(file).names:
            return None
        table = pq.read_table(file)
    keep = [not gone(value) for value in table[column].to_pylist()]
    if all(keep):
        return None

    def apply() -> None:
        with whole(path) as partial:
            pq.write_table(table.filter(pa.array(keep)), partial)

    return Change(path, f"{len(keep) - sum(keep)} of {len(keep)} rows", apply)


def opened_files(folders: Sequence[Path]) -> list[Path]:
    """Return the files below some folders that other processes have open, as far as the system tells (Linux)."""
    found, tops = [], [folder.resolve() for folder in folders]
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        if link.parts[2] == str(os.getpid()):
            continue
        try:
            path = link.readlink()
        except OSError:  # not ours, or gone
            continue
        if any(path.is_relative_to(top) for top in tops):
            found.append(path)
    return found
