"""Likelihoods by agreement: against people whose truth and teacher are drawn by the model itself, and by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from mmprofile.llm.labels import Label, Vote
from mmprofile.llm.vote.agreement import CERTAIN, answer_accuracy, likelihoods, posterior, raw_likelihoods
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

pytestmark = pytest.mark.fast

VALUES = ("a", "b", "c", "d")
SCHEMA = Schema("toy", [Attribute("Letter", VALUES, unknown=True), Attribute("Digit", ("1", "2"), unknown=True)])


def votes(*pairs: tuple[str, float]) -> tuple[Vote, ...]:
    return tuple(Vote(i, value, confidence) for i, (value, confidence) in enumerate(pairs))


def drawn(people: int, answers: int, accuracy: float, seed: int) -> tuple[list[tuple[Vote, ...]], list[str]]:
    """Return votes of answers that are right with a probability, else any other value, and silent in a third; and the truth."""
    rng = np.random.default_rng(seed)
    truth = [str(value) for value in rng.choice(VALUES, people)]
    ballots = []
    for true in truth:
        others = [value for value in VALUES if value != true]
        said = [true if rng.random() < accuracy else str(rng.choice(others)) for _ in range(answers)]
        ballots.append(votes(*((UNKNOWN, 0.4) if rng.random() < 1 / 3 else (value, 1.0) for value in said)))
    return ballots, truth


@pytest.mark.parametrize("accuracy", [0.4, 0.6, 0.9])
def test_the_accuracy_of_answers_is_found_without_gold(accuracy: float) -> None:
    ballots, _ = drawn(2000, 8, accuracy, seed=1)
    assert answer_accuracy(ballots, len(VALUES)) == pytest.approx(accuracy, abs=0.02)


@pytest.mark.parametrize("accuracy", [0.4, 0.6, 0.9])
def test_values_are_right_as_often_as_is_said(accuracy: float) -> None:
    ballots, truth = drawn(4000, 5, accuracy, seed=2)
    labels = [Label(f"u{i}", "Letter", "", 0.0, votes=cast) for i, cast in enumerate(ballots)]
    said, right = [], []
    for of_label, true in zip(likelihoods(labels, SCHEMA)[0], truth, strict=True):
        for value, likelihood in of_label.items():
            if value != UNKNOWN:
                said.append(likelihood)
                right.append(value == true)
    bins = np.digitize(said, [0.2, 0.4, 0.6, 0.8])
    for number in range(5):
        inside = bins == number
        if inside.sum() > 100:
            assert np.mean(np.asarray(said)[inside]) == pytest.approx(np.mean(np.asarray(right)[inside]), abs=0.06)


def test_the_posterior_is_bayes_rule() -> None:
    cast = votes(("a", 0.9), ("a", 0.2), ("b", 0.9), (UNKNOWN, 0.9))
    right, wrong = 0.7, 0.1  # a wrong answer is any of three
    products = {"a": right * right * wrong, "b": wrong * wrong * right, "c": wrong**3, "d": wrong**3}
    expected = {value: products[value] / sum(products.values()) for value in ("a", "b")}
    assert posterior(cast, 0.7, 4) == pytest.approx(expected)


def test_by_hand() -> None:
    labels = [Label("u", "Digit", "1", 0.0, votes=votes(("1", 0.6), ("1", 0.8), (UNKNOWN, 0.4)))]
    values, accuracy = likelihoods(labels, SCHEMA)
    assert accuracy == {"Letter": CERTAIN, "Digit": CERTAIN}  # the only pair agrees
    assert values[0]["1"] == pytest.approx(0.8, abs=1e-3)  # the most confident answer
    assert values[0][UNKNOWN] == pytest.approx(0.4 / 1.8 * 0.4)
    assert raw_likelihoods(labels[0]) == pytest.approx({"1": 1.4 / 1.8 * 0.7, UNKNOWN: 0.4 / 1.8 * 0.4})


@pytest.mark.parametrize("ballots", [[], [()], [votes(("a", 0.5))], [votes((UNKNOWN, 0.5), (UNKNOWN, 0.5))]])
def test_nothing_to_compare(ballots: Sequence[tuple[Vote, ...]]) -> None:
    assert answer_accuracy(ballots, 4) == CERTAIN
    labels = [Label("u", "Letter", UNKNOWN, 0.0, votes=cast) for cast in ballots]
    assert all(set(of_label) <= {"a", UNKNOWN} for of_label in likelihoods(labels, SCHEMA)[0])


def test_answers_that_agree_less_than_chance_tell_nothing() -> None:
    ballots = [votes(("a", 0.9), ("b", 0.9))] * 10
    assert answer_accuracy(ballots, 4) == pytest.approx(0.25)
    assert posterior(ballots[0], 0.25, 4) == pytest.approx({"a": 0.25, "b": 0.25})
