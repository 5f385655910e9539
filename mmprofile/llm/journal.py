"""Every raw answer of a teacher, written down at once, so that a killed run loses none and asks for none twice."""

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmprofile.errors import UserError


class Record(NamedTuple):
    """A line of the journal.

    Attributes:
        user_id: whose answer.
        sample: the how manieth of this person, from 0.
        request: hash of all that decides the answer: person, model, prompt, settings, seed.
        prompt: hash of the prompt's text.
        model: as the server names it.
        seed: of this sample.
        time: UTC, ISO 8601.
        seconds: it took.
        answer: as it came.
        prompt_tokens: counted by the server; None where it does not.
        completion_tokens: counted by the server.
        error: why there is no answer; the next run asks again.
        origin: hash of what all answers of one kind share: model, settings, templates, schema.
    """

    user_id: str
    sample: int
    request: str
    prompt: str
    model: str
    seed: int
    time: str
    seconds: float
    answer: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    origin: str = ""


class Journal:
    """JSON lines of :class:`Record`; the last one of a request counts.

    Args:
        path: made on the first write. A last line without an end, which a killed run left or another is writing, does not
            count; the first write cuts it off.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            raw = path.read_bytes() if path.exists() else b""
            whole = raw[: raw.rfind(b"\n") + 1]
            lines = whole.decode("utf-8").split("\n")[:-1]  # an answer may hold other line breaks as they are
            records = [Record(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: no journal of answers ({error}); move it away to ask anew") from error
        self.records = {record.request: record for record in records}
        self._cut = len(whole) < len(raw)

    def answered(self, request: str) -> bool:
        """Whether there is an answer, right or wrong."""
        return request in self.records and self.records[request].error is None

    def write(self, records: Iterable[Record]) -> None:
        """Adds lines.

        Raises:
            UserError: the disk is full, say.
        """
        with self._lock:
            records = list(records)
            text = "".join(json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in records)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self._cut:
                    os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
                    self._cut = False
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise UserError(
                    f"{self.path} cannot be written ({error.strerror}): the answers before are kept; make room and run "
                    "the same command again"
                ) from error
            self.records.update({record.request: record for record in records})
