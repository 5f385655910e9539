"""Classical baselines: majority class, TF-IDF with logistic regression, and the ceiling of true cues.

Each is a function ``(schema, train, test) -> one profile per test example``. It is deterministic and fitted on train only.
The two fitted ones (:class:`AttributeClassifiers`) choose, per attribute, an estimator and how far to correct for class
frequencies, by cross-validated macro-F1 on train, so that the baselines are as strong as the metric allows.

Shapes: N train examples, M test examples, F features, C classes of one attribute.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

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
from mmprofile.inputs.evidence import WORD
from mmprofile.inputs.views import Cues, Example
from mmprofile.profile.metrics import count, macro_scores
from mmprofile.profile.schema import Attribute, Profile, Schema

Array: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = Any
"""(N, F) features, a NumPy array or a sparse matrix of SciPy."""
Transform = Callable[[Sequence[Example]], Matrix]
"""N examples -> (N, F) features."""
FitFeatures = Callable[[Sequence[Example]], Transform]
"""Train examples -> the transform fitted to them."""


class Estimator(Protocol):
    """What this module needs of a classifier of scikit-learn."""

    def fit(self, features: Matrix, labels: npt.NDArray[np.int_], /) -> "Estimator":
        """Fit to features (N, F) and labels (N,), and return the estimator."""

    def predict_proba(self, features: Matrix, /) -> Array:
        """Return the probability of each class: (M, classes)."""


Estimators = Mapping[str, Callable[[], Any]]
"""Name -> a function that makes a new :class:`Estimator`."""

THREADS = 1  # these problems are tiny: a second thread costs more than it brings, most of all on a busy machine
FOLDS = 3
MIN_FOR_FOLDS = 30  # with fewer users a choice by cross-validation is noise: the first estimator is taken
POWERS = (0.0, 0.5, 1.0)  # probability / class frequency ** power; 1 treats all classes as equally frequent
BLEND = "blend"


class FittedClassifier(NamedTuple):
    """A fitted classifier; ``classes``: (classes,) seen in training; ``model``: None where there is only one."""

    classes: npt.NDArray[np.int_]
    model: Estimator | None


class Choice(NamedTuple):
    """What cross-validation chose for an attribute: the estimator (or ``BLEND``), and the power of :data:`POWERS`."""

    estimator: str
    power: float


def majority(schema: Schema, train: Sequence[Example], test: Sequence[Example]) -> list[Profile]:
    """Predict the most frequent class of every attribute, or as many classes as it has values; ties by schema order.

    In a set of any size, these are the classes that more than half of the users have.

    Raises:
        UserError: there is no train example.
    """
    _check_train(train)
    profile: Profile = {}
    for attribute in schema.attributes:
        targets = _labelled(attribute, train).targets
        profile[attribute.name] = _likeliest(attribute, targets.mean(axis=0)[None])[0] if len(targets) else ()
    return [dict(profile) for _ in test]


def tfidf_lr(schema: Schema, train: Sequence[Example], test: Sequence[Example]) -> list[Profile]:
    """Predict by logistic regression per attribute (per class where it has several values) on TF-IDF of word 1-2-grams.

    Raises:
        UserError: there is no train example.
    """
    return AttributeClassifiers(schema, train, tfidf(), LOGISTIC).predict(test)


def ceiling(schema: Schema, train: Sequence[Example], test: Sequence[Example]) -> list[Profile]:
    """Predict from the TRUE cues: the upper reference.

    The generator put these cues into exactly these reviews and photos, so no error of perception is left; what the ceiling
    misses, the sampled evidence does not tell (to these estimators). Per attribute it is the best of logistic regression,
    boosted trees and their mean.

    Raises:
        UserError: there is no train example, or none with any cue.
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
    return AttributeClassifiers(schema, train, _cue_features, estimators, blend=True).predict(test)


def _check_train(train: Sequence[Example]) -> None:
    if not train:
        raise UserError("baselines: the train split has no user; prepare the data with a larger split.train")


def logistic(c: float) -> Callable[[], Any]:
    """Return a function that makes logistic regressions with an inverse penalty of ``c``."""
    return lambda: LogisticRegression(C=c, solver="newton-cg", max_iter=200)


LOGISTIC: Estimators = {f"C={c}": logistic(c) for c in (3.0, 30.0)}


