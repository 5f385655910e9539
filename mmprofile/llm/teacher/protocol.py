"""What can be asked: the protocol of a teacher, and the choice of one."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmprofile.errors import UserError
from mmprofile.llm.people import Person

T = TypeVar("T")


class Question(NamedTuple):
    """One sample to draw: ``messages`` as chat models take them, and the seed of the draw."""

    person: Person
    messages: list[dict[str, str]]
    seed: int


class Reply(NamedTuple):
    """What came of a question: a text, or an error."""

    text: str
    error: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Teacher(Protocol):
    """What answers.

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
        """Answers within seconds whether it can be asked at all.

        Raises:
            UserError: it cannot.
        """

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply to each; one that fails is a reply with an error.

        Raises:
            UserError: no further question makes sense (wrong key, unknown model, nobody listens).
        """


def typed_settings(kind: type[T], cfg: Any) -> T:
    """``teacher`` of the configuration as a dataclass.

    Raises:
        UserError: a value has the wrong type.
    """
    try:
        return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), cfg)))
    except OmegaConfBaseException as error:
        raise UserError(f"teacher.{error.full_key}: {str(error).splitlines()[0]}") from error
