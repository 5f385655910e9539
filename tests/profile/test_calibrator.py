"""Temperatures against a search of every value, and sets against what split conformal prediction promises."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmprofile.errors import UserError
from mmprofile.profile.calibration import calibration
from mmprofile.profile.calibrator import LEAST, SPREAD, AttributeCalibration, Calibrator, Posteriors, check_risk
from mmprofile.profile.schema import Profile

pytestmark = pytest.mark.fast
CLASSES = 5


def people(rng: np.random.Generator, users: int, sharper: float) -> tuple[list[Posteriors], list[Profile]]:
    """Return users whose true values are drawn from a softmax, and a model that is ``sharper`` times as sure."""
    logits = rng.normal(0, 1.5, (users, CLASSES))
    posteriors: list[Posteriors] = []
    gold: list[Profile] = []
    for row in logits:
        true, stated = (np.exp(scale * row) / np.exp(scale * row).sum() for scale in (1.0, sharper))
        posteriors.append({"A": {(str(i),): float(share) for i, share in enumerate(stated)}})
        gold.append({"A": (str(rng.choice(CLASSES, p=true)),)})
    return posteriors, gold


@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_model_that_is_too_sure(sharper: float) -> None:
    posteriors, gold = people(np.random.default_rng(0), 3000, sharper)
    fitted = Calibrator.fit(posteriors, gold)
    assert fitted.attributes["A"].temperature == pytest.approx(sharper, rel=0.1)


def test_the_temperature_is_the_best_of_all_that_are_tried() -> None:
    posteriors, gold = people(np.random.default_rng(1), 60, 2.0)
    shares = np.array([list(posterior["A"].values()) for posterior in posteriors])
    right = np.array([int(profile["A"][0]) for profile in gold])

    def loss(logarithm: float) -> float:
        logits = np.log(shares) / np.exp(logarithm)
        likelihood = np.exp(logits[np.arange(len(right)), right]) / np.exp(logits).sum(axis=1)
        return float((logarithm / SPREAD) ** 2 / 2 - np.log(np.maximum(likelihood, LEAST)).sum())

    grid = np.linspace(-2, 3, 5001)
    best = float(np.exp(grid[np.argmin([loss(value) for value in grid])]))
    assert Calibrator.fit(posteriors, gold).attributes["A"].temperature == pytest.approx(best, rel=1e-3)


def test_calibration_more_than_halves_the_error_of_a_model_that_is_too_sure() -> None:
    rng = np.random.default_rng(2)
    fitted = Calibrator.fit(*people(rng, 500, 3.0))
    posteriors, gold = people(rng, 5000, 3.0)
    errors = []
    for stated in (posteriors, [fitted.calibrated(posterior) for posterior in posteriors]):
        best = [max(posterior["A"].items(), key=lambda item: item[1]) for posterior in stated]
        right = [values == profile["A"] for (values, _), profile in zip(best, gold, strict=True)]
        errors.append(calibration([share for _, share in best], right).ece)
    assert errors[1] < errors[0] / 2


def test_few_users_who_were_all_right_do_not_make_a_model_certain() -> None:
    posteriors: list[Posteriors] = [{"A": {("a",): 0.7, ("b",): 0.3}}] * 5
    fitted = Calibrator.fit(posteriors, [{"A": ("a",)}] * 5)
    assert 0.7 < fitted.calibrated(posteriors[0])["A"]["a",] < 0.95


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_sets_hold_the_truth_as_often_as_promised_over_100_seeds(risk: float, sharper: float) -> None:
    users, covered = 99, []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        fitted = Calibrator.fit(*people(rng, users, sharper))
        posteriors, gold = people(rng, 200, sharper)
        sets = [fitted.sets(p, {"A": max(p["A"], key=p["A"].__getitem__)}, risk)["A"] for p in posteriors]
        covered.append(np.mean([profile["A"] in chosen for profile, chosen in zip(gold, sets, strict=True)]))
    error = np.std(covered) / math.sqrt(len(covered))
    promised = 1 - risk
    assert promised - 3 * error < np.mean(covered) < promised + 1 / (users + 1) + 3 * error + 0.01


def test_the_threshold_by_hand() -> None:
    scores = tuple(i / 10 for i in range(1, 10))  # nine users: with risk 0.1 the ninth counts, with less none
    part = AttributeCalibration(scores=scores)
    assert part.threshold(0.1) == pytest.approx(1 - 0.9)
    assert part.threshold(0.5) == pytest.approx(1 - 0.5)
    assert part.threshold(0.09) == 0.0
    assert AttributeCalibration().threshold(0.5) == 0.0


def test_sets_hold_the_prediction_and_begin_with_the_likeliest() -> None:
    known = Calibrator({"A": AttributeCalibration(scores=(0.2,) * 9)})
    shares = {("a",): 0.5, ("b",): 0.4, (): 0.1}
    assert known.sets({"A": shares}, {"A": ("b",)}, 0.1) == {"A": [("b",)]}  # none reaches 0.8
    unsure = Calibrator({"A": AttributeCalibration(scores=(0.65,) * 9)})
    assert unsure.sets({"A": shares}, {"A": ("b",)}, 0.1) == {"A": [("a",), ("b",)]}
    assert Calibrator({}).sets({"A": shares}, {"A": ("b",)}, 0.1) == {"A": [("a",), ("b",), ()]}


def test_what_is_not_labelled_does_not_count() -> None:
    shares = {"A": {("a",): 0.6, ("b",): 0.4}, "B": {("c",): 0.9, ("d",): 0.1}}
    fitted = Calibrator.fit([shares, shares], [{"A": ("a",)}, {"A": ("b",)}])
    assert fitted.attributes["A"].scores == pytest.approx((0.4, 0.6))
    assert fitted.attributes["B"] == AttributeCalibration()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda row: sum(row) > 0.01), st.floats(0.14, 20))
def test_calibrated_posteriors_are_probabilities_in_the_same_order(row: list[float], temperature: float) -> None:
    shares = {(str(i),): share / sum(row) for i, share in enumerate(row)}
    known = Calibrator({"A": AttributeCalibration(temperature)})
    after = known.calibrated({"A": shares, "B": {("x",): 1.0}})
    assert sum(after["A"].values()) == pytest.approx(1)
    assert after["B"] == {("x",): 1.0}
    assert list(after["A"]) == list(shares)
    assert max(after["A"].values()) == after["A"][max(shares, key=shares.__getitem__)]
    assert Calibrator.from_dict(known.to_dict()) == known


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_what_is_no_risk_is_refused(risk: float) -> None:
    with pytest.raises(UserError, match="above 0 and below 1"):
        check_risk(risk)
