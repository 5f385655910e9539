"""What was sent to a provider's batch API and not fetched yet, in a file of the stage's folder."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json, write_json

SENT = "batches.json"


@dataclass
class Sent:
    """A file of requests on a server.

    Attributes:
        file: its id there.
        batch: id of the batch that answers it; None: it was not known yet when the command was killed.
        requests: the hashes of the questions that each request asks.
    """

    file: str
    batch: str | None
    requests: list[list[str]]

    @property
    def questions(self) -> set[str]:
        """The hashes of all questions."""
        return {question for questions in self.requests for question in questions}


def read_sent(path: Path) -> list[Sent]:
    """Return what was sent; nothing where there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    if not path.exists():
        return []
    try:
        return [Sent(**row) for row in read_json(path)]
    except (OSError, *MALFORMED) as error:
        raise UserError(f"{path}: no list of batches ({error}); delete it to ask, and pay, again") from error


def write_sent(path: Path, sent: Sequence[Sent]) -> None:
    """Write what was sent; without anything the file goes away."""
    if sent:
        write_json(path, [asdict(one) for one in sent])
    else:
        path.unlink(missing_ok=True)


def in_flight(path: Path, questions: Iterable[str]) -> set[str]:
    """Return which of the questions, by their hashes, were sent and not fetched yet.

    Raises:
        UserError: the file cannot be read.
    """
    return {question for sent in read_sent(path) for question in sent.questions} & set(questions)
