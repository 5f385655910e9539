"""Confidence that is fitted on validation users, and its scores on others."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmprofile.evaluate.confidence import ALL, collect_answers, confidence_scores
from mmprofile.evaluate.predictions import decode_users, fit_confidence, predict_users
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, build_view
from mmprofile.model.model import ProfileModel
from mmprofile.profile.calibration import calibration, expected_ece
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast


def row(gold: str, predicted: str, confidence: float, raw: float, values: list[str]) -> dict[str, Any]:
    return {
        "gold": {"A": [gold]},
        "parsed": {"A": [predicted]},
        "confidence": {"A": confidence},
        "uncalibrated": {"A": raw},
        "sets": {"A": [[value] for value in values]},
    }


def test_scores_by_hand() -> None:
    schema = Schema("one", [Attribute("A", ("a", "b", "c"))])
    rows = [row("a", "a", 0.6, 0.9, ["a"]), row("b", "a", 0.6, 0.9, ["a", "b"]), row("c", "a", 0.6, 0.9, ["a", "b"])]
    rows.append({**row("a", "a", 0.1, 0.2, ["a"]), "gold": {}})  # no label
    found = confidence_scores(collect_answers(schema, ["A"], rows))
    assert found[ALL] == found["A"]
    scores = found["A"]
    assert (scores.answers, scores.accuracy, scores.coverage) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert scores.set_size == pytest.approx(5 / 3)
    assert scores.ece == pytest.approx(0.6 - 1 / 3)
    assert scores.ece_uncalibrated == pytest.approx(0.9 - 1 / 3)


def test_the_error_of_confidences_that_are_right_falls_with_the_number_of_answers() -> None:
    rng = np.random.default_rng(5)
    expected = {}
    for users in (100, 1000):
        confidence = rng.random(users)
        expected[users] = expected_ece(confidence)
        drawn = [calibration(confidence, rng.random(users) < confidence).ece for _ in range(200)]
        assert expected[users] == pytest.approx(np.mean(drawn), rel=0.1)
    assert expected[1000] < expected[100] / 2


def test_a_model_is_calibrated_with_and_without_captions(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model("xattn", vocabulary="schema")
    collator, view = make_collator(model), build_view("fusion", "both")
    data: Any = SimpleNamespace(
        views=(view,), users=lambda split: users, loader=lambda shown: [collator([user], (view,)) for user in shown]
    )
    model.confidence = fit_confidence(model, data)
    assert model.confidence.users == len(users)
    assert model.confidence.without_captions is not None
    predictions = predict_users(model, data, users, risk=0.5)
    for prediction, decoded in zip(predictions, decode_users(model, data, users), strict=True):
        assert prediction.uncalibrated == decoded.confidence
        assert prediction.confidence != decoded.confidence
        assert prediction.sets is not None
        assert all(values in prediction.sets[name] for name, values in prediction.profile.items())
    data.views = (build_view("fusion", "multi"),)
    assert fit_confidence(model, data).without_captions is None
