"""The journal of raw answers: of a teacher, or of a student."""

from pathlib import Path
from typing import NamedTuple

from mmprofile.systems.journal import Journal


class Record(NamedTuple):
    """A line of the journal.

    Attributes:
        user_id: whose answer.
        sample: its number among this person's answers, from 0.
        request: hash of all that decides the answer: person, model, prompt, settings, seed.
        prompt: hash of the prompt's text.
        model: as the server names it.
        seed: of this sample.
        time: UTC, ISO 8601.
        seconds: from question to answer.
        answer: as it came; empty where there is none.
        prompt_tokens: counted by the server; None where it does not count.
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


def open_journal(path: Path) -> Journal[Record]:
    """Return the journal in a file, which need not exist.

    Raises:
        UserError: the file cannot be read.
    """
    return Journal(path, Record)
