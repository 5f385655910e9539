"""Raw confidences -> calibrated ones, by maps fitted without gold values or on a few; monotone, so that no order changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import beta, rankdata
from sklearn.isotonic import IsotonicRegression

from mmprofile.errors import UserError

AGREEMENT = "agreement"  # no map of the raw confidences: see mmprofile.llm.vote.agreement
KINDS = ("none", "quantile", "isotonic", "temperature")
ON_GOLD = ("isotonic", "temperature")
Array = NDArray[np.float64]
EDGE = 1e-6  # a probability's distance from 0 and 1 where its logit is taken


@dataclass(frozen=True)
class ConfidenceMap:
    """A map of confidences: linear between the points (``raw``, ``calibrated``) and constant beyond them.

    Where there is a ``temperature`` T, it maps c to sigmoid(logit(c) / T) instead.
    """

    kind: str = "none"
    raw: tuple[float, ...] = ()
    calibrated: tuple[float, ...] = ()
    temperature: float | None = None

    def __call__(self, confidences: Sequence[float] | Array) -> Array:
        """Return calibrated confidences of the same shape, 0 to 1."""
        values = np.asarray(confidences, dtype=float)
        if self.temperature is not None:
            return _sigmoid(_logit(values) / self.temperature)
        return np.interp(values, self.raw, self.calibrated) if self.raw else values


def fit(
    kind: str,
    confidences: Sequence[float] | Array,
    correct: Sequence[bool] | None = None,
    target: tuple[float, float] = (2.0, 0.5),
) -> ConfidenceMap:
    """Fit a map.

    Args:
        kind: ``none``; ``quantile``: without gold, so that the confidences are distributed as ``target``; ``isotonic`` or
            ``temperature``: on ``correct``.
        confidences: raw, 0 to 1.
        correct: whether each label is right.
        target: a and b of the beta distribution that ``quantile`` maps to.

    Raises:
        UserError: the kind is unknown or needs gold and there is none, or the target is no distribution.
    """
    if kind not in KINDS:
        raise UserError(f"vote.calibration={kind!r} is not one of {', '.join(KINDS)}")
    if not min(target) > 0:
        raise UserError(f"vote.target={list(target)}: give two numbers above 0, a and b of a beta distribution")
    raw = np.asarray(confidences, dtype=float)
    if kind in ON_GOLD and (correct is None or not len(raw)):
        raise UserError(f"vote.calibration={kind} needs gold values of the split vote.gold_split; take quantile")
    if kind == "none" or not len(raw):
        return ConfidenceMap()
    if kind == "quantile":
        places = (rankdata(raw) - 0.5) / len(raw)  # equal confidences share the mean of their places
        values, first = np.unique(raw, return_index=True)
        return ConfidenceMap(kind, tuple(values.tolist()), tuple(beta.ppf(places[first], *target).tolist()))
    right = np.asarray(correct, dtype=float)
    if kind == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(raw, right)
        return ConfidenceMap(kind, tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))

    def loss(log_temperature: float) -> float:
        probability = np.clip(_sigmoid(_logit(raw) / np.exp(log_temperature)), EDGE, 1 - EDGE)
        return float(-np.mean(right * np.log(probability) + (1 - right) * np.log(1 - probability)))

    minimum = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return ConfidenceMap(kind, temperature=float(np.exp(minimum.x)))


def unknown_threshold(confidences: Sequence[float], unknown: int, rate: float) -> float:
    """Return the confidence below which labels of an attribute must become Unknown, so that a share ``rate`` of all are.

    Args:
        confidences: calibrated, of the labels that are not Unknown.
        unknown: the number that are Unknown already.
        rate: 0 to 1; the share is reached or, where confidences are equal, exceeded by as little as possible.

    Returns:
        0 where enough are Unknown already.
    """
    total = len(confidences) + unknown
    wanted = int(np.ceil(rate * total - 1e-9)) - unknown
    if wanted <= 0:
        return 0.0
    ordered = np.sort(np.asarray(confidences, dtype=float))
    return float(np.nextafter(ordered[min(wanted, len(ordered)) - 1], np.inf))


def priors(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how common each value is: the mean over people of its share of their votes' weights."""
    prior: dict[str, float] = {}
    for share in shares:
        total = sum(share.values())
        for value, weight in share.items():
            prior[value] = prior.get(value, 0.0) + weight / total / len(shares)
    return prior


def _logit(values: Array) -> Array:
    clipped = np.clip(values, EDGE, 1 - EDGE)
    return np.log(clipped / (1 - clipped))


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))
