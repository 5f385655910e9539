"""Rewards worked by hand; labels that stay frozen."""

import json
from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim
from mmprofile.llm.checks import REWARDS as NAMES
from mmprofile.llm.labels import Label
from mmprofile.llm.reinforce.rewards import (
    REWARDS,
    UNWEIGHTED,
    FrozenLabels,
    Target,
    freeze_labels,
    moderate_users,
    score_answer,
    vote_group,
)
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

pytestmark = pytest.mark.fast

SCHEMA = Schema("toy", [Attribute(name, ("a", "b"), unknown=True) for name in ("One", "Two", "Three")])


def claims(**values: str) -> dict[str, Claim]:
    return {name: Claim(value, 0.5) for name, value in values.items()}


A, B, NONE = Claim("a", 0.8), Claim("b", 0.8), Claim(UNKNOWN, 0.8)
LIKELY, UNLIKELY, NOTHING = (
    Target("a", {"a": 0.9, "b": 0.05}),
    Target("a", {"a": 0.4, "b": 0.3}),
    Target(UNKNOWN, {UNKNOWN: 0.6, "a": 0.2}),
)


@pytest.mark.parametrize(
    ("reward", "target", "earned"),  # by a, b, Unknown, and an attribute that is not there
    [
        ("agreement", LIKELY, (1, -1, 0, -1)),
        ("agreement", NOTHING, (-1, -1, 0.5, -1)),
        ("weighted", LIKELY, (0.9, -0.9, 0, -0.9)),
        ("weighted", UNLIKELY, (0.4, -0.4, 0, -0.4)),
        ("weighted", NOTHING, (-0.6, -0.6, 0.3, -0.6)),
        ("expected", LIKELY, (0.8, -0.9, 0, -0.9)),
        ("expected", UNLIKELY, (-0.2, -0.6, 0, -0.6)),  # to say nothing is better than to repeat it
        ("expected", NOTHING, (-0.6, -0.6, 0.3, -0.6)),
        ("same", UNLIKELY, (1, 0, 0, 0)),
        ("same", NOTHING, (0, 0, 1, 0)),
        ("brier", LIKELY, (1 - 0.04, -0.64, -0.64, -1)),
        ("brier", NOTHING, (-0.64, -0.64, 1 - 0.04, -1)),
        ("strict", LIKELY, (1, -1, 0, -1)),
        ("strict", UNLIKELY, (0, 0, 0, -1)),
        ("strict", NOTHING, (0, -1, 0, -1)),
    ],
)
def test_what_a_claim_earns(reward: str, target: Target, earned: tuple[float, ...]) -> None:
    assert [REWARDS[reward](claim, target) for claim in (A, B, NONE, None)] == pytest.approx(earned)


def test_the_configuration_names_every_reward() -> None:
    assert set(NAMES) == set(REWARDS) >= set(UNWEIGHTED)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_the_expected_reward_is_the_mean_over_what_may_be_true(weight: float) -> None:
    """Right earns +1 and wrong -1, if the value is right with a probability of its weight."""
    target = Target("a", {"a": weight})
    assert REWARDS["expected"](A, target) == pytest.approx(weight * 1 + (1 - weight) * -1)
    assert REWARDS["expected"](B, target) <= -weight  # whatever is true, b is right at most where a is not


def test_an_answer_is_scored_by_attribute() -> None:
    targets = {"One": Target("a", {"a": 0.9}), "Two": Target("b", {"b": 0.5}), "Three": Target(UNKNOWN, {UNKNOWN: 0.2})}
    assert score_answer(claims(One="a", Two="a", Three=UNKNOWN), targets, "weighted") == pytest.approx([0.9, -0.5, 0.1])
    assert score_answer(claims(One="a"), targets, "weighted") == pytest.approx(
        [0.9, -0.5, -0.2]
    )  # the rest is not there
    assert score_answer({}, targets, "weighted") == [-1.0] * 3
    assert score_answer({}, targets, "same") == [0.0] * 3


def test_a_group_votes_for_itself_with_frozen_weights() -> None:
    group = [claims(One="a", Two="b"), claims(One="b", Two="b"), claims(One="b")]
    targets = {
        "One": Target("a", {"a": 0.9, "b": 0.3}),
        "Two": Target("a", {"a": 0.9}),
        "Three": Target("a", {"a": 1.0}),
    }
    voted = vote_group(group, targets, SCHEMA)
    assert {name: target.value for name, target in voted.items()} == {"One": "a", "Two": "b", "Three": UNKNOWN}
    assert voted["One"].weights == targets["One"].weights  # two say b, and are less sure
    assert voted["Two"].weight == 0  # it was never said when the weights were voted
    assert vote_group(group, {}, SCHEMA)["One"] == Target("b", {})
    assert vote_group(group[:2], {}, SCHEMA)["One"].value == "a"  # the schema's order


def labels() -> list[Label]:
    return [
        Label("u1", "One", UNKNOWN, 0.3, voted="a", q=0.5, m=0.8),  # given up by calibration: the vote counts
        Label("u1", "Two", UNKNOWN, 0.0, voted=UNKNOWN, q=1.0, m=0.4),
        Label("u2", "One", "b", 0.9, voted="b", q=0.2, m=1.0),
        Label("u2", "Two", "b", 0.9, voted="b", q=0.3, m=1.0),
    ]


def test_frozen_labels_are_votes_and_their_weights() -> None:
    weights = [{"a": 0.4, "b": 0.1}, {UNKNOWN: 0.4}, {"b": 0.2}, {}]
    frozen = freeze_labels(labels(), weights, "x").targets
    assert frozen == {
        "u1": {"One": Target("a", weights[0]), "Two": Target(UNKNOWN, weights[1])},
        "u2": {"One": Target("b", weights[2]), "Two": Target("b", {})},
    }
    assert [target.weight for of_user in frozen.values() for target in of_user.values()] == [0.4, 0.4, 0.2, 0.0]


def test_frozen_labels_stay_what_they_are(tmp_path: Path) -> None:
    weights = [{label.voted: label.q * label.m} for label in labels()]
    frozen, path = freeze_labels(labels(), weights, "x"), tmp_path / "frozen.json"
    frozen.save(path)
    assert FrozenLabels.load(path) == frozen
    assert FrozenLabels.load(path).digest() == frozen.digest()
    assert freeze_labels(labels(), [{}] * 4, "x").digest() != frozen.digest()
    plain = json.loads(path.read_text())
    plain["targets"]["u1"]["One"][1]["a"] = 0.41
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
