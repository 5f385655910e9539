"""Likelihoods by agreement: against people whose votes are drawn by the model itself, and against sums over all that may be."""

from collections.abc import Sequence

import numpy as np
import pytest

from mmprofile.llm.labels import Label, Vote
from mmprofile.llm.vote.agreement import (
    COUNTED,
    Evidence,
    fit_evidence,
    likelihoods,
    pointed_at,
    raw_likelihoods,
)
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

pytestmark = pytest.mark.fast

VALUES = ("a", "b", "c", "d")
SCHEMA = Schema("toy", [Attribute("Letter", VALUES, unknown=True), Attribute("Digit", ("1", "2"), unknown=True)])


def votes(*pairs: tuple[str, float]) -> tuple[Vote, ...]:
    return tuple(Vote(i, value, confidence) for i, (value, confidence) in enumerate(pairs))


def drawn(people: int, answers: int, evidence: Evidence, seed: int) -> tuple[list[tuple[Vote, ...]], list[str]]:
    """Return votes drawn by the model, a third of the answers being silent; and a truth drawn from each person's pi."""
    rng = np.random.default_rng(seed)
    ballots, truth = [], []
    for pi in rng.dirichlet([evidence.concentration] * len(VALUES), people):
        noisy = (1 - evidence.noise) * pi + evidence.noise / len(VALUES)
        said = rng.choice(VALUES, answers, p=noisy / noisy.sum())
        ballots.append(votes(*((UNKNOWN, 0.4) if rng.random() < 1 / 3 else (str(value), 1.0) for value in said)))
        truth.append(str(rng.choice(VALUES, p=pi)))
    return ballots, truth


@pytest.mark.parametrize("evidence", [Evidence(0.03, 0.3), Evidence(0.4, 0.05), Evidence(0.1, 0.5)])
def test_noise_is_told_from_evidence_that_points_two_ways(evidence: Evidence) -> None:
    ballots, truth = drawn(3000, 8, evidence, seed=1)
    found = fit_evidence(ballots, len(VALUES))
    assert found.noise == pytest.approx(evidence.noise, abs=0.06)
    assert 0.4 * evidence.concentration <= found.concentration <= 2.1 * evidence.concentration
    said, right = [], []
    for cast, true in zip(ballots, truth, strict=True):
        for value, told in pointed_at(cast, found, len(VALUES)).items():
            said.append(told)
            right.append(value == true)
    bins = np.digitize(said, [0.2, 0.4, 0.6, 0.8])
    for number in range(5):
        inside = bins == number
        if inside.sum() > 100:
            assert np.mean(np.asarray(said)[inside]) == pytest.approx(np.mean(np.asarray(right)[inside]), abs=0.06)


def test_the_mean_is_that_of_drawn_pi() -> None:
    """Against an average over many pi, weighted by how likely each makes the votes."""
    cast = votes(("a", 0.9), ("a", 0.2), ("b", 0.9), (UNKNOWN, 0.9), ("c", 0.1))
    evidence, pi = Evidence(0.4, 0.3), np.random.default_rng(0).dirichlet([0.4] * 4, 400_000)
    noisy = 0.7 * pi + 0.3 / 4
    weights = noisy[:, 0] ** 2 * noisy[:, 1] * noisy[:, 2]
    expected = {value: float(weights @ pi[:, place] / weights.sum()) for place, value in enumerate("abc")}
    assert pointed_at(cast, evidence, 4) == pytest.approx(expected, abs=5e-3)


def test_without_noise_it_is_the_dirichlet_posterior() -> None:
    cast = votes(("a", 0.9), ("a", 0.2), ("b", 0.9))
    assert pointed_at(cast, Evidence(0.5, 0.0), 4) == pytest.approx({"a": 2.5 / 5, "b": 1.5 / 5})


def test_by_hand() -> None:
    labels = [Label("u", "Digit", "1", 0.0, votes=votes(("1", 0.6), ("1", 0.8), (UNKNOWN, 0.4)))]
    values, evidence = likelihoods(labels, SCHEMA)
    assert evidence == {"Letter": Evidence(), "Digit": Evidence()}  # the only pair agrees
    assert values[0]["1"] == pytest.approx(0.8, abs=0.01)  # the most confident answer
    assert values[0][UNKNOWN] == pytest.approx(0.4 / 1.8 * 0.4)
    assert likelihoods(labels, SCHEMA, "mean")[0][0]["1"] == pytest.approx(0.7, abs=0.01)
    assert raw_likelihoods(labels[0]) == pytest.approx({"1": 1.4 / 1.8 * 0.7, UNKNOWN: 0.4 / 1.8 * 0.4})


@pytest.mark.parametrize("ballots", [[], [()], [votes((UNKNOWN, 0.5), (UNKNOWN, 0.5))]])
def test_nothing_to_compare(ballots: Sequence[tuple[Vote, ...]]) -> None:
    assert fit_evidence(ballots, 4) == Evidence()
    labels = [Label("u", "Letter", UNKNOWN, 0.0, votes=cast) for cast in ballots]
    assert all(set(of_label) <= {UNKNOWN} for of_label in likelihoods(labels, SCHEMA)[0])


def test_many_votes_stay_finite() -> None:
    cast = votes(*(("a" if i % 3 else "b", 0.5) for i in range(1000)))
    told = pointed_at(cast, Evidence(0.01, 0.01), 4)
    assert told == pytest.approx({"a": 2 / 3, "b": 1 / 3}, abs=0.02)
    assert sum(told.values()) <= 1
    assert len(cast) > COUNTED
