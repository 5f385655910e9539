"""Gold values of people, the lines of their files, and their splits: what all readers of people share."""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from datamodules.files import intact
from mmprofile.errors import UserError
from mmprofile.files import read_numbered_lines
from mmprofile.inputs.views import SPLITS
from mmprofile.profile.schema import UNKNOWN, Profile, Schema

SHARES = (70, 10, 20)  # per cent of people without a split, by a hash of their ids


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
