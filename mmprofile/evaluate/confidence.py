"""How far the confidences of predictions can be trusted: scores of the rows of ``predictions.jsonl``."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmprofile.profile.calibration import calibration, expected_ece
from mmprofile.profile.metrics import Array
from mmprofile.profile.schema import Attribute, Schema

ALL = "all"
"""The row of all observed attributes together."""
BINS = 15


class Answers(NamedTuple):
    """The answers of an attribute (N of them) whose gold value is known.

    Attributes:
        confidence, uncalibrated: (N,) probabilities of the predicted values; ``uncalibrated`` is empty without a calibrator.
        correct: (N,) whether all values are right.
        covered, sizes: (N,) whether the set of values holds the gold one, and its size; empty without sets.
    """

    confidence: Array
    uncalibrated: Array
    correct: npt.NDArray[np.bool_]
    covered: Array
    sizes: Array


class ConfidenceScores(NamedTuple):
    """How far the confidences of an attribute can be trusted; see :class:`mmprofile.profile.calibration.CalibrationScores`.

    Attributes:
        answers: N.
        accuracy, mean_confidence: 0 to 1.
        ece, brier, aurc: of the calibrated confidences.
        ece_expected: the ECE that N answers have on average if their confidences are right.
        ece_uncalibrated: None without a calibrator.
        coverage, set_size: the share of sets that hold the gold values, and the mean size of sets; None without sets.
    """

    answers: int
    accuracy: float
    mean_confidence: float
    ece: float
    brier: float
    aurc: float
    ece_expected: float
    ece_uncalibrated: float | None
    coverage: float | None
    set_size: float | None


def collect_answers(schema: Schema, observed: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Answers]:
    """Return the answers of each attribute that has some, and under :data:`ALL` those of the observed ones.

    Args:
        schema: of the profiles.
        observed: names of attributes.
        rows: of ``predictions.jsonl``; without confidences there are no answers.
    """
    if not all("confidence" in row for row in rows):
        return {}
    found: dict[str, list[list[Any]]] = {ALL: []}
    for attribute in schema.attributes:
        answers = [_answer(attribute, row) for row in rows if row["gold"].get(attribute.name)]
        found[attribute.name] = answers
        found[ALL] += answers if attribute.name in observed else []
    return {
        name: Answers(
            *(np.array([value for value in column if value is not None]) for column in zip(*answers, strict=True))
        )
        for name, answers in found.items()
        if answers
    }


def _answer(attribute: Attribute, row: Mapping[str, Any]) -> list[Any]:
    """Return the fields of :class:`Answers` for one user; None where the row does not tell."""
    gold, predicted = (attribute.canonical(row[part].get(attribute.name, ())) for part in ("gold", "parsed"))
    values = row["sets"][attribute.name] if "sets" in row else None
    return [
        row["confidence"][attribute.name],
        row["uncalibrated"][attribute.name] if "uncalibrated" in row else None,
        predicted == gold,
        None if values is None else list(gold) in values,
        None if values is None else len(values),
    ]


def confidence_scores(answers: Mapping[str, Answers]) -> dict[str, ConfidenceScores]:
    """Return the scores of the answers of each attribute."""
    return {name: _scores(found) for name, found in answers.items()}


def _scores(found: Answers) -> ConfidenceScores:
    scores = calibration(found.confidence, found.correct, BINS)
    known = len(found.uncalibrated) > 0
    return ConfidenceScores(
        answers=len(found.confidence),
        accuracy=float(found.correct.mean()),
        mean_confidence=float(found.confidence.mean()),
        ece=scores.ece,
        brier=scores.brier,
        aurc=scores.aurc,
        ece_expected=expected_ece(found.confidence, BINS),
        ece_uncalibrated=calibration(found.uncalibrated, found.correct, BINS).ece if known else None,
        coverage=float(found.covered.mean()) if len(found.covered) else None,
        set_size=float(found.sizes.mean()) if len(found.sizes) else None,
    )
