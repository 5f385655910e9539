"""Files on an object store (``s3://bucket/key``, and whatever fsspec reads): the one place that knows of URLs.

Data sets and runs are memory-mapped, appended to and renamed, which object stores cannot do. So a file or folder of a URL
has a copy in the cache: it is brought up to date before work begins, and what work changes is sent back. Photos of raw data
are not copied, but read one by one where they lie.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mmprofile.errors import UserError
from mmprofile.files import whole, write_json
from mmprofile.paths import cache_dir

KEYS = ("run", "out", "input", "output", "folder", "path")
"""Keys of commands that may be URLs. Those of raw data are looked at by what prepares them."""
LAST = ("manifest.json", "metrics.json")
"""Files that say that all others are there, so they are sent after them."""
NOT_SENT = (".tmp", ".mirror.json", "lock")
"""How names end of files that make sense on this machine only."""
STORES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")
"""Packages whose errors are those of a store."""
SEND_SECONDS = 60.0


def is_url(place: object) -> bool:
    """Return whether a path is that of a store, such as ``s3://bucket/key``."""
    return isinstance(place, str) and "://" in place


@dataclass(frozen=True)
class RemoteFile:
    """A file that is read where it lies; like a path, it can be sent to another process."""

    url: str

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            FileNotFoundError: it is not there.
            UserError: the store cannot be read.
        """
        store, path = _store(self.url)
        with _explained(self.url, FileNotFoundError):
            content: bytes = store.cat_file(path)
        return content

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of files that are read where they lie.

    Attributes:
        url: of the folder.
        stamps: name of each file below it -> what tells a changed file from an unchanged one.
    """

    url: str
    stamps: Mapping[str, Mapping[str, Any]] = field(repr=False)

    @classmethod
    def of(cls, url: str) -> "RemoteFolder":
        """Return the folder with the files that are there now.

        Raises:
            UserError: the store cannot be read.
        """
        with _explained(url):
            return cls(url, _listed(*_store(url)))

    def __truediv__(self, name: str) -> RemoteFile:
        return RemoteFile(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url


class Mirror:
    """The copy of a URL's file or folder in the cache.

    What is said of a file, there and here, is enough to tell whether it has changed since both were the same.

    Args:
        url: what is copied.
        without: a folder below it that is not copied.
    """

    def __init__(self, url: str, without: str | None = None) -> None:
        self.url, self._without = url, without
        self._store, self._root = _store(url)
        protocol, _, place = url.partition("://")
        self.path = cache_dir().joinpath("remote", protocol, *_parts(place, url))
        self._state = self.path.with_name(f"{self.path.name}.mirror.json")

    def fetch(self, needed: bool = True) -> Path:
        """Return the copy, up to date. A file that has not changed there since it was last seen stays: ours may be newer.

        Args:
            needed: refuse a URL where nothing is.

        Raises:
            UserError: the store cannot be read, or nothing is there.
        """
        with self._state_of_both() as state, _explained(self.url):
            there = _listed(self._store, self._root)
            if needed and not there:
                raise UserError(f"{self.url}: nothing is there")
            if self._without is not None:
                there = {name: stamp for name, stamp in there.items() if self._without not in Path(name).parts[:-1]}
            for name in state.keys() - there.keys():
                self._here(name).unlink(missing_ok=True)
                del state[name]
            for name, stamp in there.items():
                here = self._here(name)
                if name not in state or state[name]["there"] != stamp or not here.is_file():
                    with whole(here) as partial:
                        self._store.get_file(self._there(name), str(partial))
                    os.utime(
                        here, ns=(stamp["time"], stamp["time"])
                    )  # the same on every machine: it tells changed files
                    state[name] = {"there": stamp, "here": _stamp_here(here)}
        return self.path

    def send(self) -> None:
        """Send what is new or changed here, and remove there what was removed here.

        Raises:
            UserError: the store cannot be written.
        """
        with self._state_of_both() as state, _explained(self.url):
            found = [path for path in [self.path, *self.path.rglob("*")] if path.is_file()]
            names = ["" if path == self.path else path.relative_to(self.path).as_posix() for path in found]
            for name in sorted(names, key=lambda name: (Path(name).name in LAST, name)):
                now = _stamp_here(self._here(name))
                if name.endswith(NOT_SENT) or (name in state and state[name]["here"] == now):
                    continue
                self._store.put_file(str(self._here(name)), self._there(name))
                state[name] = {"there": _stamp(self._store.info(self._there(name))), "here": now}
            for name in state.keys() - set(names):
                self._store.rm_file(self._there(name))
                del state[name]

    @contextmanager
    def sent(self) -> Iterator[Path]:
        """Give the copy, brought up to date; send its changes every minute, and at the end whatever happens."""
        self.fetch(needed=False)
        over = threading.Event()

        def now_and_then() -> None:
            while not over.wait(SEND_SECONDS):
                with suppress(UserError, OSError):  # the last time is not suppressed
                    self.send()

        thread = threading.Thread(target=now_and_then, daemon=True)
        thread.start()
        try:
            yield self.path
        finally:
            over.set()
            thread.join()
            self.send()

    def _here(self, name: str) -> Path:
        return self.path.joinpath(*_parts(name, self.url)) if name else self.path

    def _there(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _state_of_both(self) -> Iterator[dict[str, Any]]:
        """Give what was last seen of each file, alone among processes; it is written even if not all is done."""
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._state}.lock"):
            state = json.loads(self._state.read_text(encoding="utf-8")) if self._state.is_file() else {}
            try:
                yield state
            finally:
                write_json(self._state, state)


@contextmanager
def local_copies(cfg: Any) -> Iterator[None]:
    """Put copies in place of the URLs in a command's configuration, and send back what the command changes in them.

    Args:
        cfg: the configuration; see :data:`KEYS`.
    """
    with ExitStack() as stack:
        for key in KEYS:
            url = cfg.get(key)
            if not is_url(url):
                continue
            if key == "input" and "photo_root" in cfg and cfg.photo_root is None:
                cfg.photo_root = url.rpartition("/")[0]
            if key in ("out", "output"):
                name = cfg.get("name") if key == "out" else None
                mirror = Mirror(f"{url.rstrip('/')}/{name}" if name else url)
                path = stack.enter_context(mirror.sent()) if _first() else mirror.fetch(needed=False)
                cfg[key] = str(path.parent if name else path)
            else:
                mirror = Mirror(url)
                cfg[key] = str(mirror.fetch())
                if key in ("run", "folder") and _first():
                    stack.callback(mirror.send)
        yield


def _first() -> bool:
    """Return whether this process speaks for all that torchrun, SLURM or Lightning have started."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def _parts(place: str, url: str) -> list[str]:
    parts = [part for part in place.split("/") if part]
    if not parts or ".." in parts or "\\" in place:
        raise UserError(f"{url}: {place!r} can be no file's name here")
    return parts


def _store(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        UserError: fsspec does not know it, or needs another package.
    """
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}; s3:// needs pip install 'mmprofile[s3]'") from error
    return store, path.rstrip("/")


def _listed(store: Any, root: str) -> dict[str, dict[str, Any]]:
    """Return the files at or below a path, by their name below it, with what tells a changed file from an unchanged one."""
    found = store.find(root, detail=True)
    if list(found) == [root]:
        return {"": _stamp(store.info(root))}
    return {path.removeprefix(root).lstrip("/"): _stamp(info) for path, info in found.items()}


def _stamp(info: Mapping[str, Any]) -> dict[str, Any]:
    time = next((info[key] for key in ("LastModified", "mtime", "created") if info.get(key)), 0)
    seconds = time.timestamp() if isinstance(time, datetime) else float(time)
    return {"size": info["size"], "time": int(seconds * 1e6) * 1000, "tag": info.get("ETag")}


def _stamp_here(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


@contextmanager
def _explained(url: str, *expected: type[Exception]) -> Iterator[None]:
    """Turn what a store answers into one line, but for errors that are expected."""
    try:
        yield
    except Exception as error:
        of_store = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in STORES
        if isinstance(error, expected) or not of_store:
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{url}: cannot be read or written ({said}); check the address and the credentials") from error
