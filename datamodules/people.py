"""People for the auxiliary language-model stage: the users of a prepared folder, or JSON lines of reviews and cues."""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from datamodules.prepared import open_prepared
from mmprofile.errors import UserError
from mmprofile.llm.people import CUES, Person
from mmprofile.profile import UNKNOWN, Profile, Schema

SPLITS = ("train", "validation", "test")
FORMATS = ("people", "synthpai")
FIELDS = ("user_id", "reviews", *CUES, "split", "gold")
SHARES = (70, 10, 20)  # per cent of people without a split, by a hash of their ids


def read_people(source: str | Path, schema: Schema, input_format: str = "people") -> list[Person]:
    """People of a prepared folder or of a JSONL file.

    Args:
        source: a prepared folder: its users, with gold values from ``gold_text_only.parquet`` where there is one; or a file of
            objects with ``user_id`` and any of ``reviews`` (a list), the kinds of cues (a text or a list each), ``split`` and
            ``gold`` (attribute -> value; null or "Unknown": known to be unknown).
        schema: what gold values must belong to.
        input_format: of a file: ``people``, as said, or ``synthpai`` (:mod:`datamodules.synthpai`).

    Raises:
        UserError: it cannot be read, a line is no person, a user is there twice, or a gold value is not in the schema.
    """
    source = Path(source).expanduser()
    if input_format not in FORMATS:
        raise UserError(f"input_format={input_format!r} is none of {', '.join(FORMATS)}")
    if input_format == "synthpai":
        if source.is_dir():
            raise UserError(f"input_format={input_format}: {source} is a folder; give input=..., the file of comments")
        from datamodules.synthpai import read_synthpai  # which asks this module for the splits

        return read_synthpai(source, schema)
    if source.is_dir():
        return _prepared(source, schema)
    people = [_person(row, where, schema) for row, where in read_lines(source)]
    if not people:
        raise UserError(f"input={source}: nobody in it")
    seen = set[str]()
    for person in people:
        if person.user_id in seen:
            raise UserError(f"input={source}: user_id {person.user_id!r} stands there more than once; join their texts")
        seen.add(person.user_id)
    return people


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a JSONL file, each with its file and line number.

    Raises:
        UserError: it cannot be read, or a line is no object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other line breaks as they are
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"input={path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: no JSON ({error}); expected an object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, not {line.strip()[:40]!r}")
        yield row, where


def _prepared(folder: Path, schema: Schema) -> list[Person]:
    prepared = open_prepared(folder)
    gold = read_gold(folder, schema)
    return [
        Person(
            row["user_id"], tuple(review["text"] for review in row["reviews"]), {}, split, gold.get(row["user_id"], {})
        )
        for split in SPLITS
        for row in prepared.datasets[split]
    ]


def read_gold(folder: Path, schema: Schema) -> dict[str, Profile]:
    """User -> gold values of text-only attributes, for evaluation only; nobody's where the folder has no such table.

    Raises:
        UserError: a value that the schema does not have.
    """
    path = folder / "gold_text_only.parquet"
    if not path.is_file():
        return {}
    rows = {row.pop("user_id"): row for row in pq.read_table(path).to_pylist()}
    return {user: gold_profile(row, schema, str(path)) for user, row in rows.items()}


def gold_profile(row: Mapping[str, Any], schema: Schema, where: str) -> Profile:
    """Gold values, ``()`` where they are known to be unknown; attributes of another schema are left out.

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
    """A split by a hash of the id, in the shares of :data:`SHARES`."""
    place = zlib.crc32(user_id.encode()) % 100
    return SPLITS[0] if place < SHARES[0] else SPLITS[1] if place < sum(SHARES[:2]) else SPLITS[2]


def _person(row: dict[str, Any], where: str, schema: Schema) -> Person:
    if not isinstance(row.get("user_id"), str) or not row["user_id"]:
        raise UserError(f"{where}: expected an object with user_id, a text")
    if unknown := sorted(set(row) - set(FIELDS)):
        raise UserError(f"{where}: {unknown[0]!r} is none of {', '.join(FIELDS)}")
    texts = {name: _texts(row.get(name), f"{where}: {name}") for name in ("reviews", *CUES)}
    if not any(texts.values()):
        raise UserError(f"{where}: nothing is known of {row['user_id']!r}; give reviews or one of {', '.join(CUES)}")
    split = row.get("split") or split_of(row["user_id"])
    if split not in SPLITS:
        raise UserError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
    gold = row.get("gold") or {}
    if not isinstance(gold, dict) or (strange := sorted(set(gold) - set(schema.names))):
        raise UserError(
            f"{where}: gold has {strange[0] if isinstance(gold, dict) else gold!r}, which the schema does not have"
        )
    cues = {name: texts[name] for name in CUES if texts[name]}
    return Person(row["user_id"], texts["reviews"], cues, split, gold_profile(gold, schema, where))


def _texts(given: Any, where: str) -> tuple[str, ...]:
    values = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(value, (str, int)) and not isinstance(value, bool) for value in values):
        raise UserError(f"{where}: expected a text or a list of texts")
    return tuple(str(value) for value in values if str(value).strip())
