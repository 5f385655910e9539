"""Score predicted profiles against gold ones: macro-F1 with bootstrap intervals, and confusion matrices.

The classes of an attribute are the schema's values, fixed for every system. A missing, invalid or out-of-schema value
is a wrong prediction and is never dropped. An attribute whose gold value is Unknown (``()``) or missing is not scored for that
user; ``not_scored`` counts these users.

All scores are computed from one table of counts per user: true positives, false positives and false negatives of each
class. A resample of users is a weighted sum of its rows, so 2,000 resamples are one matrix product.

Dimension letters: U users, A attributes, C classes of all attributes side by side, B bootstrap resamples. F1 and
accuracy are in 0..100.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmprofile.errors import UserError
from mmprofile.files import without_nan
from mmprofile.profile.schema import Attribute, Profile, Schema

Array = npt.NDArray[np.float64]
Interval = tuple[float, float]
Faults = Sequence[bool] | Sequence[Sequence[str]]
RESAMPLES = 2000
_CHUNK = 4_000_000  # cells of a block of bootstrap weights: 32 MB


@dataclass(frozen=True)
class AttributeScores:
    """Scores of one attribute.

    Attributes:
        macro_f1: mean F1 over the classes that occur in gold; NaN where no user is scored.
        macro_f1_all: mean F1 over all classes of the schema, 0 for a class that is neither in gold nor predicted
            (scikit-learn's ``labels=..., zero_division=0``).
        interval: 95 % user-level bootstrap interval of ``macro_f1``; None without resampling.
        f1: F1 of each class.
        support: users with the class in gold, for each class.
        accuracy: share of scored users whose values are all right.
        exact_set_accuracy: the same for attributes of several values; None for a single value.
        predicted_absent: predictions of classes that do not occur in gold.
        invalid: scored users whose prediction is missing, out of the schema, or of a wrong number of values.
        not_scored: users whose gold value is unknown.
        mean_absolute_error: of an attribute whose values are in order, how far predictions are from gold; else None.
        quadratic_kappa: of the same, agreement with gold beyond chance, 1 at best (Cohen 1968).
        unit: of the mean absolute error: ``steps`` from value to value, or that of a number.
    """

    macro_f1: float
    macro_f1_all: float
    interval: Interval | None
    f1: dict[str, float]
    support: dict[str, int]
    accuracy: float
    exact_set_accuracy: float | None
    predicted_absent: int
    invalid: int
    not_scored: int
    mean_absolute_error: float | None = None
    quadratic_kappa: float | None = None
    unit: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what only ordered values have is left out of others, and NaN becomes None."""
        rows = {key: value for key, value in vars(self).items() if key not in OF_ORDER or value is not None}
        return dict(without_nan(rows))


OF_ORDER = ("mean_absolute_error", "quadratic_kappa", "unit")
"""The scores that only attributes have whose values are in order."""


@dataclass(frozen=True)
class Scores:
    """Scores of whole profiles: means over the attributes that have a scored user, and the scores of each attribute."""

    macro_f1: float
    macro_f1_all: float
    interval: Interval | None
    per_attribute: dict[str, AttributeScores]
    parse_fault_rate: float
    n_users: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``metrics.json``; NaN becomes None, since JSON has no NaN."""
        return {
            "macro_f1": without_nan(self.macro_f1),
            "macro_f1_all": without_nan(self.macro_f1_all),
            "interval": without_nan(self.interval),
            "per_attribute": {name: scores.to_dict() for name, scores in self.per_attribute.items()},
            "parse_fault_rate": self.parse_fault_rate,
            "n_users": self.n_users,
        }


class Counts(NamedTuple):
    """Counts per user and class.

    Attributes:
        tp, fp, fn: (U, C) true positives, false positives, false negatives.
        spans: the columns of each attribute.
    """

    tp: Array
    fp: Array
    fn: Array
    spans: tuple[slice, ...]


def score(
    schema: Schema,
    gold: Sequence[Profile],
    predicted: Sequence[Profile],
    faults: Faults | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score ``predicted`` against ``gold``, user by user.

    Args:
        schema: the attributes and their classes.
        gold: one profile per user.
        predicted: one profile per user, in the same order; attributes may be missing.
        faults: per user, whether (or which) parse faults occurred; None means no faults.
        resamples: bootstrap resamples; 0 leaves the intervals out.
        seed: of the resampling.

    Raises:
        UserError: no user, or a gold value that the schema does not list.
        ValueError: lists of different lengths.
    """
    if faults is not None and len(faults) != len(gold):
        raise ValueError(f"{len(faults)} fault entries for {len(gold)} gold profiles")
    counts = count(schema, gold, predicted)
    per_class, f1, f1_all = macro_scores(counts, np.ones((1, len(gold))))
    intervals: list[Interval | None] = [None] * len(schema.attributes)
    interval = None
    if resamples:
        draws = bootstrap(counts, resamples, seed)
        intervals = [percentile_interval(column) for column in draws.T]
        interval = percentile_interval(mean_of_attributes(draws))
    per_attribute = {}
    for index, (attribute, span) in enumerate(zip(schema.attributes, counts.spans, strict=True)):
        golds = [profile.get(attribute.name, ()) for profile in gold]
        guesses = [profile.get(attribute.name, ()) for profile in predicted]
        scored = [pair for pair in zip(golds, guesses, strict=True) if pair[0]]
        right = sum(attribute.canonical(a) == attribute.canonical(b) and _listed(attribute, b) for a, b in scored)
        accuracy = 100.0 * right / len(scored) if scored else math.nan
        support = (counts.tp + counts.fn)[:, span].sum(axis=0)
        per_attribute[attribute.name] = AttributeScores(
            macro_f1=float(f1[0, index]),
            macro_f1_all=float(f1_all[0, index]),
            interval=intervals[index],
            f1=dict(zip(attribute.values, per_class[0, span].tolist(), strict=True)),
            support=dict(zip(attribute.values, support.astype(int).tolist(), strict=True)),
            accuracy=accuracy,
            exact_set_accuracy=accuracy if attribute.several else None,
            predicted_absent=int(counts.fp[:, span].sum(axis=0)[support == 0].sum()),
            invalid=sum(not attribute.allows(b) for _, b in scored),
            not_scored=len(golds) - len(scored),
            **_distance(attribute, scored),
        )
    return Scores(
        macro_f1=float(mean_of_attributes(f1)[0]),
        macro_f1_all=float(mean_of_attributes(f1_all)[0]),
        interval=interval,
        per_attribute=per_attribute,
        parse_fault_rate=sum(map(bool, faults)) / len(faults) if faults else 0.0,
        n_users=len(gold),
    )


def count(schema: Schema, gold: Sequence[Profile], predicted: Sequence[Profile]) -> Counts:
    """Count true positives, false positives and false negatives of each user and class.

    An invalid prediction of a single value is a false negative of the gold class and no false positive. Where an
    attribute has several values, predicted values outside the schema are ignored.

    Raises:
        UserError: no user, or a gold value that the schema does not list.
        ValueError: lists of different lengths.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(predicted)} predicted profiles for {len(gold)} gold profiles")
    if not gold:
        raise UserError("nothing to score: the list of gold profiles is empty; choose a split that has users")
    spans = class_spans(schema)
    truth = np.zeros((len(gold), spans[-1].stop), dtype=bool)
    guess = np.zeros_like(truth)
    for attribute, span in zip(schema.attributes, spans, strict=True):
        column = {value: span.start + i for i, value in enumerate(attribute.values)}
        for row, (known, prediction) in enumerate(zip(gold, predicted, strict=True)):
            values = known.get(attribute.name, ())
            if not values:
                continue
            if not (_listed(attribute, values) if attribute.several else attribute.allows(values)):
                raise UserError(
                    f"gold profile {row}: {attribute.name} has {', '.join(map(repr, values))}, which schema "
                    f"{schema.name!r} does not allow; score with the schema that the data was prepared with"
                )
            truth[row, [column[value] for value in values if value in column]] = True  # the empty set is in none
            guessed = prediction.get(attribute.name, ())
            if attribute.several or attribute.allows(guessed):
                guess[row, [column[value] for value in guessed if value in column]] = True
    tp, fp, fn = truth & guess, guess & ~truth, truth & ~guess
    return Counts(tp=tp.astype(np.float64), fp=fp.astype(np.float64), fn=fn.astype(np.float64), spans=spans)


def class_spans(schema: Schema) -> tuple[slice, ...]:
    """Return the columns of each attribute in a table whose columns are the classes of all attributes, side by side."""
    ends = np.cumsum([len(attribute.values) for attribute in schema.attributes]).tolist()
    return tuple(slice(end - len(a.values), end) for end, a in zip(ends, schema.attributes, strict=True))


def resample_weights(users: int, resamples: int, seed: int) -> Iterator[Array]:
    """Count how often each user occurs in each bootstrap resample, in blocks of rows that sum to ``users``.

    Yields:
        (rows, U) float64; ``resamples`` rows in total, the same for the same seed whatever the block size.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // users)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, users, size=(rows, users))
        flat = (drawn + np.arange(rows)[:, None] * users).ravel()
        yield np.bincount(flat, minlength=rows * users).reshape(rows, users).astype(np.float64)


def bootstrap(counts: Counts, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Return ``macro_f1`` of each attribute on each resample of users.

    The statistic is that of :func:`score`: a class that no resampled user has in gold is left out of its mean.

    Returns:
        (B, A), NaN where a resample has no scored user for an attribute.
    """
    blocks = resample_weights(len(counts.tp), resamples, seed)
    return np.concatenate([macro_scores(counts, weights).present for weights in blocks])


def confusion(counts: Counts, attribute: int) -> Array:
    """Return the confusion matrix of an attribute.

    A class that is predicted rightly counts on the diagonal. A class that is missed counts, in equal parts, for the wrong
    classes that are predicted of the user instead, or in the last column where there are none. For a single value this
    is the usual confusion matrix; for several values, rows still sum to the users with the class in gold.

    Args:
        counts: from :func:`count`.
        attribute: the number of the attribute in the schema.

    Returns:
        (classes, classes + 1): rows are gold classes, columns predicted classes and, last, no valid class.
    """
    tp, fp, fn = (part[:, counts.spans[attribute]] for part in counts[:3])
    wrong = fp.sum(axis=1, keepdims=True)
    table = np.diag(tp.sum(axis=0)) + fn.T @ (fp / np.maximum(wrong, 1.0))
    return np.concatenate([table, fn.T @ (wrong == 0)], axis=1)


class MacroScores(NamedTuple):
    """F1 of weighted users, 0..100.

    Attributes:
        per_class: (B, C) F1 of each class.
        present: (B, A) mean over the classes that occur in gold; NaN without a scored user.
        every: (B, A) mean over all classes; NaN without a scored user.
    """

    per_class: Array
    present: Array
    every: Array


def macro_scores(counts: Counts, weights: Array) -> MacroScores:
    """Return the F1 of users who are weighted by ``weights`` (B, U)."""
    tp, fp, fn = (weights @ part for part in (counts.tp, counts.fp, counts.fn))
    f1 = 200.0 * tp / np.maximum(2.0 * tp + fp + fn, 1.0)  # counts are whole: the maximum only replaces 0 / 0 by 0 / 1
    in_gold = tp + fn > 0
    present, every = np.empty((2, len(weights), len(counts.spans)))
    for index, span in enumerate(counts.spans):
        classes = in_gold[:, span].sum(axis=1)
        unscored = np.where(classes > 0, 0.0, np.nan)  # no scored user: there is no score, which is not a score of 0
        present[:, index] = (f1[:, span] * in_gold[:, span]).sum(axis=1) / np.maximum(classes, 1) + unscored
        every[:, index] = f1[:, span].mean(axis=1) + unscored
    return MacroScores(per_class=f1, present=present, every=every)


def mean_of_attributes(table: Array) -> Array:
    """Return row means (B,) of a table (B, A), without its NaN; NaN for a row of nothing else."""
    known = ~np.isnan(table)
    total = np.where(known, table, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def percentile_interval(draws: Array) -> Interval:
    """Return the 2.5 and 97.5 percentiles of draws (B,), without their NaN."""
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return (math.nan, math.nan)
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return (low, high)


def _listed(attribute: Attribute, values: Sequence[str]) -> bool:
    """Tell whether ``values`` are different values of the schema, however many, or the empty set."""
    listed = all(value in attribute.values for value in values) and len(set(values)) == len(values)
    return listed or attribute.is_empty(values)


def _distance(attribute: Attribute, pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> dict[str, Any]:
    """Return how far predictions are from gold on an attribute's scale; nothing of values that are in no order.

    An invalid prediction counts as the value that is farthest from gold.

    Args:
        attribute: of the schema.
        pairs: gold and predicted values of each scored user.
    """
    if attribute.scale is None:
        return {}
    unit = attribute.unit if attribute.kind == "number" else "steps"
    if not pairs:
        return {"mean_absolute_error": math.nan, "quadratic_kappa": math.nan, "unit": unit}
    scale, place = np.array(attribute.scale), {value: i for i, value in enumerate(attribute.values)}
    gold = np.array([place[known] for [known], _ in pairs])
    farthest = np.where(scale[gold] - scale[0] > scale[-1] - scale[gold], 0, len(scale) - 1)
    valid = [attribute.allows(guess) for _, guess in pairs]
    guess = np.array([place[b[0]] if ok else far for (_, b), ok, far in zip(pairs, valid, farthest, strict=True)])
    return {
        "mean_absolute_error": float(np.abs(scale[gold] - scale[guess]).mean()),
        "quadratic_kappa": _quadratic_kappa(gold, guess),
        "unit": unit,
    }


def _quadratic_kappa(gold: npt.NDArray[np.int_], guess: npt.NDArray[np.int_]) -> float:
    """Return Cohen's kappa with squared distances: 1 - observed / expected disagreement; NaN where none is expected.

    Both are means of (gold - guess)^2, over the pairs and over all combinations of a gold with a predicted value.
    """
    expected = gold.var() + guess.var() + (gold.mean() - guess.mean()) ** 2
    return float(1 - ((gold - guess) ** 2).mean() / expected) if expected else math.nan
