"""What the disk and the database engine report, as one line that says what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from mmprofile.errors import UserError


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors of the disk and of the engine into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error) from error
    except duckdb.InvalidInputException as error:
        raise UserError(f"the raw data cannot be read: {_first_line(error)}: get the file again") from error
    except Exception as error:
        # Spark is an extra, so its errors are known by name.
        if not isinstance(error, duckdb.Error) and type(error).__module__.partition(".")[0] not in ("pyspark", "py4j"):
            raise
        advice = "check free disk space and memory, then run the same command again"
        raise UserError(f"the database engine stopped: {_first_line(error)}: {advice}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]  # what follows is the query or general advice


def _disk_error(error: OSError) -> UserError:
    advice = {
        errno.ENOSPC: "free some space or choose another data.prepare.folder",
        errno.EROFS: "choose another data.prepare.folder or set MMPROFILE_CACHE",
        errno.EACCES: "choose another data.prepare.folder or set MMPROFILE_CACHE",
    }.get(error.errno or 0, "check the path and the disk")
    return UserError(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}: {advice}")
