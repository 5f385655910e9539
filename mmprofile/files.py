"""Files that are whole or not there, JSON without NaN, JSON lines, and YAML whose names and values are what was written.

Also the lock of a folder, and what the disk reports.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from mmprofile.errors import UserError

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
"""What code raises that takes parsed data apart which have another form than it expects."""
LARGEST_YAML, DEEPEST_YAML = 1_000_000, 50
"""Bytes of a YAML file, and levels in it. A schema of 1,000 values takes 30 kB and 4 levels."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the path to write to; afterwards the file is renamed to ``path``, which is thus whole or not there.

    Raises:
        OSError: as writing and renaming do. What was at ``path`` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk: a power cut loses them no more."""
    if os.name == "nt" and path.is_dir():  # Windows does not open folders
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_of(folder: Path) -> FileLock:
    """Return the lock of a folder, the same one throughout a process. The system frees it when the process ends."""
    return FileLock(folder.absolute() / "lock", is_singleton=True)


_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "choose another folder",
    errno.EACCES: "choose another folder",
    errno.ENOENT: "was it removed?",
}


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk reports of files in a folder into one line; errors of other files are left as they are.

    Raises:
        UserError: a file cannot be read or written.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _told_errno(error, folder)
        name = getattr(error, "filename", None)
        name = name if isinstance(name, str | Path) else str(folder)
        if number is None or not Path(name).absolute().is_relative_to(folder.absolute()):
            raise
        advice = _ADVICE.get(number, "check the disk")
        raise UserError(f"{name}: {os.strerror(number)}: {advice}, then run the same command again") from error


def _told_errno(error: Exception, folder: Path) -> int | None:
    """Return the number of a failed write that torch, and safetensors and tokenizers in Rust, only tell in their message."""
    if isinstance(error, RuntimeError) and re.search(
        r"inline_container\.cc.*unexpected pos|StreamWriter failed", str(error)
    ):
        return errno.ENOSPC if shutil.disk_usage(folder).free < 2**20 else errno.EIO
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = int(found[1]) if found else None
    return number if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS) else None


@contextmanager
def alone_in(folder: Path, other: str) -> Iterator[None]:
    """Let this process alone write a folder, which is made if it is not there; what the disk reports is one line.

    Args:
        folder: where :func:`lock_of` is held until the end.
        other: the settings that choose another folder, for the messages: ``out=``.

    Raises:
        UserError: another process holds the lock, or the disk fails.
    """
    lock = lock_of(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another process is at work on {folder}: wait for it, or choose another {other}") from error
    except OSError as error:
        raise UserError(f"cannot write the folder {folder}: {error.strerror}; choose another {other}") from error
    try:
        with disk_errors(folder):
            yield
    finally:
        lock.release()


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


def parse_json(text: str | bytes) -> Any:
    """Return the value that a text is, or one in UTF-8.

    Raises:
        ValueError: it is no JSON, is nested too deep, or has half of a surrogate pair, which is no text.
    """
    text = text if isinstance(text, str) else text.decode("utf-8")
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def read_json(path: Path) -> Any:
    """Return the value that a file holds, behind a byte order mark or not.

    Raises:
        OSError, ValueError: it cannot be read, or is no JSON (:func:`parse_json`).
    """
    return parse_json(path.read_bytes().decode("utf-8-sig"))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the object of each line. Only line feeds end a line: a text may hold other separators.

    Raises:
        OSError, ValueError: the file cannot be read, or a line is no JSON.
    """
    with path.open("rb") as file:
        return [parse_json(line) for line in file if line != b"\n"]


class JsonLine(NamedTuple):
    """The JSON value of a line; ``place`` names it in error messages, such as ``users.jsonl, line 3``."""

    number: int
    place: str
    value: Any


def read_numbered_lines(path: Path, setting: str, content: str) -> Iterator[JsonLine]:
    """Yield the lines that are not blank; they are counted from 1. A byte order mark may stand before the first.

    Args:
        path: a file that a user wrote.
        setting: where the path was given, such as ``input``; error messages name it.
        content: what a line should hold, such as ``user``.

    Raises:
        UserError: the file cannot be read, or a line is no JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting}={path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            value = parse_json(line)
        except ValueError as error:
            raise UserError(f"{place}: no JSON ({error}); expected one {content} a line") from error
        yield JsonLine(number, place, value)


def size(count: float) -> str:
    """Return a number of bytes in words: 12 MB, 1.4 GB, 87 GB (powers of 1000)."""
    for unit, bytes_of_it in (("TB", 1e12), ("GB", 1e9)):
        if count >= bytes_of_it:
            return f"{count / bytes_of_it:.{1 if count < 10 * bytes_of_it else 0}f} {unit}"
    return f"{count / 1e6:.{1 if count < 1e7 else 0}f} MB"


def without_nan(value: Any) -> Any:
    """Return the value with None for every NaN in it, since JSON has no NaN; tuples become lists."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def read_yaml_text(path: Path) -> str:
    """Return the text of a YAML file that is safe to parse: of a bounded size and depth, and without aliases.

    A few aliases of aliases (``*name``) stand for more values than memory holds.

    Raises:
        OSError, ValueError, yaml.YAMLError: the file cannot be read, or is not safe.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_YAML + 1)
    if len(content) > LARGEST_YAML:
        raise ValueError(f"it is larger than {size(LARGEST_YAML)}")
    text, depth = content.decode("utf-8"), 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST_YAML:
            problem = "an alias (*name) is not read" if depth <= DEEPEST_YAML else "it is nested too deep"
            raise ValueError(problem)
    return text


class _AsWritten(yaml.SafeLoader):
    """YAML 1.1 takes ``yes``, ``no`` and ``on`` for truth values, ``010`` for 8 and ``12:30`` for 750.

    In a profile schema ``name``, ``values`` and a rule's ``of`` stay the text that was written.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        for key, value in node.value:
            if key.value in ("name", "values", "of"):
                for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(item, yaml.ScalarNode):
                        item.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def read_schema_file(path: Path) -> dict[str, Any]:
    """Return the mapping of a profile schema's YAML file; names and values are texts, as they were written.

    Raises:
        UserError: the file cannot be read, or holds no mapping.
    """
    try:
        data = yaml.load(read_yaml_text(path), _AsWritten)
    except (OSError, yaml.YAMLError, *MALFORMED) as error:
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        raise UserError(f"profile schema {path}: cannot be read ({reason})") from error
    if not isinstance(data, dict):
        raise UserError(f"profile schema {path}: expected a mapping with `name` and `attributes`")
    return data
