"""How far confidences can be trusted: expected calibration error, Brier score, risk against coverage.

Dimension letters: U answers, one for each user.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmprofile.profile.metrics import Array


class CalibrationScores(NamedTuple):
    """How far confidences can be trusted.

    Attributes:
        ece: expected calibration error, 15 equal-width bins, 0..1.
        brier: mean squared difference of confidence and correctness, 0..1.
        aurc: area under the risk-coverage curve, 0..1.
        coverage: (U,) share of users answered, from the most confident user to all users.
        risk: (U,) share of errors among the users answered.
    """

    ece: float
    brier: float
    aurc: float
    coverage: Array
    risk: Array


class Bins(NamedTuple):
    """Answers in equal-width bins of confidence, (0, 1/bins], (1/bins, 2/bins], ...; a confidence of 0 is in the first bin.

    Attributes:
        number: (bins,) answers in each bin.
        accuracy: (bins,) share of right answers, NaN where a bin is empty.
        confidence: (bins,) mean confidence, NaN where a bin is empty.
    """

    number: npt.NDArray[np.int64]
    accuracy: Array
    confidence: Array


def calibration(
    confidence: Sequence[float] | Array, correct: Sequence[bool] | npt.NDArray[np.bool_] | Array, bins: int = 15
) -> CalibrationScores:
    """Score confidences against whether each answer was right.

    Equal confidences have no order: their errors are spread evenly over their places in the risk-coverage curve.
    Sources: Guo et al. 2017 (ECE), Geifman et al. 2019 (AURC: mean selective risk over all coverages).

    Args:
        confidence: (U,) in 0..1.
        correct: (U,) whether each answer was right.
        bins: number of bins for the expected calibration error.

    Raises:
        ValueError: there are no answers, the lengths differ, or a confidence is not in 0..1.
    """
    confidences, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidences.ndim != 1 or confidences.shape != right.shape or not confidences.size:
        raise ValueError(
            f"confidence and correct must be equally long lists, not {confidences.shape} and {right.shape}"
        )
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("a confidence lies outside 0..1")
    gap = np.bincount(_bin_numbers(confidences, bins), weights=confidences - right, minlength=bins)
    _, group, size = np.unique(-confidences, return_inverse=True, return_counts=True)
    error = np.bincount(group, weights=1.0 - right) / size
    ranks = np.arange(1, confidences.size + 1)
    risk = np.cumsum(np.repeat(error, size)) / ranks
    return CalibrationScores(
        ece=float(np.abs(gap).sum() / confidences.size),
        brier=float(np.mean((confidences - right) ** 2)),
        aurc=float(risk.mean()),
        coverage=ranks / confidences.size,
        risk=risk,
    )


def expected_ece(confidence: Array, bins: int = 15, draws: int = 200) -> float:
    """Return the expected calibration error that confidences have on average if they are right.

    It is above 0, since each bin has few answers: an error near it is as good as none.

    Args:
        confidence: (U,) in 0..1; each answer is right with its confidence.
        bins: number of bins.
        draws: simulated sets of answers, the same for the same confidences.
    """
    index, rng = _bin_numbers(confidence, bins), np.random.default_rng(0)
    right = rng.random((draws, len(confidence))) < confidence
    gaps = [np.bincount(index, weights=confidence - row, minlength=bins) for row in right]
    return float(np.abs(gaps).sum() / draws / len(confidence))


def bin_confidences(confidence: Array, correct: npt.NDArray[np.bool_] | Array, bins: int = 15) -> Bins:
    """Return the bins that the expected calibration error is computed from.

    Args:
        confidence: (U,) in 0..1.
        correct: (U,) whether each answer was right.
        bins: number of bins.
    """
    index = _bin_numbers(confidence, bins)
    number = np.bincount(index, minlength=bins)
    divisor = np.where(number, number, np.nan)
    right, total = (np.bincount(index, weights=values, minlength=bins) for values in (correct, confidence))
    return Bins(number=number, accuracy=right / divisor, confidence=total / divisor)


def _bin_numbers(confidence: Array, bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each confidence, (U,) from 0. Bins are open below and closed above; 0 belongs to the first."""
    numbers: npt.NDArray[np.int64] = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return numbers