def tfidf(captions: bool = False) -> FitFeatures:
    """Return features: TF-IDF of word 1-2-grams of the reviews and, with ``captions``, of the captions."""

    def text(example: Example) -> str:
        return f"{example.text}\n{example.captions}" if captions else example.text

    def fit(train: Sequence[Example]) -> Transform:
        # A pair of words seen once says nothing about other users, and there are very many of them.
        rare = 2 if len(train) >= MIN_FOR_FOLDS else 1
        vectorizer = TfidfVectorizer(
            token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, min_df=rare, max_features=50_000
        )
        try:
            vectorizer.fit([text(e) for e in train])
        except ValueError:  # no term is left: the texts are empty, or share nothing
            return lambda examples: np.zeros((len(examples), 1))
        return lambda examples: vectorizer.transform([text(e) for e in examples])

    return fit


def _cue_features(train: Sequence[Example]) -> Transform:
    """Fit features: counts of every cue value in reviews, in photos and in both, means of numeric cues, numbers of items."""
    train_cues = [cues for example in train for cues in (*example.review_cues, *example.photo_cues)]
    pairs = {(name, value) for cues in train_cues for name, value in cues.items() if value is not None}
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
                means[side, row] = [_mean_cue(items, name) for name in numeric]
        return np.concatenate([counts[0], counts[1], counts[0] + counts[1], means[0], means[1], sizes], axis=1)

    return table


def _mean_cue(items: Sequence[Cues], name: str) -> float:
    """Return the mean of a numeric cue over items; 0 where none shows it."""
    values = [float(value) for cues in items if (value := cues.get(name)) is not None and _is_number(value)]
    return float(np.mean(values)) if values else 0.0


def _is_number(value: str) -> bool:
    return value.replace(".", "", 1).isdecimal()


class AttributeClassifiers:
    """Classifiers of every attribute, chosen by cross-validation on train and then fitted to all of it.

    Args:
        schema: of the profiles.
        train: examples with profiles.
        features: see :data:`FitFeatures`.
        estimators: to choose from.
        blend: the mean of all estimators' probabilities is one more choice.

    Attributes:
        choices: by attribute.

    Raises:
        UserError: there is no train example.
    """

    def __init__(
        self,
        schema: Schema,
        train: Sequence[Example],
        features: FitFeatures,
        estimators: Estimators,
        blend: bool = False,
    ) -> None:
        _check_train(train)
        self.schema = schema
        self._frequency: dict[str, Array] = {}
        self._classifiers: dict[str, list[list[FittedClassifier]]] = {}
        with threadpool_limits(THREADS):
            self.choices = _cross_validate(schema, train, features, estimators, blend)
            self._transform = features(train)
            table = self._transform(train)
            for attribute in schema.attributes:
                labelled = _labelled(attribute, train)
                if len(labelled.rows):
                    name = self.choices[attribute.name].estimator
                    used = list(estimators) if name == BLEND else [name]
                    self._classifiers[attribute.name] = [
                        _fit(attribute, estimators[n], table[labelled.rows], labelled.targets) for n in used
                    ]
                    self._frequency[attribute.name] = labelled.targets.mean(axis=0)

    def predict(self, examples: Sequence[Example]) -> list[Profile]:
        """Return a profile for each example; an attribute that no train example has stays unknown."""
        profiles: list[Profile] = [dict.fromkeys(self.schema.names, ()) for _ in examples]
        if not examples:
            return profiles
        with threadpool_limits(THREADS):
            features = self._transform(examples)
            for attribute in self.schema.attributes:
                if attribute.name in self._classifiers:
                    fits = self._classifiers[attribute.name]
                    tables = [_probabilities(attribute, classifiers, features) for classifiers in fits]
                    table = np.mean(tables, axis=0)
                    power = self.choices[attribute.name].power
                    values = _likeliest(attribute, table, self._frequency[attribute.name], power)
                    for profile, value in zip(profiles, values, strict=True):
                        profile[attribute.name] = value
        return profiles

    @property
    def n_parameters(self) -> int:
        """The number of coefficients and intercepts of the fitted linear models."""
        fits = [classifiers for by_estimator in self._classifiers.values() for classifiers in by_estimator]
        models = [classifier.model for classifiers in fits for classifier in classifiers]
        last = [model[-1] if isinstance(model, Pipeline) else model for model in models]
        return sum(m.coef_.size + m.intercept_.size for m in last if isinstance(m, LogisticRegression))


