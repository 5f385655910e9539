"""How likely voted values are right, judged without gold by how far a person's answers agree.

The evidence about a person points at one value, or at several: pi, one probability for each of V values, drawn from a symmetric
Dirichlet distribution with the concentration alpha. An answer that is not Unknown says a value drawn from pi or, with the
probability epsilon, any of the V. Both numbers are those under which the votes of all people are likeliest: slips scatter over the
values, evidence that points two ways does not. The mean of pi given a person's votes is then how far the evidence points at a
value. It tells the truth as likely as the answers for this value say: the most confident of them, where answers read different
parts and the others saw less; their mean, where all read the same.

Mistakes that all answers share are not seen: a teacher that is wrong alike each time, and sure, counts as right.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb
from statistics import mean
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, rgamma

from mmprofile.llm.labels import Label, Vote
from mmprofile.profile.metrics import Array
from mmprofile.profile.schema import UNKNOWN, Schema

CONCENTRATIONS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.6)
NOISES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
COUNTED = 100
"""Votes of a person that are counted at most: beyond, products of factorials are no floating-point numbers."""


class Evidence(NamedTuple):
    """What the votes on an attribute tell of evidence and answers: alpha and epsilon of the model."""

    concentration: float = CONCENTRATIONS[0]
    noise: float = NOISES[0]


def likelihoods(
    labels: Sequence[Label], schema: Schema, of_answers: str = "highest"
) -> tuple[list[dict[str, float]], dict[str, Evidence]]:
    """Return how likely each value that was said is right, 0 to 1, for each label.

    Unknown has the likelihood of :func:`raw_likelihoods`: agreement does not tell whether there is any evidence.

    Args:
        labels: with their votes; those of an attribute are judged together.
        schema: the attributes.
        of_answers: ``highest`` or ``mean``: which confidence of the answers for a value counts.

    Returns:
        Value -> likelihood of each label, and attribute -> what its votes tell.
    """
    ballots: dict[str, list[Sequence[Vote]]] = {name: [] for name in schema.names}
    for label in labels:
        ballots[label.attribute].append(label.votes)
    evidence = {name: fit_evidence(of_name, len(schema[name].values)) for name, of_name in ballots.items()}
    return [
        _likelihoods(label, evidence[label.attribute], len(schema[label.attribute].values), of_answers)
        for label in labels
    ], evidence


def fit_evidence(ballots: Sequence[Sequence[Vote]], values: int) -> Evidence:
    """Return the concentration and noise, of those on the grid, under which the votes are likeliest.

    Args:
        ballots: the votes of each person.
        values: V, of the attribute.
    """
    patterns = Counter(tuple(sorted(_counts(votes).values(), reverse=True)) for votes in ballots)
    patterns.pop((), None)
    if not patterns or values < 2:
        return Evidence()
    grid = [Evidence(concentration, noise) for concentration in CONCENTRATIONS for noise in NOISES]
    return max(
        grid,
        key=lambda evidence: sum(
            people * np.log(_moments(pattern, evidence, values)[0]) for pattern, people in patterns.items()
        ),
    )


def pointed_at(votes: Sequence[Vote], evidence: Evidence, values: int) -> dict[str, float]:
    """Return for each value that was said how far the evidence points at it: the mean of its pi given the votes.

    Args:
        votes: of one attribute of one person; those for Unknown tell nothing.
        evidence: of all people.
        values: V, of the attribute.
    """
    counts = _counts(votes)
    total, means = _moments(tuple(counts.values()), evidence, values)
    return {value: float(moment / total) for value, moment in zip(counts, means, strict=True)}


def raw_likelihoods(label: Label) -> dict[str, float]:
    """Return each value's share of all confidences times the mean of its own: q * m of a vote by confidence."""
    total = sum(vote.confidence for vote in label.votes) or 1.0
    return {value: sum(own) / total * sum(own) / len(own) for value, own in _confidences(label.votes).items()}


def _moments(counts: Sequence[int], evidence: Evidence, values: int) -> tuple[float, list[float]]:
    """Return the probability of votes in their order, and that times the mean of pi of each value with votes.

    A vote is drawn from pi or is noise. Of the n votes of a value let j be drawn from pi. The mean of the product of their pi is a
    moment of the Dirichlet distribution: a product over the values, divided by a function of the sum of all j. So the sum over all
    ways to choose them is a product of polynomials.
    """
    alpha, noise = evidence
    factors = []
    for count in counts:
        drawn = np.arange(count + 1)
        ways = np.array([comb(count, j) for j in drawn]) * (1 - noise) ** drawn * (noise / values) ** (count - drawn)
        factors.append(ways * np.exp(gammaln(alpha + drawn) - gammaln(alpha)))

    def total(polynomials: Sequence[Array], extra: int) -> float:
        product = np.ones(1)
        for polynomial in polynomials:
            product = np.convolve(product, polynomial)
        sums = np.arange(len(product)) + extra
        return float(product @ (rgamma(values * alpha + sums) / rgamma(values * alpha)))

    means = []
    for place, count in enumerate(counts):
        raised = factors[place] * (alpha + np.arange(count + 1))
        means.append(total([*factors[:place], raised, *factors[place + 1 :]], 1))
    return total(factors, 0), means


def _likelihoods(label: Label, evidence: Evidence, values: int, of_answers: str) -> dict[str, float]:
    told, confidences = pointed_at(label.votes, evidence, values), _confidences(label.votes)
    stated = max if of_answers == "highest" else mean
    right = {value: told[value] * stated(confidences[value]) for value in told}
    return right | {value: raw for value, raw in raw_likelihoods(label).items() if value == UNKNOWN}


def _counts(votes: Sequence[Vote]) -> dict[str, int]:
    """Return how often each value but Unknown was said, in the order of the votes."""
    return dict(Counter([vote.value for vote in votes if vote.value != UNKNOWN][:COUNTED]))


def _confidences(votes: Sequence[Vote]) -> Mapping[str, list[float]]:
    by_value: dict[str, list[float]] = {}
    for vote in votes:
        by_value.setdefault(vote.value, []).append(vote.confidence)
    return by_value
