"""What every teacher can do, whoever it is."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mmprofile.llm.people import Person
from mmprofile.systems.journal import ChatReply


class Question(NamedTuple):
    """One sample to draw: ``messages`` as chat models take them, and the seed of the draw."""

    person: Person
    messages: list[dict[str, str]]
    seed: int


class Teacher(Protocol):
    """A model, or a program, that answers questions about people.

    Attributes:
        name: of the model, part of what decides an answer.
        settings: what else decides it (temperature, ...), JSON.
        batch: questions of one :meth:`ask`.
        concurrency: calls of :meth:`ask` at a time, from threads.
    """

    name: str
    settings: dict[str, Any]
    batch: int
    concurrency: int

    def check(self) -> None:
        """Check within seconds that the teacher can be asked at all.

        Raises:
            UserError: it cannot.
        """

    def ask(self, questions: Sequence[Question]) -> list[ChatReply]:
        """Return a reply to each question; one that fails gets a reply with an error.

        Raises:
            UserError: no further question makes sense (wrong key, unknown model, nobody listens).
        """


@runtime_checkable
class LanguageModel(Teacher, Protocol):
    """A teacher that reads and writes tokens, so that what it takes can be estimated.

    Attributes:
        one_person: whether the questions of one :meth:`ask` must be about the same person, whose prompt is then read once.
    """

    one_person: bool

    @property
    def longest(self) -> int | None:
        """Tokens of an answer at most; None: there is no limit."""

    def tokens(self, messages: list[dict[str, str]]) -> int | None:
        """Return the number of a prompt's tokens; None: only the server can tell."""

    def requirements(self, longest: int) -> list[str]:
        """Return lines about what this machine needs; ``longest``: tokens of the longest prompt."""
