"""Rewards worked by hand; labels that stay frozen."""

import json
from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.labels import Label
from mmprofile.llm.reinforce.rewards import (
    FrozenLabels,
    Target,
    attribute_reward,
    freeze_labels,
    moderate_users,
    reward,
)
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

pytestmark = pytest.mark.fast

SCHEMA = Schema("toy", [Attribute(name, ("a", "b"), unknown=True) for name in ("One", "Two", "Three")])


def answer(**values: str) -> str:
    return render_answer({name: Claim(value, 0.5) for name, value in values.items()}, SCHEMA)


@pytest.mark.parametrize(
    ("value", "target", "earned"),
    [
        ("a", "a", 1.0),
        ("b", "a", -1.0),
        (UNKNOWN, "a", 0.0),
        ("a", UNKNOWN, -1.0),
        (UNKNOWN, UNKNOWN, 0.5),
        (None, "a", -1.0),
        (None, UNKNOWN, -1.0),
    ],
)
def test_one_attribute(value: str | None, target: str, earned: float) -> None:
    assert attribute_reward(value, target) == earned


def test_an_answer_earns_the_weighted_mean() -> None:
    targets = {"One": Target("a", 0.9), "Two": Target("b", 0.5), "Three": Target(UNKNOWN, 0.2)}
    assert reward(answer(One="a", Two="a", Three=UNKNOWN), targets, SCHEMA) == pytest.approx((0.9 - 0.5 + 0.1) / 3)
    assert reward(answer(One=UNKNOWN, Two="b", Three="b"), targets, SCHEMA) == pytest.approx((0 + 0.5 - 0.2) / 3)
    assert reward(answer(One="a"), targets, SCHEMA) == pytest.approx((0.9 - 0.5 - 0.2) / 3)  # the rest is not there
    assert reward("I would say a.", targets, SCHEMA) == -1.0
    assert reward("", targets, SCHEMA) == -1.0


def labels() -> list[Label]:
    return [
        Label("u1", "One", UNKNOWN, 0.3, voted="a", q=0.5, m=0.8),  # given up by calibration: the vote counts
        Label("u1", "Two", UNKNOWN, 0.0, voted=UNKNOWN, q=1.0, m=0.4),
        Label("u2", "One", "b", 0.9, voted="b", q=0.2, m=1.0),
        Label("u2", "Two", "b", 0.9, voted="b", q=0.3, m=1.0),
    ]


def test_frozen_labels_are_votes_and_their_weights() -> None:
    assert freeze_labels(labels(), weighted=True, origin="x").targets == {
        "u1": {"One": Target("a", 0.4), "Two": Target(UNKNOWN, 0.4)},
        "u2": {"One": Target("b", 0.2), "Two": Target("b", 0.3)},
    }
    assert {
        t.weight for of in freeze_labels(labels(), weighted=False, origin="x").targets.values() for t in of.values()
    } == {1.0}


def test_frozen_labels_stay_what_they_are(tmp_path: Path) -> None:
    frozen, path = freeze_labels(labels(), weighted=True, origin="x"), tmp_path / "frozen.json"
    frozen.save(path)
    assert FrozenLabels.load(path) == frozen
    assert FrozenLabels.load(path).digest() == frozen.digest()
    assert freeze_labels(labels(), weighted=False, origin="x").digest() != frozen.digest()
    plain = json.loads(path.read_text())
    plain["targets"]["u1"]["One"][1] = 0.41
    path.write_text(json.dumps(plain))
    with pytest.raises(UserError, match="were changed after they were voted"):
        FrozenLabels.load(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="no frozen labels"):
        FrozenLabels.load(path)


def test_the_moderate_are_kept() -> None:
    assert moderate_users(labels(), 0.3, 0.9) == ["u1"]  # mean agreement 0.75 and 0.25
    assert moderate_users(labels(), 0.25, 0.75) == ["u1", "u2"]
    assert moderate_users(labels(), 0.8, 1.0) == []
