"""Scores of labels: precision, recall and F1 that leave Unknown out, and how far the confidences can be trusted.

A label that is not Unknown predicts a value. Precision is the share of these predictions that is right, recall the share of the
known gold values that is predicted, so abstaining costs recall only (ProfileBench, arXiv 2509.18864). A person with a gold
value and no label counts as Unknown; a person without a gold value is not scored for that attribute. Both are counted.

Shapes: U users, A attributes, R resamples. Precision, recall, F1, accuracy and coverage are in 0..100, the rest in 0..1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmprofile.errors import UserError
from mmprofile.files import without_nan
from mmprofile.llm.answers import Claim
from mmprofile.profile.calibration import calibration
from mmprofile.profile.metrics import RESAMPLES, Array, Interval, resample_weights
from mmprofile.profile.schema import UNKNOWN, Profile

Bools = npt.NDArray[np.bool_]

BINS = 10
THRESHOLDS = tuple(step / 20 for step in range(21))


class LabelTable(NamedTuple):
    """Labels beside gold, (U, A) each.

    Attributes:
        scored: there is a gold value, maybe Unknown.
        known: the gold value is not Unknown.
        labelled: there is a label, maybe Unknown.
        predicted: it is scored, and the label is not Unknown.
        correct: the label is the known gold value.
        confidence: of the label; 0 where there is none.
    """

    scored: Bools
    known: Bools
    labelled: Bools
    predicted: Bools
    correct: Bools
    confidence: Array

    def claims(self, attribute: int | slice = slice(None)) -> tuple[Array, Bools]:
        """Return confidence and correctness of the P predictions of an attribute (or of all), (P,) each."""
        predicted = self.predicted[:, attribute]
        return self.confidence[:, attribute][predicted], self.correct[:, attribute][predicted]


@dataclass(frozen=True)
class LabelScores:
    """Scores of the labels of one attribute, or of all.

    Attributes:
        precision: correct / said; 0 where nothing is predicted.
        recall: correct / known; 0 where gold knows nothing.
        f1: 2 correct / (said + known), their harmonic mean; 0 where both are 0.
        accuracy: share of the scored labels that are the gold value, Unknown for Unknown included.
        coverage: said / scored.
        ece: expected calibration error of the predictions, 10 equal-width bins (Guo et al. 2017).
        brier: mean squared difference of confidence and correctness of the predictions.
        aurc: area under the risk-coverage curve: the mean, over the predictions from the most confident on, of the share of
            errors so far; equal confidences share their errors (Geifman et al. 2019).
        scored: labels beside a gold value; of these, ``said``: predictions, labels that are not Unknown; ``known`` and
            ``correct``: as in :class:`LabelTable`.
        without_gold: users without a gold value.
        without_label: scored users without a label, which counts as Unknown.

    What is not defined is NaN: all rates where nobody is scored; the three of confidence where nothing is predicted.
    """

    precision: float
    recall: float
    f1: float
    accuracy: float
    coverage: float
    ece: float
    brier: float
    aurc: float
    scored: int
    said: int
    known: int
    correct: int
    without_gold: int
    without_label: int


class AtThreshold(NamedTuple):
    """Means over attributes where labels whose confidence is below ``threshold`` are taken as Unknown."""

    threshold: float
    precision: float
    recall: float
    f1: float
    coverage: float


@dataclass(frozen=True)
class LabelSetScores:
    """Scores of a set of labels.

    Attributes:
        overall: rates are means over the attributes with anybody scored; ``ece``, ``brier`` and ``aurc`` are of all
            predictions together; counts are sums.
        interval: 95 % bootstrap interval, over users, of the mean F1; None without resampling.
        per_attribute: each attribute's own.
        thresholds: the means with a threshold on the confidence.
        users: all; ``without_gold``, ``without_labels``: those without any gold value, without any label.
    """

    overall: LabelScores
    interval: Interval | None
    per_attribute: dict[str, LabelScores]
    thresholds: tuple[AtThreshold, ...]
    users: int
    without_gold: int
    without_labels: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``scores.json``; NaN becomes None, which JSON can hold."""
        plain: dict[str, Any] = without_nan(
            asdict(self) | {"thresholds": [at_threshold._asdict() for at_threshold in self.thresholds]}
        )
        return plain


