"""Compare runs: means over training seeds, and a paired bootstrap over users.

Dimension letters: U users, B bootstrap resamples, A attributes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmprofile.profile.metrics import (
    RESAMPLES,
    Array,
    Interval,
    bootstrap,
    count,
    macro_scores,
    mean_of_attributes,
    percentile_interval,
    resample_weights,
)
from mmprofile.profile.schema import Profile, Schema


class PairedResult(NamedTuple):
    """The difference of two systems.

    Attributes:
        delta: macro-F1 of the first minus that of the second.
        interval: 95 % interval of ``delta``.
        p: two-sided p-value of no difference.
    """

    delta: float
    interval: Interval
    p: float


class SeedScores(NamedTuple):
    """Scores as means over training seeds.

    Attributes:
        macro_f1: mean macro-F1.
        interval: its 95 % interval over users.
        per_attribute: the same two of each attribute.
    """

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
    """Return the mean macro-F1 of runs that differ in their training seed, and its user-level bootstrap interval.

    Each resample holds the same users for all runs; its value is the mean over the runs.

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
    f1 = np.mean([macro_scores(run_counts, np.ones((1, len(gold)))).present for run_counts in counts], axis=0)
    draws = np.mean([bootstrap(run_counts, resamples, seed) for run_counts in counts], axis=0)
    per_attribute = {name: (float(f1[0, i]), percentile_interval(draws[:, i])) for i, name in enumerate(schema.names)}
    return SeedScores(
        macro_f1=float(mean_of_attributes(f1)[0]),
        interval=percentile_interval(mean_of_attributes(draws)),
        per_attribute=per_attribute,
    )


def paired_bootstrap(
    schema: Schema,
    gold: Sequence[Profile],
    a: Sequence[Profile] | Sequence[Sequence[Profile]],
    b: Sequence[Profile] | Sequence[Sequence[Profile]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedResult:
    """Test whether systems ``a`` and ``b`` differ in mean macro-F1, on the same resampled users.

    The p-value is (k + 1) / (B + 1), where k of B resamples have a difference at least as far from the observed one as
    the observed one is from zero. It is never 0, and 1 for identical systems.
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
        """Weights (B, U) -> differences (B,)."""
        first, second = (
            np.mean([mean_of_attributes(macro_scores(counts, weights).present) for counts in runs], axis=0)
            for runs in systems
        )
        return np.asarray(first - second, dtype=np.float64)

    delta = float(difference(np.ones((1, len(gold))))[0])
    draws = np.concatenate([difference(weights) for weights in resample_weights(len(gold), resamples, seed)])
    draws = draws[~np.isnan(draws)]
    # The margin absorbs rounding where a difference equals the observed one up to the order of summation.
    extreme = int((np.abs(draws - delta) >= abs(delta) - 1e-9).sum())
    return PairedResult(delta=delta, interval=percentile_interval(draws), p=(extreme + 1) / (len(draws) + 1))


def _runs(system: Sequence[Profile] | Sequence[Sequence[Profile]]) -> list[Sequence[Profile]]:
    """Return one list of predictions per seed."""
    runs: list[Any] = [system] if system and isinstance(system[0], Mapping) else list(system)
    if not runs:
        raise ValueError("a system has no predictions")
    return runs
