"""The reward of a sampled answer: its agreement with labels that were voted once and are never changed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json, write_text
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.labels import Label
from mmprofile.profile.schema import UNKNOWN, Schema

RIGHT, ABSTAINED, WRONG, BOTH_UNKNOWN, UNREADABLE = 1.0, 0.0, -1.0, 0.5, -1.0


class Target(NamedTuple):
    """The value that counts as the truth of one attribute of one person, and its weight."""

    value: str
    weight: float


@dataclass(frozen=True)
class FrozenLabels:
    """Targets that are made once.

    Attributes:
        targets: user id -> attribute -> target.
        origin: hash of the student and settings that they were voted with.
    """

    targets: Mapping[str, Mapping[str, Target]]
    origin: str = ""

    def digest(self) -> str:
        """Return a hash of every value and weight; training must leave it as it is."""
        return hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write JSON with the hash in it, whole or not at all."""
        write_text(path, json.dumps({"sha256": self.digest(), "origin": self.origin, "targets": self._plain()}))

    def _plain(self) -> dict[str, dict[str, list[Any]]]:
        return {
            user: {name: list(target) for name, target in of_user.items()} for user, of_user in self.targets.items()
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file cannot be read, or was changed since.
        """
        try:
            plain = read_json(path)
            targets = {
                user: {name: Target(str(value), float(weight)) for name, (value, weight) in of_user.items()}
                for user, of_user in plain["targets"].items()
            }
        except (OSError, *MALFORMED) as error:
            raise UserError(f"{path}: no frozen labels ({error}); remove it to vote anew") from error
        frozen = cls(targets, str(plain.get("origin")))
        if frozen.digest() != plain.get("sha256"):
            raise UserError(f"{path}: the frozen labels were changed after they were voted; remove it to vote anew")
        return frozen


def freeze_labels(labels: Iterable[Label], weighted: bool, origin: str) -> FrozenLabels:
    """Return the targets of voted rollouts.

    Args:
        labels: voted, one per person and attribute.
        weighted: by q * m, the agreement times the winner's mean confidence; else 1 for all (TTRL's majority reward).
        origin: hash of the student and settings that they were voted with.
    """
    targets: dict[str, dict[str, Target]] = {}
    for label in labels:
        weight = label.q * label.m if weighted else 1.0
        targets.setdefault(label.user_id, {})[label.attribute] = Target(label.voted, weight)
    return FrozenLabels(targets, origin)


def moderate_users(labels: Iterable[Label], low: float, high: float) -> list[str]:
    """Return the people of moderate difficulty: those whose mean agreement q lies from ``low`` to ``high``."""
    agreements: dict[str, list[float]] = {}
    for label in labels:
        agreements.setdefault(label.user_id, []).append(label.q)
    return [user for user, agreement in agreements.items() if low <= sum(agreement) / len(agreement) <= high]


def attribute_reward(value: str | None, target: str) -> float:
    """Return what an answer's value earns.

    It is +1 for the target, 0 for abstaining where the target is a value, -1 for any other value, +0.5 for Unknown on both sides.

    Args:
        value: of the answer; None: nothing was understood, which earns -1.
        target: a value, or Unknown.
    """
    if value is None:
        return UNREADABLE
    if value == UNKNOWN:
        return BOTH_UNKNOWN if target == UNKNOWN else ABSTAINED
    return RIGHT if value == target else WRONG


def reward(answer: str, targets: Mapping[str, Target], schema: Schema) -> float:
    """Return the mean over the attributes of weight * :func:`attribute_reward`; -1 where nothing is understood.

    Args:
        answer: as the student wrote it.
        targets: of the person.
        schema: the attributes that are asked for.
    """
    claims = parse_answer(answer, schema).claims
    if not claims:
        return UNREADABLE
    earned = [
        target.weight * attribute_reward(claims[name].value if name in claims else None, target.value)
        for name, target in targets.items()
    ]
    return sum(earned) / len(earned)