def _cross_validate(
    schema: Schema, train: Sequence[Example], features: FitFeatures, estimators: Estimators, blend: bool
) -> dict[str, Choice]:
    """Return, per attribute, the choice with the best out-of-fold macro-F1; with few examples the first estimator."""
    choices = {attribute.name: Choice(next(iter(estimators)), 0.0) for attribute in schema.attributes}
    if len(train) < MIN_FOR_FOLDS:
        return choices
    out_of_fold = {
        attribute.name: {name: np.zeros((len(train), len(attribute.values))) for name in estimators}
        for attribute in schema.attributes
    }
    for inner, outer in KFold(FOLDS, shuffle=True, random_state=0).split(np.zeros((len(train), 1))):
        fold = [train[i] for i in inner]
        transform = features(fold)
        inside, outside = transform(fold), transform([train[i] for i in outer])
        for attribute in schema.attributes:
            rows, targets = _labelled(attribute, fold)
            for name, make in estimators.items() if len(rows) else ():
                fit = _fit(attribute, make, inside[rows], targets)
                out_of_fold[attribute.name][name][outer] = _probabilities(attribute, fit, outside)
    for attribute in schema.attributes:
        rows, targets = _labelled(attribute, train)
        if len(rows):
            tables = out_of_fold[attribute.name]
            if blend:
                tables[BLEND] = np.mean(list(tables.values()), axis=0)
            gold = [train[i].profile for i in rows]
            known = {name: table[rows] for name, table in tables.items()}
            choices[attribute.name] = _best_choice(attribute, known, targets.mean(axis=0), gold)
    return choices


def _best_choice(attribute: Attribute, tables: Mapping[str, Array], frequency: Array, gold: list[Profile]) -> Choice:
    """Return the choice with the best macro-F1.

    Args:
        attribute: what is predicted.
        tables: estimator -> (N, C) probabilities.
        frequency: (C,) of the classes.
        gold: N.
    """
    schema, all_users = Schema(attribute.name, [attribute]), np.ones((1, len(gold)))
    scores: dict[Choice, float] = {}
    for name, table in tables.items():
        for power in POWERS:
            values = _likeliest(attribute, table, frequency, power)
            predicted: list[Profile] = [{attribute.name: value} for value in values]
            scores[Choice(name, power)] = float(macro_scores(count(schema, gold, predicted), all_users).present[0, 0])
    return max(scores, key=lambda choice: scores[choice])


class LabelledRows(NamedTuple):
    """The examples whose value of an attribute is known: their places, (n,), and their targets, (n, C)."""

    rows: npt.NDArray[np.int_]
    targets: Array


def _labelled(attribute: Attribute, examples: Sequence[Example]) -> LabelledRows:
    known = [(row, values) for row, e in enumerate(examples) if (values := e.profile.get(attribute.name))]
    targets = [[value in values for value in attribute.values] for _, values in known]
    return LabelledRows(np.array([row for row, _ in known], dtype=np.int_), np.array(targets, dtype=np.float64))


def _fit(attribute: Attribute, make: Callable[[], Any], features: Matrix, targets: Array) -> list[FittedClassifier]:
    """Fit one classifier for a single value, or one per class for several values, to (n, F) and (n, C)."""
    problems = list(targets.T.astype(int)) if attribute.several else [targets.argmax(axis=1)]
    classifiers = []
    for labels in problems:
        classes = np.unique(labels)
        classifiers.append(FittedClassifier(classes, make().fit(features, labels) if len(classes) > 1 else None))
    return classifiers


def _probabilities(attribute: Attribute, classifiers: Sequence[FittedClassifier], features: Matrix) -> Array:
    """Return (M, C) probabilities: over all classes for a single value, of each class by itself for several values."""
    result = np.zeros((features.shape[0], len(attribute.values)))
    for index, (classes, model) in enumerate(classifiers):
        table = np.ones((features.shape[0], 1)) if model is None else model.predict_proba(features)
        if not attribute.several:
            result[:, classes] = table
        elif classes[-1] == 1:
            result[:, index] = table[:, -1]
    return result


def _likeliest(
    attribute: Attribute, table: Array, frequency: Array | None = None, power: float = 0.0
) -> list[tuple[str, ...]]:
    """Return the ``size`` best classes of every row of ``table``, (M, C); ties by schema order.

    With ``frequency``, (C,), probabilities are divided by it to the ``power`` first. Of a set of any size, only those beyond
    ``least`` count that are likelier than 0.5^(1 - power) * frequency^power: one half, the frequency, or in between.
    """
    if frequency is not None:
        table = np.where(frequency > 0, table / np.maximum(frequency, 1e-12) ** power, 0.0)
    best = np.argsort(-table, axis=1, kind="stable")[:, : attribute.size]
    kept = np.take_along_axis(table, best, axis=1) > 0.5 ** (1 - power)
    kept[:, : attribute.least] = True
    chosen = (row[keep] for row, keep in zip(best, kept, strict=True))
    return [attribute.canonical(attribute.values[i] for i in row) or attribute.empty for row in chosen]
