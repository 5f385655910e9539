"""Replies of models, written down at once: a killed run loses no answer, and the next one asks for none twice."""

import json
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from tqdm import tqdm

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, parse_json


class ChatReply(NamedTuple):
    """The reply to one question: a text, or an error.

    Attributes:
        text: the answer; empty where there is none.
        error: why there is no answer.
        model: as the server names it; None where it names none.
        prompt_tokens: counted by the server; None where it does not count.
        completion_tokens: counted by the server.
        cut: whether the text ends because it may have no more tokens.
    """

    text: str
    error: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cut: bool = False


class Entry(Protocol):
    """A named tuple that a journal keeps: a hash of all that decides the answer, and why there is no answer."""

    @property
    def request(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    def _asdict(self) -> dict[str, Any]: ...


EntryT = TypeVar("EntryT", bound=Entry)
ItemT = TypeVar("ItemT")


class Journal(Generic[EntryT]):
    """JSON lines of one kind of entry. The last answer to a request counts; an error counts until there is an answer.

    Args:
        path: made on the first write. A last line without an end does not count: a killed run left it, or another process
            is writing it. Reading changes nothing; the first write cuts the line off.
        kind: the class of the entries.

    Attributes:
        records: request -> entry.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path, kind: Callable[..., EntryT]) -> None:
        self.path = path
        self.records: dict[str, EntryT] = {}
        self._lock = threading.Lock()
        try:
            content = path.read_bytes() if path.exists() else b""
            complete = content[: content.rfind(b"\n") + 1]
            lines = complete.split(b"\n")[:-1]  # an answer may hold other line breaks as they are
            self._remember([_well_typed(kind(**parse_json(line))) for line in lines])
        except (OSError, *MALFORMED) as error:
            raise UserError(f"{path}: no journal of answers ({error}); move it away to ask anew") from error
        self._torn = len(complete) < len(content)

    def answered(self, request: str) -> bool:
        """Return whether the journal has an answer to a request, right or wrong."""
        return request in self.records and self.records[request].error is None

    def write(self, entries: Iterable[EntryT]) -> None:
        """Add lines; threads take turns.

        Raises:
            UserError: the file cannot be written, as on a full disk.
        """
        entries = list(entries)
        text = "".join(json.dumps(entry._asdict(), ensure_ascii=False) + "\n" for entry in entries)
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self._torn:
                    os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
                    self._torn = False
                with self.path.open("ab") as file:
                    file.write(text.encode("utf-8"))
            except OSError as error:
                raise UserError(
                    f"{self.path} cannot be written ({error.strerror}): the answers before are kept; make room and run "
                    "the same command again"
                ) from error
            self._remember(entries)

    def _remember(self, entries: Iterable[EntryT]) -> None:
        for entry in entries:
            if entry.error is None or not self.answered(entry.request):
                self.records[entry.request] = entry


def _well_typed(entry: EntryT) -> EntryT:
    """Return an entry whose values are of the types that its class says.

    Raises:
        TypeError: names one that is not.
    """
    for name, kind in type(entry).__annotations__.items():
        value = getattr(entry, name)
        if not isinstance(value, int | float if kind is float else kind):
            raise TypeError(f"{name} is {str(value)[:40]!r}")
    return entry


def ask_in_threads(ask: Callable[[ItemT], int], items: Iterable[ItemT], threads: int, bar: "tqdm[Any]") -> None:
    """Call ``ask`` for each item, several at a time. The first failure ends it: what has not begun is dropped.

    Args:
        ask: asks, writes the answers down and returns their number.
        items: what is asked.
        threads: calls at a time.
        bar: moves on by the number of answers.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        with bar:
            for future in as_completed([pool.submit(ask, item) for item in items]):
                bar.update(future.result())
    finally:
        pool.shutdown(cancel_futures=True)
