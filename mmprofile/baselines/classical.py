"""Classical reference rows: majority class, TF-IDF with logistic regression, and the ceiling of true cues.

Each is a function ``(schema, train, test) -> one profile per test example``, deterministic, fitted on train only. The
two fitted ones choose their estimator and how far to correct for class frequencies per attribute, by cross-validated
macro-F1 on train, so that the rows are as strong as the metric allows.

Shapes: N train examples, M test examples, C classes of one attribute.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mmprofile.errors import UserError
from mmprofile.metrics import score
from mmprofile.profile import Attribute, Profile, Schema

Array = npt.NDArray[np.float64]
Cues = Mapping[str, str | None]
Features = Callable[[Sequence["Example"], Sequence["Example"]], tuple[Any, Any]]
Estimators = Mapping[str, Callable[[], Any]]

THREADS = 1  # these problems are tiny: a second thread costs more than it brings, most of all on a busy machine
FOLDS = 3
MIN_FOR_FOLDS = 30  # with fewer users a choice by cross-validation is noise: the first estimator is taken
POWERS = (0.0, 0.5, 1.0)  # probability / class frequency ** power; 1 treats all classes as equally frequent
BLEND = "blend"


@dataclass(frozen=True)
class Example:
    """One user as the classical baselines see them.

    Attributes:
        text: the sampled reviews, concatenated.
        review_cues: per sampled review, the evidence its generator put in: attribute name -> value, None or absent
            where nothing is shown.
        photo_cues: the same per photo of these reviews.
        profile: gold profile; used of train examples only.
    """

    text: str
    review_cues: Sequence[Cues] = field(default_factory=list)
    photo_cues: Sequence[Cues] = field(default_factory=list)
    profile: Profile = field(default_factory=dict)


def majority(schema: Schema, train: Sequence[Example], test: Sequence[Example]) -> list[Profile]:
    """The most frequent class of every attribute, or as many classes as it has values; ties by schema order.

    Raises:
        UserError: no train example.
    """
    _require(train)
    profile: Profile = {}
    for attribute in schema.attributes:
        frequency = _targets(attribute, train).sum(axis=0)
        profile[attribute.name] = _decode(attribute, frequency[None])[0] if frequency.any() else ()
    return [dict(profile) for _ in test]


def tfidf_lr(schema: Schema, train: Sequence[Example], test: Sequence[Example]) -> list[Profile]:
    """Logistic regression per attribute (per class where it has several values) on TF-IDF of word 1-2-grams.

    Raises:
        UserError: no train example.
    """
    _require(train)
    estimators = {f"C={c}": _logistic(c) for c in (3.0, 30.0)}
    with threadpool_limits(THREADS):
        return _fit_predict(schema, train, test, _tfidf, estimators)


def ceiling(schema: Schema, train: Sequence[Example], test: Sequence[Example]) -> list[Profile]:
    """Upper reference: the better, per attribute, of logistic regression, boosted trees and their mean on TRUE cues.

    It reads what the generator put into exactly these reviews and photos, so no error of perception is left; what it
    misses, the sampled evidence does not tell (to these estimators).

    Raises:
        UserError: no train example, or none with any cue.
    """
    _require(train)
    if not any(cues for example in train for cues in (*example.review_cues, *example.photo_cues)):
        raise UserError("ceiling: no train example has cues; this row exists for generated data (cues.parquet) only")
    estimators: Estimators = {
        "lr C=0.01": lambda: make_pipeline(StandardScaler(), _logistic(0.01)()),
        "lr C=0.1": lambda: make_pipeline(StandardScaler(), _logistic(0.1)()),
        "trees": lambda: HistGradientBoostingClassifier(
            max_iter=60, learning_rate=0.06, max_leaf_nodes=6, min_samples_leaf=10, random_state=0
        ),
    }
    with threadpool_limits(THREADS):
        return _fit_predict(schema, train, test, _cue_features, estimators, blend=True)


def _require(train: Sequence[Example]) -> None:
    if not train:
        raise UserError("baselines: the train split has no user; prepare the data with a larger split.train")


def _logistic(c: float) -> Callable[[], Any]:
    return lambda: LogisticRegression(C=c, solver="newton-cg", max_iter=200)


def _tfidf(train: Sequence[Example], test: Sequence[Example]) -> tuple[Any, Any]:
    # A pair of words seen once says nothing about other users, and there are very many of them.
    rare = 2 if len(train) >= MIN_FOR_FOLDS else 1
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=rare, max_features=50_000)
    try:
        return vectorizer.fit_transform([e.text for e in train]), vectorizer.transform([e.text for e in test])
    except ValueError:  # no term is left: the texts are empty, or share nothing
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))


def _cue_features(train: Sequence[Example], test: Sequence[Example]) -> tuple[Array, Array]:
    """Counts of every cue value in reviews, in photos and in both, means of numeric cues, numbers of items."""
    shown = [cues for example in train for cues in (*example.review_cues, *example.photo_cues)]
    pairs = {(name, value) for cues in shown for name, value in cues.items() if value is not None}
    names = sorted({name for name, _ in pairs})
    numeric = [name for name in names if all(_is_number(value) for key, value in pairs if key == name)]
    column = {pair: index for index, pair in enumerate(sorted(pairs))}

    def table(examples: Sequence[Example]) -> Array:
        counts = np.zeros((2, len(examples), len(column)))
        means = np.zeros((2, len(examples), len(numeric)))
        sizes = np.array([[len(e.review_cues), len(e.photo_cues)] for e in examples], dtype=float).reshape(-1, 2)
        for row, example in enumerate(examples):
            for side, items in enumerate((example.review_cues, example.photo_cues)):
                for cues in items:
                    for pair in cues.items():
                        if pair in column:
                            counts[side, row, column[pair]] += 1
                for index, name in enumerate(numeric):
                    seen = [float(v) for cues in items if (v := cues.get(name)) is not None and _is_number(v)]
                    means[side, row, index] = np.mean(seen) if seen else 0.0
        return np.concatenate([counts[0], counts[1], counts[0] + counts[1], means[0], means[1], sizes], axis=1)

    return table(train), table(test)


def _is_number(value: str) -> bool:
    return value.replace(".", "", 1).isdecimal()


def _fit_predict(
    schema: Schema,
    train: Sequence[Example],
    test: Sequence[Example],
    features: Features,
    estimators: Estimators,
    blend: bool = False,
) -> list[Profile]:
    """Chooses estimator and power per attribute on train, fits the chosen on all of train, predicts test.

    With ``blend`` the mean of all estimators' probabilities is one more choice.
    """
    profiles: list[Profile] = [{} for _ in test]
    if not test:
        return profiles
    choices = _choose(schema, train, features, estimators, blend)
    seen, unseen = features(train, test)
    for attribute in schema.attributes:
        rows, targets = _known(attribute, train)
        values: list[tuple[str, ...]] = [()] * len(test)
        if len(rows):
            name, power = choices[attribute.name]
            used = list(estimators) if name == BLEND else [name]
            each = [_probabilities(attribute, estimators[n], seen[rows], targets, unseen) for n in used]
            values = _decode(attribute, np.mean(each, axis=0), targets.mean(axis=0), power)
        for profile, value in zip(profiles, values, strict=True):
            profile[attribute.name] = value
    return profiles


def _choose(
    schema: Schema, train: Sequence[Example], features: Features, estimators: Estimators, blend: bool
) -> dict[str, tuple[str, float]]:
    """Per attribute, the estimator (or ``BLEND``) and the power with the best out-of-fold macro-F1."""
    choices = {attribute.name: (next(iter(estimators)), 0.0) for attribute in schema.attributes}
    if len(train) < MIN_FOR_FOLDS:
        return choices
    guesses = {
        attribute.name: {name: np.zeros((len(train), len(attribute.values))) for name in estimators}
        for attribute in schema.attributes
    }
    for inner, outer in KFold(FOLDS, shuffle=True, random_state=0).split(np.zeros((len(train), 1))):
        kept = [train[i] for i in inner]
        seen, unseen = features(kept, [train[i] for i in outer])
        for attribute in schema.attributes:
            rows, targets = _known(attribute, kept)
            for name, make in estimators.items() if len(rows) else ():
                guesses[attribute.name][name][outer] = _probabilities(attribute, make, seen[rows], targets, unseen)
    for attribute in schema.attributes:
        rows, targets = _known(attribute, train)
        if len(rows):
            tables = guesses[attribute.name]
            if blend:
                tables[BLEND] = np.mean(list(tables.values()), axis=0)
            gold = [train[i].profile for i in rows]
            choices[attribute.name] = _best(attribute, tables, rows, targets.mean(axis=0), gold)
    return choices


def _best(
    attribute: Attribute, tables: Mapping[str, Array], rows: npt.NDArray[np.int_], frequency: Array, gold: list[Profile]
) -> tuple[str, float]:
    one = Schema(attribute.name, [attribute])
    scored: dict[tuple[str, float], float] = {}
    for name, table in tables.items():
        for power in POWERS:
            values = _decode(attribute, table[rows], frequency, power)
            predicted: list[Profile] = [{attribute.name: value} for value in values]
            scored[name, power] = score(one, gold, predicted, resamples=0).macro_f1
    return max(scored, key=lambda key: scored[key])


def _targets(attribute: Attribute, examples: Sequence[Example]) -> Array:
    """(N, C) of 0 and 1; a row of zeros where the value is unknown."""
    return np.array(
        [[value in e.profile.get(attribute.name, ()) for value in attribute.values] for e in examples], dtype=np.float64
    )


def _known(attribute: Attribute, examples: Sequence[Example]) -> tuple[npt.NDArray[np.int_], Array]:
    """Indices of the examples whose value is known, and their targets."""
    targets = _targets(attribute, examples)
    rows = np.flatnonzero(targets.any(axis=1))
    return rows, targets[rows]


def _probabilities(attribute: Attribute, make: Callable[[], Any], seen: Any, targets: Array, unseen: Any) -> Array:
    """(M, C) probabilities: a softmax over a single value's classes, one classifier per class for several values."""
    result = np.zeros((unseen.shape[0], len(attribute.values)))
    problems = [targets.argmax(axis=1)] if attribute.kind == "single" else list(targets.T.astype(int))
    for index, labels in enumerate(problems):
        classes = np.unique(labels)
        if len(classes) == 1:  # nothing to fit: certain
            table = np.ones((unseen.shape[0], 1))
        else:
            estimator = make().fit(seen, labels)
            classes, table = estimator.classes_, estimator.predict_proba(unseen)
        if attribute.kind == "single":
            result[:, classes] = table
        elif classes[-1] == 1:
            result[:, index] = table[:, -1]
    return result


def _decode(
    attribute: Attribute, table: Array, frequency: Array | None = None, power: float = 0.0
) -> list[tuple[str, ...]]:
    """The ``size`` best classes of every row of ``table``, (M, C); ties by schema order."""
    if frequency is not None:
        table = np.where(frequency > 0, table / np.maximum(frequency, 1e-12) ** power, 0.0)
    best = np.argsort(-table, axis=1, kind="stable")[:, : attribute.size]
    return [attribute.canonical(attribute.values[i] for i in row) for row in best]
