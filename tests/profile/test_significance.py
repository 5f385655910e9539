"""The paired bootstrap: against a direct one, and its p-values."""

import numpy as np
import pytest

from mmprofile.profile.metrics import score
from mmprofile.profile.significance import paired_bootstrap
from tests.support.toyprofiles import ONE, SCHEMA, profiles, stars

pytestmark = pytest.mark.fast


def test_paired_bootstrap_of_identical_systems_and_of_a_clearly_better_one() -> None:
    rng = np.random.default_rng(0)
    gold = profiles(rng, 60)
    random = profiles(rng, 60)
    assert paired_bootstrap(SCHEMA, gold, random, random, resamples=200) == (0.0, (0.0, 0.0), 1.0)
    better = paired_bootstrap(SCHEMA, gold, gold, random, resamples=499)
    assert better.delta == pytest.approx(100 - score(SCHEMA, gold, random, resamples=0).macro_f1)
    assert better.interval[0] > 0
    assert better.p == pytest.approx(1 / 500)
    worse = paired_bootstrap(SCHEMA, gold, random, gold, resamples=499)
    assert worse.delta == -better.delta
    assert worse.p == better.p


def test_paired_bootstrap_equals_a_direct_one_over_users_and_seeds() -> None:
    rng = np.random.default_rng(1)
    gold = profiles(rng, 15)
    a, b = [profiles(rng, 15) for _ in range(3)], [profiles(rng, 15) for _ in range(2)]

    def difference(index: np.ndarray) -> float:
        mean = [
            np.mean(
                [score(SCHEMA, [gold[i] for i in index], [r[i] for i in index], resamples=0).macro_f1 for r in runs]
            )
            for runs in (a, b)
        ]
        return float(mean[0] - mean[1])

    result = paired_bootstrap(SCHEMA, gold, a, b, resamples=25, seed=5)
    delta = difference(np.arange(15))
    draws = np.array([difference(index) for index in np.random.default_rng(5).integers(0, 15, size=(25, 15))])
    assert result.delta == pytest.approx(delta)
    assert result.interval == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))
    assert result.p == pytest.approx((np.sum(np.abs(draws - delta) >= abs(delta)) + 1) / 26)


def test_paired_bootstrap_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        paired_bootstrap(ONE, stars("4"), [], stars("4"))
    with pytest.raises(ValueError, match="at least 1"):
        paired_bootstrap(ONE, stars("4"), stars("4"), stars("4"), resamples=0)


def test_paired_p_values_are_uniform_enough_where_systems_are_equally_good() -> None:
    rng = np.random.default_rng(0)
    small = 0
    for trial in range(60):
        gold, a, b = (profiles(rng, 50) for _ in range(3))
        small += paired_bootstrap(SCHEMA, gold, a, b, resamples=200, seed=trial).p < 0.1
    assert small <= 13  # a binomial(60, 0.1) exceeds 13 once in 2,000 runs
