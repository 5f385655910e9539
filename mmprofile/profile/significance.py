"""Several runs against each other: means over seeds, and a paired bootstrap over users."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmprofile.profile.metrics import (
    RESAMPLES,
    Array,
    Interval,
    _interval,
    _macro,
    _mean,
    bootstrap,
    count,
    resample_weights,
)
from mmprofile.profile.schema import Profile, Schema


class PairedResult(NamedTuple):
    """``delta`` = macro-F1 of a minus that of b, its 95 % interval, and the two-sided p-value of no difference."""

    delta: float
    interval: Interval
    p: float


class SeedScores(NamedTuple):
    """Macro-F1 as a mean over training seeds, with the 95 % interval of that mean over users; and each attribute's."""

    macro_f1: float
    interval: Interval
    per_attribute: dict[str, tuple[float, Interval]]


def score_seeds(
    schema: Schema,
    gold: Sequence[Profile],
    runs: Sequence[Sequence[Profile]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SeedScores:
    """Mean macro-F1 of runs that differ in their training seed, and its user-level bootstrap interval.

    Every resample holds the same users for all runs; its value is the mean over the runs.

    Args:
        schema: the attributes and their classes.
        gold: one profile per user.
        runs: for each seed, one predicted profile per user.
        resamples: bootstrap resamples, at least 1.
        seed: of the resampling.

    Raises:
        UserError: no user, or a gold value that the schema does not list.
        ValueError: lists of different lengths, or no runs.
    """
    if not runs:
        raise ValueError("no runs")
    counts = [count(schema, gold, run) for run in runs]
    f1 = np.mean([_macro(one, np.ones((1, len(gold))))[1] for one in counts], axis=0)
    draws = np.mean([bootstrap(one, resamples, seed) for one in counts], axis=0)
    each = {name: (float(f1[0, i]), _interval(draws[:, i])) for i, name in enumerate(schema.names)}
    return SeedScores(float(_mean(f1)[0]), _interval(_mean(draws)), each)


def paired_bootstrap(
    schema: Schema,
    gold: Sequence[Profile],
    a: Sequence[Profile] | Sequence[Sequence[Profile]],
    b: Sequence[Profile] | Sequence[Sequence[Profile]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedResult:
    """Tests whether systems ``a`` and ``b`` differ in mean macro-F1, on the same resampled users.

    The p-value is the share of resamples whose difference is at least as far from the observed one as the observed
    one is from zero, (k + 1) / (R + 1); never 0, and 1 for identical systems.
    Source: Berg-Kirkpatrick, Burkett, Klein, *An Empirical Investigation of Statistical Significance in NLP*, 2012.

    Args:
        schema: the attributes and their classes.
        gold: one profile per user.
        a: predictions, one per user; or a list of such lists, one per training seed, whose scores are averaged.
        b: as ``a``; the number of seeds may differ.
        resamples: bootstrap resamples, at least 1.
        seed: of the resampling.

    Raises:
        UserError: no user, or a gold value that the schema does not list.
        ValueError: lists of different lengths, or no predictions.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    systems = [[count(schema, gold, run) for run in _runs(system)] for system in (a, b)]

    def difference(weights: Array) -> Array:
        first, second = (np.mean([_mean(_macro(c, weights)[1]) for c in runs], axis=0) for runs in systems)
        return np.asarray(first - second, dtype=np.float64)

    delta = float(difference(np.ones((1, len(gold))))[0])
    draws = np.concatenate([difference(weights) for weights in resample_weights(len(gold), resamples, seed)])
    draws = draws[~np.isnan(draws)]
    # The margin absorbs rounding where a difference equals the observed one up to the order of summation.
    extreme = int((np.abs(draws - delta) >= abs(delta) - 1e-9).sum())
    return PairedResult(delta, _interval(draws), (extreme + 1) / (len(draws) + 1))


def _runs(system: Sequence[Profile] | Sequence[Sequence[Profile]]) -> list[Sequence[Profile]]:
    """One list of predictions per seed."""
    runs: list[Any] = [system] if system and isinstance(system[0], Mapping) else list(system)
    if not runs:
        raise ValueError("a system has no predictions")
    return runs
