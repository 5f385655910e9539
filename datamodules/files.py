"""Files a data set is made from, their hashes, and tables that cannot be read."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED

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


@contextmanager
def intact(path: Path, advice: str) -> Iterator[None]:
    """Say in one line that a Parquet file cannot be read, whatever its reader makes of it, and what to do.

    Raises:
        UserError: it cannot.
    """
    try:
        yield
    except (OSError, *MALFORMED, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read as Parquet ({reason}): {advice}") from error
