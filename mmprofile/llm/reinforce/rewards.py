"""What a sampled answer earns, attribute by attribute: its agreement with values that the student's own answers were voted for.

The values' weights are voted once and never changed, so that the student cannot raise them by claiming confidence.

Shapes: A attributes.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json, write_text
from mmprofile.llm.answers import Claim
from mmprofile.llm.labels import Label
from mmprofile.profile.schema import UNKNOWN, Schema

RIGHT, ABSTAINED, WRONG, BOTH_UNKNOWN, UNREADABLE = 1.0, 0.0, -1.0, 0.5, -1.0
SURE, IMPROBABLE = 0.75, 0.1
"""``strict``: a target's weight from which on it is taught, and a value's weight up to which it is taught to be wrong."""
UNWEIGHTED = ("agreement", "same")
"""Rewards for which all targets weigh alike."""


class Target(NamedTuple):
    """The value that counts as the truth of one attribute of one person.

    Attributes:
        value: of the schema, or Unknown.
        weights: value -> how likely it is to be right, 0 to 1; those that nobody said are missing, and weigh 0.
    """

    value: str
    weights: Mapping[str, float]

    @property
    def weight(self) -> float:
        """That of the value."""
        return self.weights.get(self.value, 0.0)


Earned = Callable[[Claim | None, Target], float]
"""What the claim of an answer earns; None: nothing was understood of the attribute."""


def weighted(claim: Claim | None, target: Target) -> float:
    """Return agreement times the target's weight.

    Agreement is +1 for the target's value, 0 for Unknown in its place,
    +0.5 for Unknown on both sides, and -1 for any other value or none.
    """
    return target.weight * agreement(claim, target)


def agreement(claim: Claim | None, target: Target) -> float:
    """Return agreement as :func:`weighted` has it, all targets weighing alike."""
    if claim is None:
        return UNREADABLE
    if claim.value == UNKNOWN:
        return BOTH_UNKNOWN if target.value == UNKNOWN else ABSTAINED
    return RIGHT if claim.value == target.value else WRONG


def expected(claim: Claim | None, target: Target) -> float:
    """Return what a claim is expected to earn if right values earn +1, wrong ones -1 and Unknown 0.

    With the weight w of the target's value, that is 2w - 1 for this value. Another value, or none, earns -max(w, 1 - w). So a value
    that is more likely wrong than right is not repeated for a reward. A target that is Unknown earns as in :func:`weighted`.
    """
    if target.value == UNKNOWN:
        return weighted(claim, target)
    weight = target.weight
    if claim is None or claim.value not in (UNKNOWN, target.value):
        return -max(weight, 1 - weight)
    return ABSTAINED if claim.value == UNKNOWN else 2 * weight - 1


def same(claim: Claim | None, target: Target) -> float:
    """Return 1 for the target's value, Unknown included, else 0 (TTRL: Zuo et al., arXiv 2504.16084)."""
    return float(claim is not None and claim.value == target.value)


def brier(claim: Claim | None, target: Target) -> float:
    """Return correctness less the squared error of the stated confidence (RLCR: Damani et al., arXiv 2507.16806)."""
    if claim is None:
        return UNREADABLE
    right = float(claim.value == target.value)
    return right - (claim.confidence - right) ** 2


def strict(claim: Claim | None, target: Target) -> float:
    """Return +1 for a target that is sure, -1 for a value that is improbable, 0 for all between (like SCRL, arXiv 2603.19880)."""
    if claim is None:
        return UNREADABLE
    if claim.value == target.value:
        return RIGHT if target.weight >= SURE else 0.0
    return WRONG if claim.value != UNKNOWN and target.weights.get(claim.value, 0.0) <= IMPROBABLE else 0.0


REWARDS: Mapping[str, Earned] = {
    "expected": expected, "weighted": weighted, "agreement": agreement, "same": same, "brier": brier, "strict": strict,
}  # fmt: skip


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
            user: {name: [target.value, dict(target.weights)] for name, target in of_user.items()}
            for user, of_user in self.targets.items()
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
                user: {
                    name: Target(str(value), {str(said): float(weight) for said, weight in weights.items()})
                    for name, (value, weights) in of_user.items()
                }
                for user, of_user in plain["targets"].items()
            }
        except (OSError, *MALFORMED) as error:
            raise UserError(f"{path}: no frozen labels ({error}); remove it to vote anew") from error
        frozen = cls(targets, str(plain.get("origin")))
        if frozen.digest() != plain.get("sha256"):
            raise UserError(f"{path}: the frozen labels were changed after they were voted; remove it to vote anew")
        return frozen


def freeze_labels(labels: Sequence[Label], weights: Sequence[Mapping[str, float]], origin: str) -> FrozenLabels:
    """Return the targets of voted rollouts.

    Args:
        labels: voted, one per person and attribute.
        weights: of each label, value -> how likely it is to be right.
        origin: hash of the student and settings that they were voted with.
    """
    targets: dict[str, dict[str, Target]] = {}
    for label, of_label in zip(labels, weights, strict=True):
        targets.setdefault(label.user_id, {})[label.attribute] = Target(label.voted, dict(of_label))
    return FrozenLabels(targets, origin)


def moderate_users(labels: Iterable[Label], low: float, high: float) -> list[str]:
    """Return the people of moderate difficulty: those whose mean agreement q lies from ``low`` to ``high``."""
    agreements: dict[str, list[float]] = {}
    for label in labels:
        agreements.setdefault(label.user_id, []).append(label.q)
    return [user for user, agreement in agreements.items() if low <= sum(agreement) / len(agreement) <= high]


def vote_group(
    answers: Sequence[Mapping[str, Claim]], targets: Mapping[str, Target], schema: Schema
) -> dict[str, Target]:
    """Return the targets that a group of answers votes for itself, while the weights stay frozen.

    A value's score is the number of answers with it times its frozen weight; without frozen weights, their number. A tie goes to
    the first in the schema's order; where nobody said anything, the target is Unknown.

    Args:
        answers: the claims of each answer about one person.
        targets: frozen, of the person; empty: nothing is.
        schema: the attributes.
    """
    voted = {}
    for attribute in schema.attributes:
        weights = targets[attribute.name].weights if targets else {}
        said = [claims[attribute.name].value for claims in answers if attribute.name in claims]
        scores = {value: said.count(value) * (weights.get(value, 0.0) if targets else 1.0) for value in said}
        order = (*attribute.values, UNKNOWN)
        winner = max(sorted(scores, key=order.index), key=scores.__getitem__) if scores else UNKNOWN
        voted[attribute.name] = Target(winner, weights)
    return voted


def score_answer(claims: Mapping[str, Claim], targets: Mapping[str, Target], reward: str) -> list[float]:
    """Return what each attribute of an answer earns, A numbers in the order of ``targets``.

    An answer of which nothing was understood earns -1 for each; with the reward ``same``, 0.

    Args:
        claims: of the answer.
        targets: of the person.
        reward: one of :data:`REWARDS`.
    """
    earned = REWARDS[reward]
    if not claims and reward != "same":
        return [UNREADABLE] * len(targets)
    return [earned(claims.get(name), target) for name, target in targets.items()]
