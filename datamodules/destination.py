"""Where a data set is prepared to: the folder holds all of it or does not exist, also after a run that was killed."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.prepared import FORMAT_VERSION, read_manifest
from mmprofile.errors import UserError

EARLIER = "an earlier version, in an order that raw ids reveal"


@dataclass(frozen=True)
class Destination:
    """A prepared folder that is to be made, or is there already.

    Attributes:
        folder: its path.
        identity: everything that the result depends on: ``config``, ``schema``, ``inputs``, ``key`` and ``format_version``.
    """

    folder: Path
    identity: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Return a hash of the identity."""
        return fingerprint_of(self.identity)

    def is_there(self) -> bool:
        """Return whether the folder holds this very data set.

        Raises:
            UserError: it holds something else.
        """
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return False
        manifest = read_manifest(self.folder) if self.folder.is_dir() else None
        if manifest is None:
            raise UserError(f"{self.folder} exists and is no prepared data set: choose another data.prepare.folder")
        stored = self.folder / ".fingerprint"
        if stored.is_file() and stored.read_bytes() == self.fingerprint.encode():
            return True
        raise UserError(
            f"{self.folder} holds data prepared differently ({self._difference(manifest)}): "
            "remove it or choose another data.prepare.folder"
        )

    def write(self, fill: Callable[[Path, Path], None]) -> None:
        """Fill a draft beside the folder, then rename it.

        Args:
            fill: is given the folder to fill, and one for temporary files.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        draft = self.folder.with_name(f"{self.folder.name}.tmp-{os.getpid()}")
        work, result = draft / "work", draft / "result"
        try:
            work.mkdir(parents=True)
            result.mkdir()
            (draft / "host").write_text(socket.gethostname())
            fill(result, work)
            try:
                result.rename(self.folder)
            except OSError:
                if not self.is_there():  # otherwise another process was faster, with the same result
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _difference(self, manifest: dict[str, Any]) -> str:
        """Return what tells the data set that is there from this one."""
        if manifest.get("format_version") != FORMAT_VERSION:
            return f"format version {manifest.get('format_version')}, now {FORMAT_VERSION}"
        before, now = dict(_flat(manifest.get("config", {}))), dict(_flat(self.identity["config"]))
        changed = [
            f"{key} was {before.get(key)}, now {now.get(key)}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if changed:
            return "; ".join(changed)
        if manifest.get("schema") != self.identity["schema"]:
            return "another profile schema"
        if not str(manifest.get("user_key")).startswith("scrypt-") and self.identity["key"].startswith("scrypt-"):
            return f"by {EARLIER}"
        if manifest.get("user_key") != self.identity["key"]:
            return "another key for user ids"
        return "the source files have changed"


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that a prepared data set depends on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their dotted names."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}".strip("."))
    else:
        yield name, value


def remove_leftovers(folder: Path) -> None:
    """Remove the drafts that killed runs on this machine have left beside ``folder``."""
    for draft in folder.parent.glob(f"{folder.name}.tmp-*"):
        if left_behind(draft):
            shutil.rmtree(draft, ignore_errors=True)


def left_behind(folder: Path) -> bool | None:
    """Return whether a folder is a draft that a killed run on this machine has left; None where it is no draft."""
    _, mark, pid = folder.name.rpartition(".tmp-")
    if not mark or not pid.isdigit():
        return None
    with contextlib.suppress(OSError):
        host = (folder / "host").read_text() if (folder / "host").is_file() else socket.gethostname()
        return host == socket.gethostname() and (int(pid) == os.getpid() or not _alive(int(pid)))
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
