"""The exceptions that end a command in one line, and the suggestion that many messages make."""

import difflib
from collections.abc import Iterable

CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "?")
"""Characters by which a file that is quoted could steer a terminal."""
LONGEST = 2000


class UserError(Exception):
    """A mistake outside the code: config, files, network, disk.

    The message is one line that says what is wrong, where, and what to do. Entry points print it without a stack trace
    and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.split()).translate(CONTROLS)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 600]} ... {line[-500:]}")


class Terminated(BaseException):
    """A signal has asked the process to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def counted(number: int, noun: str) -> str:
    """Return ``1 user``, ``2,000 users``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean x?)`` with the choice that is most like a word, or nothing."""
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if not near:
        tail = word.split(".")[-1]
        near = [choice for choice in choices if choice.split(".")[-1] == tail][:1]
    return f" (did you mean {near[0]}?)" if near else ""
