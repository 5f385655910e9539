"""How likely voted values are right, judged without gold by how far a person's answers agree.

The model is that of one coin (Dawid and Skene, 1979): an answer that is not Unknown says, with a probability a, the value that the
evidence tells, else any of the other values alike. So of V values two answers give the same with the probability
a^2 + (1 - a)^2 / (V - 1), and a follows from how often they do. The evidence tells the truth as likely as the most confident answer
for a value says: answers read different parts, or read better and worse, and what one has seen, another's silence does not undo.

Mistakes that all answers share are not seen: a teacher that is wrong alike each time, and sure, counts as right.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from mmprofile.llm.labels import Label, Vote
from mmprofile.profile.schema import UNKNOWN, Schema

CERTAIN = 1 - 1e-3
"""The most that a probability of an answer can be: a few answers that agree are no proof."""


def likelihoods(labels: Sequence[Label], schema: Schema) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Return how likely each value that was said is right, 0 to 1, for each label.

    Unknown has the likelihood of :func:`raw_likelihoods`: agreement does not tell whether there is any evidence.

    Args:
        labels: with their votes; those of an attribute are judged together.
        schema: the attributes.

    Returns:
        Value -> likelihood of each label, and attribute -> a, the probability that an answer says what the evidence tells.
    """
    cast: dict[str, list[Sequence[Vote]]] = {name: [] for name in schema.names}
    for label in labels:
        cast[label.attribute].append(label.votes)
    accuracy = {name: answer_accuracy(of_name, len(schema[name].values)) for name, of_name in cast.items()}
    return [
        _likelihoods(label, accuracy[label.attribute], len(schema[label.attribute].values)) for label in labels
    ], accuracy


def answer_accuracy(ballots: Sequence[Sequence[Vote]], values: int) -> float:
    """Return the probability a of the model, from all pairs of a person's answers that are not Unknown.

    It is the root above chance, 1 / ``values``; :data:`CERTAIN` where there is no pair or one value.
    """
    pairs = [one.value == other.value for votes in ballots for one, other in combinations(_informed(votes), 2)]
    if not pairs or values < 2:
        return CERTAIN
    chance, agreement = 1 / values, sum(pairs) / len(pairs)
    return min(CERTAIN, chance + math.sqrt(max(0.0, agreement - chance) * (1 - chance)))


def posterior(votes: Sequence[Vote], accuracy: float, values: int) -> dict[str, float]:
    """Return how likely each value that was said is what the evidence tells, all values being as likely before.

    Args:
        votes: of one attribute of one person; those for Unknown tell nothing.
        accuracy: a of the model.
        values: V, of the attribute.
    """
    said = [vote.value for vote in _informed(votes)]
    gain = math.log(accuracy * max(values - 1, 1) / (1 - accuracy))  # in log-odds, of each vote
    scores = {value: said.count(value) * gain for value in dict.fromkeys(said)}
    highest = max(scores.values(), default=0.0)
    total = sum(math.exp(score - highest) for score in scores.values()) + (values - len(scores)) * math.exp(-highest)
    return {value: math.exp(score - highest) / total for value, score in scores.items()}


def raw_likelihoods(label: Label) -> dict[str, float]:
    """Return each value's share of all confidences times the mean of its own: q * m of a vote by confidence."""
    total = sum(vote.confidence for vote in label.votes) or 1.0
    return {value: sum(own) / total * sum(own) / len(own) for value, own in _confidences(label.votes).items()}


def _likelihoods(label: Label, accuracy: float, values: int) -> dict[str, float]:
    told, confidences = posterior(label.votes, accuracy, values), _confidences(label.votes)
    right = {value: told[value] * max(confidences[value]) for value in told}
    return right | {value: raw for value, raw in raw_likelihoods(label).items() if value == UNKNOWN}


def _informed(votes: Sequence[Vote]) -> list[Vote]:
    return [vote for vote in votes if vote.value != UNKNOWN]


def _confidences(votes: Sequence[Vote]) -> Mapping[str, list[float]]:
    by_value: dict[str, list[float]] = {}
    for vote in votes:
        by_value.setdefault(vote.value, []).append(vote.confidence)
    return by_value
