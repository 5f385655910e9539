"""How far confidences can be trusted: expected calibration error, Brier score, risk against coverage."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmprofile.profile.metrics import Array


class Calibration(NamedTuple):
    """How far confidences can be trusted.

    Attributes:
        ece: expected calibration error, 15 equal-width bins, 0..1.
        brier: mean squared difference of confidence and correctness, 0..1.
        aurc: area under the risk-coverage curve, 0..1.
        coverage: (U,) share of users answered, from the most confident one to all.
        risk: (U,) share of errors among them.
    """

    ece: float
    brier: float
    aurc: float
    coverage: Array
    risk: Array


class Bins(NamedTuple):
    """Answers in equal-width bins of confidence, (0, 1/B], (1/B, 2/B], ..., 0 in the first, (B,) each; NaN where one is empty."""

    number: npt.NDArray[np.int64]
    accuracy: Array
    confidence: Array


def calibration(
    confidence: Sequence[float] | Array, correct: Sequence[bool] | npt.NDArray[np.bool_] | Array, bins: int = 15
) -> Calibration:
    """Calibration of confidences, (U,) in 0..1, against whether each answer was right, (U,).

    Equal confidences have no order: their errors are spread evenly over their places in the risk-coverage curve.
    Sources: Guo et al. 2017 (ECE), Geifman et al. 2019 (AURC: mean selective risk over all coverages).

    Raises:
        ValueError: nothing given, lengths differ, or a confidence is not in 0..1.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not sure.size:
        raise ValueError(f"confidence and correct must be equally long lists, not {sure.shape} and {right.shape}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("a confidence lies outside 0..1")
    # Bins are open below and closed above, (0, 1/15], ...; a confidence of 0 belongs to the first.
    index = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=sure - right, minlength=bins)
    _, group, size = np.unique(-sure, return_inverse=True, return_counts=True)
    error = np.bincount(group, weights=1.0 - right) / size
    places = np.arange(1, sure.size + 1)
    risk = np.cumsum(np.repeat(error, size)) / places
    return Calibration(
        ece=float(np.abs(gap).sum() / sure.size),
        brier=float(np.mean((sure - right) ** 2)),
        aurc=float(risk.mean()),
        coverage=places / sure.size,
        risk=risk,
    )


def bin_confidences(confidence: Array, correct: npt.NDArray[np.bool_] | Array, bins: int = 15) -> Bins:
    """The bins of ``ece``: how many answers, how many of them right, how sure."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    number = np.bincount(index, minlength=bins)
    some = np.where(number, number, np.nan)
    right, sure = (np.bincount(index, weights=part, minlength=bins) for part in (correct, confidence))
    return Bins(number, right / some, sure / some)
