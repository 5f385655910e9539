"""Files a data set is made from, and their hashes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 8 * 1024 * 1024


@dataclass(frozen=True)
class SourceFile:
    """A file the prepared data set was made from."""

    path: Path
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "SourceFile":
        """Return the file at ``path`` as it is now."""
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns)

    @property
    def stamp(self) -> list[Any]:
        """Return what tells a changed file from an unchanged one without reading it."""
        return [self.path.name, self.size, self.mtime_ns]

    def describe(self) -> dict[str, Any]:
        """Return name, size and SHA-256, for the manifest."""
        return {"name": self.path.name, "bytes": self.size, "sha256": sha256_of(self.path)}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
