"""Classical reference rows: majority class, TF-IDF with logistic regression, and the ceiling of true cues.

Each is a function ``(schema, train, test) -> one profile per test example``, deterministic, fitted on train only. The
two fitted ones (:class:`Fitted`) choose their estimator and how far to correct for class frequencies per attribute, by
cross-validated macro-F1 on train, so that the rows are as strong as the metric allows.

Shapes: N train examples, M test examples, C classes of one attribute.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mmprofile.errors import UserError
from mmprofile.inputs.views import Example
from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Attribute, Profile, Schema

Array = npt.NDArray[np.float64]
Transform = Callable[[Sequence["Example"]], Any]
Features = Callable[[Sequence["Example"]], Transform]
"""Fitted to train examples: what turns N examples into (N, F) features, dense or sparse."""
Estimators = Mapping[str, Callable[[], Any]]
Classifiers = list[tuple[npt.NDArray[np.int_], Any]]
"""Of one attribute: the classes seen, and the model that tells them apart; None where there is but one."""
THREADS = 1  # these problems are tiny: a second thread costs more than it brings, most of all on a busy machine
FOLDS = 3
MIN_FOR_FOLDS = 30  # with fewer users a choice by cross-validation is noise: the first estimator is taken
POWERS = (0.0, 0.5, 1.0)  # probability / class frequency ** power; 1 treats all classes as equally frequent
BLEND = "blend"


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
    return Fitted(schema, train, tfidf(), LOGISTIC).predict(test)


def ceiling(schema: Schema, train: Sequence[Example], test: Sequence[Example]) -> list[Profile]:
    """Upper reference: the better, per attribute, of logistic regression, boosted trees and their mean on TRUE cues.

    It reads what the generator put into exactly these reviews and photos, so no error of perception is left; what it
    misses, the sampled evidence does not tell (to these estimators).

    Raises:
        UserError: no train example, or none with any cue.
    """
    if train and not any(cues for example in train for cues in (*example.review_cues, *example.photo_cues)):
        raise UserError("ceiling: no train example has cues; this row exists for generated data (cues.parquet) only")
    estimators: Estimators = {
        "lr C=0.01": lambda: make_pipeline(StandardScaler(), logistic(0.01)()),
        "lr C=0.1": lambda: make_pipeline(StandardScaler(), logistic(0.1)()),
        "trees": lambda: HistGradientBoostingClassifier(
            max_iter=60, learning_rate=0.06, max_leaf_nodes=6, min_samples_leaf=10, random_state=0
        ),
    }
    return Fitted(schema, train, _cue_features, estimators, blend=True).predict(test)


def _require(train: Sequence[Example]) -> None:
    if not train:
        raise UserError("baselines: the train split has no user; prepare the data with a larger split.train")


def logistic(c: float) -> Callable[[], Any]:
    """Makes logistic regressions with an inverse penalty of ``c``."""
    return lambda: LogisticRegression(C=c, solver="newton-cg", max_iter=200)


LOGISTIC: Estimators = {f"C={c}": logistic(c) for c in (3.0, 30.0)}


def tfidf(captions: bool = False) -> Features:
    """TF-IDF of word 1-2-grams of the reviews, and of the captions as well."""

    def text(example: Example) -> str:
        return f"{example.text}\n{example.captions}" if captions else example.text

    def fit(train: Sequence[Example]) -> Transform:
        # A pair of words seen once says nothing about other users, and there are very many of them.
        rare = 2 if len(train) >= MIN_FOR_FOLDS else 1
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=rare, max_features=50_000)
        try:
            vectorizer.fit([text(e) for e in train])
        except ValueError:  # no term is left: the texts are empty, or share nothing
            return lambda examples: np.zeros((len(examples), 1))
        return lambda examples: vectorizer.transform([text(e) for e in examples])

    return fit


def _cue_features(train: Sequence[Example]) -> Transform:
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

    return table


def _is_number(value: str) -> bool:
    return value.replace(".", "", 1).isdecimal()


class Fitted:
    """Estimators per attribute, chosen on train and then fitted to all of it.

    Args:
        schema: what is predicted.
        train: examples with profiles.
        features: see :data:`Features`.
        estimators: name -> a new estimator with ``predict_proba``.
        blend: the mean of all estimators' probabilities is one more choice.

    Raises:
        UserError: no train example.
    """

    def __init__(
        self,
        schema: Schema,
        train: Sequence[Example],
        features: Features,
        estimators: Estimators,
        blend: bool = False,
    ) -> None:
        _require(train)
        self.schema = schema
        self._frequency: dict[str, Array] = {}
        self._models: dict[str, tuple[list[Classifiers], float]] = {}
        with threadpool_limits(THREADS):
            self.choices = _choose(schema, train, features, estimators, blend)
            self._transform = features(train)
            seen = self._transform(train)
            for attribute in schema.attributes:
                rows, targets = _known(attribute, train)
                if len(rows):
                    name, power = self.choices[attribute.name]
                    used = list(estimators) if name == BLEND else [name]
                    fitted = [_fit(attribute, estimators[n], seen[rows], targets) for n in used]
                    self._models[attribute.name], self._frequency[attribute.name] = (
                        (fitted, power),
                        targets.mean(axis=0),
                    )

    def predict(self, examples: Sequence[Example]) -> list[Profile]:
        """A profile for each example; an attribute that no train example has stays unknown."""
        profiles: list[Profile] = [dict.fromkeys(self.schema.names, ()) for _ in examples]
        if not examples:
            return profiles
        with threadpool_limits(THREADS):
            features = self._transform(examples)
            for attribute in self.schema.attributes:
                if attribute.name in self._models:
                    fitted, power = self._models[attribute.name]
                    table = np.mean([_probabilities(attribute, one, features) for one in fitted], axis=0)
                    values = _decode(attribute, table, self._frequency[attribute.name], power)
                    for profile, value in zip(profiles, values, strict=True):
                        profile[attribute.name] = value
        return profiles

    @property
    def n_parameters(self) -> int:
        """Coefficients and intercepts of the fitted linear models."""
        models = [model for fitted, _ in self._models.values() for one in fitted for _, model in one]
        last = [model[-1] if isinstance(model, Pipeline) else model for model in models]
        return sum(m.coef_.size + m.intercept_.size for m in last if isinstance(m, LogisticRegression))


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
        transform = features(kept)
        seen, unseen = transform(kept), transform([train[i] for i in outer])
        for attribute in schema.attributes:
            rows, targets = _known(attribute, kept)
            for name, make in estimators.items() if len(rows) else ():
                fitted = _fit(attribute, make, seen[rows], targets)
                guesses[attribute.name][name][outer] = _probabilities(attribute, fitted, unseen)
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


def _fit(attribute: Attribute, make: Callable[[], Any], seen: Any, targets: Array) -> Classifiers:
    """One classifier for a single value, one per class for several values."""
    problems = [targets.argmax(axis=1)] if attribute.kind == "single" else list(targets.T.astype(int))
    fitted: Classifiers = []
    for labels in problems:
        classes = np.unique(labels)
        fitted.append((classes, make().fit(seen, labels) if len(classes) > 1 else None))
    return fitted


def _probabilities(attribute: Attribute, fitted: Classifiers, unseen: Any) -> Array:
    """(M, C) probabilities: a softmax over a single value's classes, each class by itself for several values."""
    result = np.zeros((unseen.shape[0], len(attribute.values)))
    for index, (classes, model) in enumerate(fitted):
        table = np.ones((unseen.shape[0], 1)) if model is None else model.predict_proba(unseen)
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