def score_labels(
    names: Sequence[str],
    gold: Sequence[Profile],
    labels: Sequence[Mapping[str, Claim]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LabelSetScores:
    """Score ``labels`` against ``gold``, user by user.

    Args:
        names: the attributes that are scored.
        gold: one profile per user; ``()`` is Unknown, an attribute that is missing has no gold value.
        labels: attribute -> value and confidence, one mapping per user, in the same order; attributes may be missing.
        resamples: bootstrap resamples of the users; 0 leaves the interval out.
        seed: of the resampling.

    Raises:
        UserError: no user has any gold value.
        ValueError: lists of different lengths, a gold value of several values, or a confidence outside 0..1.
    """
    table = tabulate(names, gold, labels)
    with_gold = table.scored.any(axis=1)
    if not with_gold.any():
        raise UserError(f"nothing to score: nobody has a gold value of {', '.join(names)}")
    everybody = np.ones((1, len(gold)))
    interval = percentiles(resampled_f1(table, resamples, seed)) if resamples else None
    rates = _rates(table, everybody)
    return LabelSetScores(
        overall=_label_scores(_mean(rates)[:, 0], table, slice(None)),
        interval=interval,
        per_attribute={name: _label_scores(rates[:, 0, i], table, i) for i, name in enumerate(names)},
        thresholds=tuple(_at_threshold(table, everybody, threshold) for threshold in THRESHOLDS),
        users=len(gold),
        without_gold=int((~with_gold).sum()),
        without_labels=int((~table.labelled.any(axis=1)).sum()),
    )


def resampled_f1(table: LabelTable, resamples: int, seed: int) -> Array:
    """Return the mean F1 of resamples of the users, (R,); every table of the same people and seed has the same resamples."""
    # Users without gold would change nothing; without them every resample has somebody to score.
    with_gold = table.scored.any(axis=1)
    scored = LabelTable._make(column[with_gold] for column in table)
    draws = [_mean(_rates(scored, weights))[2] for weights in resample_weights(len(scored.predicted), resamples, seed)]
    return np.concatenate(draws)


def percentiles(draws: Array) -> Interval:
    """Return the ends of the middle 95 % of the draws (R,)."""
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return low, high


def tabulate(names: Sequence[str], gold: Sequence[Profile], labels: Sequence[Mapping[str, Claim]]) -> LabelTable:
    """Put labels beside gold; arguments and errors as for :func:`score_labels`."""
    if len(gold) != len(labels):
        raise ValueError(f"labels of {len(labels)} users for {len(gold)} gold profiles")
    shape = (len(gold), len(names))
    table = LabelTable(
        scored=np.zeros(shape, dtype=bool),
        known=np.zeros(shape, dtype=bool),
        labelled=np.zeros(shape, dtype=bool),
        predicted=np.zeros(shape, dtype=bool),
        correct=np.zeros(shape, dtype=bool),
        confidence=np.zeros(shape),
    )
    for row, (profile, claims) in enumerate(zip(gold, labels, strict=True)):
        for column, name in enumerate(names):
            at, values, claim = (row, column), profile.get(name), claims.get(name)
            if values is not None and len(values) > 1:
                raise ValueError(f"gold {name} has {len(values)} values; labels have one")
            table.scored[at], table.known[at], table.labelled[at] = values is not None, bool(values), claim is not None
            if claim is not None:
                if not 0 <= claim.confidence <= 1:
                    raise ValueError(f"{name}: confidence {claim.confidence} lies outside 0..1")
                table.predicted[at] = table.scored[at] and claim.value != UNKNOWN
                table.correct[at] = values == (claim.value,)
                table.confidence[at] = claim.confidence
    return table


def _rates(table: LabelTable, weights: Array, threshold: float = 0.0) -> Array:
    """Return precision, recall, F1, accuracy and coverage of weighted users, (5, R, A) for weights (R, U)."""
    predicted = table.predicted & (table.confidence >= threshold)
    hit = table.correct & predicted
    right = hit | (table.scored & ~table.known & ~predicted)
    scored, known, predictions, hits, rights = (
        weights @ cells.astype(np.float64) for cells in (table.scored, table.known, predicted, hit, right)
    )  # (R, A) each: counts
    shares = (
        (hits, predictions),
        (hits, known),
        (2 * hits, predictions + known),
        (rights, scored),
        (predictions, scored),
    )
    # Counts are whole: the maximum only replaces 0 / 0 by 0 / 1.
    rates = np.stack([100.0 * part / np.maximum(total, 1.0) for part, total in shares])
    return np.where(scored > 0, rates, np.nan)


def _mean(rates: Array) -> Array:
    """Average rates (5, R, A) over the attributes that have anybody scored, (5, R); there is one in every row."""
    known = ~np.isnan(rates)
    return np.asarray(np.where(known, rates, 0.0).sum(axis=2) / known.sum(axis=2))


def _label_scores(rates: Array, table: LabelTable, attribute: int | slice) -> LabelScores:
    scored, known, labelled = table.scored[:, attribute], table.known[:, attribute], table.labelled[:, attribute]
    confidence, correct = table.claims(attribute)
    of_confidence = calibration(confidence, correct, BINS) if len(confidence) else None
    precision, recall, f1, accuracy, coverage = rates.tolist()
    return LabelScores(
        precision=precision,
        recall=recall,
        f1=f1,
        accuracy=accuracy,
        coverage=coverage,
        ece=of_confidence.ece if of_confidence else math.nan,
        brier=of_confidence.brier if of_confidence else math.nan,
        aurc=of_confidence.aurc if of_confidence else math.nan,
        scored=int(scored.sum()),
        said=len(confidence),
        known=int(known.sum()),
        correct=int(correct.sum()),
        without_gold=int((~scored).sum()),
        without_label=int((scored & ~labelled).sum()),
    )


def _at_threshold(table: LabelTable, everybody: Array, threshold: float) -> AtThreshold:
    precision, recall, f1, _, coverage = _mean(_rates(table, everybody, threshold))[:, 0].tolist()
    return AtThreshold(threshold=threshold, precision=precision, recall=recall, f1=f1, coverage=coverage)
