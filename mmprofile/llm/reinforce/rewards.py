"""What a sampled answer earns against labels that were voted once and are never changed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmprofile.errors import UserError
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.labels import Label
from mmprofile.profile.schema import UNKNOWN, Schema

RIGHT, ABSTAINED, WRONG, BOTH_UNKNOWN, UNREADABLE = 1.0, 0.0, -1.0, 0.5, -1.0


class Target(NamedTuple):
    """The quasi-truth of one attribute of one person, and what it weighs."""

    value: str
    weight: float


@dataclass(frozen=True)
class Frozen:
    """Targets, made once.

    Attributes:
        targets: user id -> attribute -> target.
        origin: hash of what they were voted by.
    """

    targets: Mapping[str, Mapping[str, Target]]
    origin: str = ""

    def digest(self) -> str:
        """A hash of every value and weight; the same before and after a training, or something has changed them."""
        plain = {user: {name: list(target) for name, target in of.items()} for user, of in self.targets.items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """JSON, with the hash."""
        plain = {user: {name: list(target) for name, target in of.items()} for user, of in self.targets.items()}
        partial = path.with_name(path.name + ".tmp")
        partial.write_text(
            json.dumps({"sha256": self.digest(), "origin": self.origin, "targets": plain}), encoding="utf-8"
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Frozen":
        """What :meth:`save` wrote.

        Raises:
            UserError: it cannot be read, or is not what was frozen.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            targets = {
                user: {name: Target(str(value), float(weight)) for name, (value, weight) in of.items()}
                for user, of in plain["targets"].items()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no frozen labels ({error}); remove it to vote anew") from error
        found = cls(targets, str(plain.get("origin")))
        if found.digest() != plain.get("sha256"):
            raise UserError(f"{path}: the frozen labels were changed after they were voted; remove it to vote anew")
        return found


def freeze(labels: Iterable[Label], weighted: bool, origin: str) -> Frozen:
    """Targets of voted rollouts.

    Args:
        labels: voted, one per person and attribute.
        weighted: by q * m, the agreement times the winner's mean confidence; else 1 for all (TTRL's majority reward).
        origin: hash of what they were voted by.
    """
    targets: dict[str, dict[str, Target]] = {}
    for label in labels:
        weight = label.q * label.m if weighted else 1.0
        targets.setdefault(label.user_id, {})[label.attribute] = Target(label.voted, weight)
    return Frozen(targets, origin)


def moderate(labels: Iterable[Label], low: float, high: float) -> list[str]:
    """The people that are neither hopeless nor done: those whose mean agreement q lies within ``low`` and ``high``."""
    found: dict[str, list[float]] = {}
    for label in labels:
        found.setdefault(label.user_id, []).append(label.q)
    return [user for user, agreement in found.items() if low <= sum(agreement) / len(agreement) <= high]


def attribute_reward(value: str | None, target: str) -> float:
    """+1 for the target's value; 0 for abstaining where it has one; -1 for another, or where it is Unknown; +0.5 for Unknown on
    both sides.

    Args:
        value: what an answer says; None: nothing that was understood.
        target: the quasi-truth.
    """
    if value is None:
        return UNREADABLE
    if value == UNKNOWN:
        return BOTH_UNKNOWN if target == UNKNOWN else ABSTAINED
    return RIGHT if value == target else WRONG


def reward(answer: str, targets: Mapping[str, Target], schema: Schema) -> float:
    """R = mean over the attributes of weight * :func:`attribute_reward`; an answer in which nothing is understood earns -1.

    Args:
        answer: raw.
        targets: of the person.
        schema: what is asked.
    """
    claims = parse_answer(answer, schema).claims
    if not claims:
        return UNREADABLE
    earned = [
        target.weight * attribute_reward(claims[name].value if name in claims else None, target.value)
        for name, target in targets.items()
    ]
    return sum(earned) / len(earned)
