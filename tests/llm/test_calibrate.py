"""Maps of confidences against their definitions and against SciPy and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from mmprofile.errors import UserError
from mmprofile.llm.calibrate import fit, priors, unknown_threshold

pytestmark = pytest.mark.fast


def test_quantiles_land_on_those_of_the_target() -> None:
    raw = np.linspace(0.85, 0.95, 101)  # piled up, as a model's confidences are
    mapped = fit("quantile", raw, target=(2.0, 0.5))(raw)
    assert mapped == pytest.approx(beta.ppf((np.arange(101) + 0.5) / 101, 2.0, 0.5))
    assert mapped.mean() == pytest.approx(0.8, abs=0.01)


def test_equal_confidences_stay_equal() -> None:
    raw = [0.2, 0.5, 0.5, 0.5, 0.9]
    mapped = fit("quantile", raw, target=(1.0, 1.0))(raw)  # uniform: places themselves
    assert mapped == pytest.approx([0.1, 0.5, 0.5, 0.5, 0.9])
    assert fit("quantile", raw, target=(1.0, 1.0))([0.0, 0.35, 1.0]) == pytest.approx([0.1, 0.3, 0.9])


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.sampled_from(["none", "quantile", "isotonic", "temperature"]),
    st.randoms(use_true_random=False),
)
def test_every_map_keeps_the_order_and_stays_a_probability(raw: list[float], kind: str, random: object) -> None:
    right = [random.random() < 0.5 for _ in raw]  # type: ignore[attr-defined]
    mapped = fit(kind, raw, right)(sorted(raw))
    assert np.all(np.diff(mapped) >= -1e-12)
    assert np.all((mapped >= 0) & (mapped <= 1))


def test_isotonic_pools_what_is_out_of_order() -> None:
    raw, right = [0.1, 0.2, 0.3, 0.4], [False, True, False, True]
    assert fit("isotonic", raw, right)(raw) == pytest.approx([0.0, 0.5, 0.5, 1.0])


def test_temperature_is_a_logistic_regression_without_intercept() -> None:
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.02, 0.98, 500)
    logits = np.log(raw / (1 - raw))
    right = rng.random(500) < 1 / (1 + np.exp(-logits / 2.5))
    slope = LogisticRegression(C=1e9, fit_intercept=False).fit(logits[:, None], right).coef_[0, 0]
    assert fit("temperature", raw, right.tolist()).temperature == pytest.approx(1 / slope, rel=1e-3)


def test_what_cannot_be_fitted() -> None:
    for kind in ("isotonic", "temperature"):
        with pytest.raises(UserError, match="needs gold"):
            fit(kind, [0.5])
    with pytest.raises(UserError, match="is not one of none, quantile"):
        fit("platt", [0.5])
    with pytest.raises(UserError, match=r"vote.target=\[0, 1\]"):
        fit("quantile", [0.5], target=(0, 1))
    assert fit("quantile", [])([0.3]) == pytest.approx([0.3])


def test_thresholds_reach_the_rate() -> None:
    confidences = [0.1, 0.2, 0.2, 0.4, 0.9]
    for unknown, rate, below in (
        (0, 0.2, 1),
        (0, 0.21, 3),
        (0, 0.6, 3),
        (5, 0.5, 0),
        (5, 0.6, 1),
        (0, 1.0, 5),
        (0, 0.0, 0),
    ):
        threshold = unknown_threshold(confidences, unknown, rate)
        assert sum(c < threshold for c in confidences) == below, (unknown, rate)
    assert unknown_threshold([], 3, 1.0) == 0.0


def test_priors_are_mean_shares() -> None:
    assert priors([{"a": 3.0, "b": 1.0}, {"b": 5.0}]) == pytest.approx({"a": 0.375, "b": 0.625})
