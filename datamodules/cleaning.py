"""The prepared folders in the cache: which of them does no command lead to any more, and may go?

A folder stays where this is not certain: where its raw files are others than those of the present command, where something
was made for it that a preparation does not make, or where a process has it open.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from typing import Any

from datamodules.destination import EARLIER, left_behind
from datamodules.faults import explained
from datamodules.options import ON_THIS_MACHINE, Options
from datamodules.prepare import Preparation
from datamodules.prepared import FORMAT_VERSION, in_use, read_manifest
from datamodules.progress import Progress
from mmprofile.errors import UserError
from mmprofile.files import size
from mmprofile.paths import cache_dir
from mmprofile.profile.schema import Schema

PARTS = ("selection", "split", "photos", "engine")
AGES = ((86400, "days"), (3600, "hours"), (60, "minutes"))


@dataclass(frozen=True)
class Entry:
    """A folder in the cache.

    Attributes:
        path: where it lies.
        content: the data, and the number of users.
        bytes: of its files.
        written: when, in seconds as of ``time.time``.
        kept: why it stays; None: it may go.
        reason: why it may go.
    """

    path: Path
    content: tuple[str, str]
    bytes: int
    written: float
    kept: str | None
    reason: str = ""


def clean(prepare: Mapping[str, Any], schema: Schema, remove: bool) -> str:
    """Return a table of the prepared folders in the cache.

    Args:
        prepare: the options of :func:`datamodules.prepare.prepare` that the present command has.
        schema: its profile schema.
        remove: whether to remove what may go.

    Raises:
        UserError: the options are wrong, or a folder cannot be removed.
    """
    with explained():
        rest: dict[str, Any] = {part: prepare.get(part) for part in PARTS}
        options = Options.checked(prepare.get("source"), **rest)
        present = Preparation(options, schema, None, Progress(False), make_key=False)
        folder = cache_dir() / "prepared"
        names = sorted(folder.iterdir()) if folder.is_dir() else []
        entries = [entry for path in names if path.is_dir() and (entry := _entry(path, present, prepare["source"]))]
        going = [entry for entry in entries if entry.kept is None]
        for entry in going if remove else ():
            _remove(entry.path)
    total = f"{len(going)} of {len(entries)} folders, {size(sum(entry.bytes for entry in going))}"
    told = "removed" if remove else "clean=true removes"
    verdicts = [entry.kept or f"{'removed' if remove else 'may go'}: {entry.reason}" for entry in entries]
    lines = _table([
        ("folder", "data", "users", "size", "age", ""),
        *((e.path.name, *e.content, size(e.bytes), _age(e.written), verdict) for e, verdict in zip(entries, verdicts, strict=True)),
    ])  # fmt: skip
    return "\n".join([f"prepared data in {folder}", *lines, f"{told} {total}" if going else "nothing to remove"])


def _entry(path: Path, present: Preparation, source: Mapping[str, Any]) -> Entry | None:
    """Return what a folder is; None where it is not ours."""
    draft, manifest = left_behind(path), read_manifest(path)
    if draft is None and (manifest is None or not (path / ".fingerprint").is_file()):
        return None
    bytes_ = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if manifest is None or draft is not None:
        kept, reason = None if draft else "being prepared", "left by a command that was killed"
        return Entry(path, ("not complete", ""), bytes_, path.stat().st_mtime, kept, reason)
    config = manifest["config"]
    content = (
        f"{config['source']['kind']}, profile {manifest['schema']['name']}",
        f"{sum(manifest['splits'].values()):,}",
    )
    kept = _why_kept(path, manifest, present, source)
    if kept is None and in_use(path):
        kept = "kept: in use"
    old = manifest["user_key"] == present.names.earlier_fingerprint != present.names.fingerprint
    reason = f"made by {EARLIER}" if old else "its files or the generator have changed since"
    return Entry(path, content, bytes_, (path / ".fingerprint").stat().st_mtime, kept, reason)


def _why_kept(path: Path, manifest: Mapping[str, Any], present: Preparation, source: Mapping[str, Any]) -> str | None:
    """Return why a prepared folder stays; None where no command leads to it any more."""
    fingerprint, config = (path / ".fingerprint").read_text(), manifest["config"]
    if fingerprint == present.destination.fingerprint:
        return "this command's"
    if manifest.get("format_version", 0) > FORMAT_VERSION:
        return "kept: of a later version"
    if config["source"]["kind"] != "demo":
        origin = path / ".origin"
        if not origin.is_file():
            return "kept: made by an earlier version, of files that are not known"
        if origin.read_text() != present.origin:
            return "kept: made of other files"
        if manifest["user_key"] not in (present.names.fingerprint, present.names.earlier_fingerprint):
            return "kept: another key for user ids"
        if (path / "captions.parquet").exists():
            return "kept: it has captions"
    if (path / "text_only.parquet").exists():
        return "kept: it has text-only labels"
    places = {} if config["source"]["kind"] == "demo" else {k: v for k, v in source.items() if k in ON_THIS_MACHINE}
    try:
        options = Options.checked(places | config["source"], **{part: config[part] for part in PARTS})
        again = Preparation(options, Schema.from_dict(manifest["schema"]), None, Progress(False), make_key=False)
    except UserError:
        return "kept: its options are not known here"
    return "kept: other options lead to it" if again.destination.fingerprint == fingerprint else None


def _remove(path: Path) -> None:
    """Remove a folder; what is left of it when the command is killed is removed the next time."""
    gone = path if left_behind(path) else path.with_name(f"{path.name}.tmp-{getpid()}")
    try:
        path.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise UserError(f"{path} cannot be removed ({error.strerror}): it may be in use") from error


def _age(written: float) -> str:
    seconds = time.time() - written
    unit, name = next(((unit, name) for unit, name in AGES if seconds >= 2 * unit), AGES[-1])
    return f"{seconds / unit:.0f} {name}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as aligned lines; users, size and age to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (False, False, True, True, True, False)
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
