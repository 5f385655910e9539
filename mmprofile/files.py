"""Files that are whole or not there, JSON without NaN, and JSON lines."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the path to write to; afterwards the file is renamed to ``path``, which is thus whole or not there.

    Raises:
        OSError: as writing and renaming do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    yield partial
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with line feeds as they are, on every system; whole or not at all."""
    with whole(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def write_json(path: Path, content: Any, ensure_ascii: bool = True) -> None:
    """Write indented JSON, keys in the order given; whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=ensure_ascii) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line; whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the object of each line. Only line feeds end a line: a text may hold other separators.

    Raises:
        OSError, ValueError: the file cannot be read, or a line is no JSON.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def without_nan(value: Any) -> Any:
    """Return the value with None for every NaN in it, since JSON has no NaN; tuples become lists."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
