"""Scores of labels: by hand, against scikit-learn and against brute force."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim
from mmprofile.llm.scores import BINS, THRESHOLDS, LabelSetScores, score_labels, tabulate
from mmprofile.profile.calibration import bin_confidences
from mmprofile.profile.schema import UNKNOWN, Profile

pytestmark = pytest.mark.fast

NAMES = ("Age", "Pet")
VALUES = {"Age": ("young", "old"), "Pet": ("cat", "dog", "fish")}
# Age: 4 scored (d has no gold), 3 known, 3 said, 1 correct; 2 right with Unknown for Unknown (a, c).
# Pet: 3 scored (c and e have no gold), 3 known, 2 said, 2 correct; a has no label.
GOLD: list[Profile] = [
    {"Age": ("young",), "Pet": ("cat",)},
    {"Age": ("old",), "Pet": ("dog",)},
    {"Age": ()},
    {"Pet": ("fish",)},
    {"Age": ("old",)},
]
LABELS = [
    {"Age": Claim("young", 0.9)},
    {"Age": Claim("young", 0.6), "Pet": Claim("dog", 0.8)},
    {"Age": Claim(UNKNOWN, 0.7), "Pet": Claim("cat", 1.0)},
    {"Age": Claim("old", 1.0), "Pet": Claim("fish", 0.4)},
    {"Age": Claim("young", 0.3)},
]


def test_by_hand() -> None:
    scores = score_labels(NAMES, GOLD, LABELS, resamples=0)
    age, pet = scores.per_attribute["Age"], scores.per_attribute["Pet"]
    assert (age.scored, age.known, age.said, age.correct, age.without_gold, age.without_label) == (4, 3, 3, 1, 1, 0)
    assert (pet.scored, pet.known, pet.said, pet.correct, pet.without_gold, pet.without_label) == (3, 3, 2, 2, 2, 1)
    assert (age.precision, age.recall, age.f1) == pytest.approx((100 / 3,) * 3)
    assert (age.accuracy, age.coverage) == pytest.approx((50.0, 75.0))
    assert (pet.precision, pet.recall, pet.f1) == pytest.approx((100.0, 200 / 3, 80.0))
    assert (pet.accuracy, pet.coverage) == pytest.approx((200 / 3, 200 / 3))
    # Age says .9 right, .6 wrong, .3 wrong, each alone in its bin.
    assert age.ece == pytest.approx((0.1 + 0.6 + 0.3) / 3)
    assert age.brier == pytest.approx((0.01 + 0.36 + 0.09) / 3)
    assert age.aurc == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert (pet.ece, pet.brier, pet.aurc) == pytest.approx(((0.2 + 0.6) / 2, (0.04 + 0.36) / 2, 0.0))
    overall = scores.overall
    assert (overall.precision, overall.recall, overall.f1) == pytest.approx((200 / 3, 50.0, (100 / 3 + 80) / 2))
    assert (overall.scored, overall.known, overall.said, overall.correct) == (7, 6, 5, 3)
    assert overall.brier == pytest.approx((0.01 + 0.36 + 0.09 + 0.04 + 0.36) / 5)
    # Together, surest first: right, right, wrong, right, wrong.
    assert overall.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert (scores.users, scores.without_gold, scores.without_labels, scores.interval) == (5, 0, 0, None)


def test_a_threshold_turns_labels_to_unknown() -> None:
    at = {means.threshold: means for means in score_labels(NAMES, GOLD, LABELS, resamples=0).thresholds}
    assert list(at) == list(THRESHOLDS)
    assert at[0.6][1:] == at[0.45][1:]  # .6 itself is kept
    # From .65 on, Age says 1 and it is right; Pet says 1 and it is right.
    assert at[0.65][1:] == pytest.approx((100.0, 100 / 3, 50.0, (25.0 + 100 / 3) / 2))
    assert at[1.0][1:] == (0.0, 0.0, 0.0, 0.0)


def test_users_without_gold_or_labels_are_counted() -> None:
    scores = score_labels(NAMES, [*GOLD, {}, {"Age": ("old",)}], [*LABELS, {"Age": Claim("old", 1.0)}, {}])
    assert (scores.users, scores.without_gold, scores.without_labels) == (7, 1, 1)
    age = scores.per_attribute["Age"]
    assert (age.scored, age.recall, age.without_gold, age.without_label) == (5, pytest.approx(25.0), 2, 1)


def test_nothing_said_nothing_known() -> None:
    gold: list[Profile] = [{"Age": (), "Pet": ("cat",)}]
    scores = score_labels(
        ("Age", "Pet", "Car"), gold, [{"Age": Claim(UNKNOWN, 0.5), "Pet": Claim(UNKNOWN, 0.5)}], resamples=9
    )
    age, car = scores.per_attribute["Age"], scores.per_attribute["Car"]
    assert (age.precision, age.recall, age.f1, age.accuracy, age.coverage) == (0.0, 0.0, 0.0, 100.0, 0.0)
    assert math.isnan(age.ece)
    assert math.isnan(age.brier)
    assert math.isnan(age.aurc)
    assert math.isnan(car.f1)
    assert car.scored == 0
    assert scores.overall.accuracy == 50.0  # of the two attributes with anybody scored
    assert scores.interval == (0.0, 0.0)
    plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert plain["per_attribute"]["Age"]["ece"] is None
    assert plain["per_attribute"]["Car"]["f1"] is None
    assert plain["thresholds"][0]["threshold"] == 0.0


def test_refusals() -> None:
    with pytest.raises(UserError, match="nobody has a gold value of Age, Pet"):
        score_labels(NAMES, [{}], [{"Age": Claim("old", 1.0)}])
    with pytest.raises(ValueError, match="labels of 1 users for 2 gold profiles"):
        score_labels(NAMES, [{}, {}], [{}])
    with pytest.raises(ValueError, match="outside"):
        score_labels(NAMES, [{"Age": ("old",)}], [{"Age": Claim("old", math.nan)}])
    with pytest.raises(ValueError, match="2 values"):
        score_labels(NAMES, [{"Age": ("old", "young")}], [{}])


def random_case(seed: int, users: int = 60) -> tuple[list[Profile], list[dict[str, Claim]]]:
    rng = np.random.default_rng(seed)
    gold: list[Profile] = []
    labels: list[dict[str, Claim]] = []
    for _ in range(users):
        gold.append({})
        labels.append({})
        for name, values in VALUES.items():
            if rng.random() < 0.9:
                gold[-1][name] = () if rng.random() < 0.2 else (str(rng.choice(values)),)
            if rng.random() < 0.9:
                labels[-1][name] = Claim(str(rng.choice([*values, UNKNOWN])), rng.integers(0, 11) / 10)
    return gold, labels


@pytest.mark.parametrize("seed", range(4))
def test_precision_recall_f1_agree_with_sklearn(seed: int) -> None:
    gold, labels = random_case(seed)
    scores = score_labels(NAMES, gold, labels, resamples=0)
    for name, values in VALUES.items():
        pairs = [
            ((profile[name] or (UNKNOWN,))[0], claims[name].value if name in claims else UNKNOWN)
            for profile, claims in zip(gold, labels, strict=True)
            if name in profile
        ]
        expected = precision_recall_fscore_support(*zip(*pairs, strict=True), labels=values, average="micro")
        mine = scores.per_attribute[name]
        assert (mine.precision, mine.recall, mine.f1) == pytest.approx([100 * part for part in expected[:3]])
        assert mine.accuracy == pytest.approx(100 * np.mean([a == b for a, b in pairs]))
        assert mine.coverage == pytest.approx(100 * np.mean([b != UNKNOWN for _, b in pairs]))


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_agree_with_labels_turned_by_hand(seed: int) -> None:
    gold, labels = random_case(seed)
    for at in score_labels(NAMES, gold, labels, resamples=0).thresholds:
        turned = [
            {
                name: claim if claim.confidence >= at.threshold else claim._replace(value=UNKNOWN)
                for name, claim in row.items()
            }
            for row in labels
        ]
        means = score_labels(NAMES, gold, turned, resamples=0).overall
        assert at[1:] == pytest.approx((means.precision, means.recall, means.f1, means.coverage))


def brute_aurc(pairs: Sequence[tuple[float, bool]]) -> float:
    """Mean share of errors among the k surest, over k, in expectation over all orders of equal confidences."""
    risks = []
    for k in range(1, len(pairs) + 1):
        edge = sorted((sure for sure, _ in pairs), reverse=True)[k - 1]
        above = [right for sure, right in pairs if sure > edge]
        tied = [right for sure, right in pairs if sure == edge]
        errors = above.count(False) + (k - len(above)) * tied.count(False) / len(tied)
        risks.append(errors / k)
    return sum(risks) / len(risks)


def brute_ece(pairs: Sequence[tuple[float, bool]]) -> float:
    total = 0.0
    for step in range(BINS):
        members = [
            (s, r) for s, r in pairs if (step < s * BINS <= step + 1) or (step == 0 and s == 0)
        ]  # open below, closed above
        total += abs(sum(s for s, _ in members) - sum(r for _, r in members))
    return total / len(pairs)


claims = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1, max_size=30)


def pet(pairs: Sequence[tuple[float, bool]]) -> LabelSetScores:
    gold: list[Profile] = [{"Pet": ("cat",)}] * len(pairs)
    return score_labels(("Pet",), gold, [{"Pet": Claim("cat" if r else "dog", s)} for s, r in pairs], resamples=0)


@given(claims)
def test_confidence_scores_agree_with_brute_force(pairs: list[tuple[float, bool]]) -> None:
    scores = pet(pairs).overall
    assert scores.aurc == pytest.approx(brute_aurc(pairs))
    assert scores.ece == pytest.approx(brute_ece(pairs))
    assert scores.brier == pytest.approx(sum((s - r) ** 2 for s, r in pairs) / len(pairs))
    back = pet(pairs[::-1]).overall  # equal confidences have no order
    assert (back.aurc, back.ece, back.brier) == pytest.approx((scores.aurc, scores.ece, scores.brier))


@given(claims)
def test_bins_are_those_of_ece(pairs: list[tuple[float, bool]]) -> None:
    sure, right = np.array([s for s, _ in pairs]), np.array([r for _, r in pairs])
    bins = bin_confidences(sure, right, BINS)
    gaps = np.nan_to_num(np.abs(bins.accuracy - bins.confidence)) * bins.number
    assert gaps.sum() / len(pairs) == pytest.approx(brute_ece(pairs))
    assert bins.number.sum() == len(pairs)
    assert (np.isnan(bins.accuracy) == (bins.number == 0)).all()


@given(st.integers(0, 10_000))
def test_what_a_threshold_does_not_do(seed: int) -> None:
    gold, labels = random_case(seed, users=8)
    if any(gold):
        scores = score_labels(NAMES, gold, labels, resamples=0)
        coverages = [means.coverage for means in scores.thresholds]
        assert coverages == sorted(coverages, reverse=True)
        assert scores.thresholds[0].f1 == scores.overall.f1
        for attribute in scores.per_attribute.values():
            assert math.isnan(attribute.f1) or min(attribute.precision, attribute.recall) <= attribute.f1 + 1e-9
            assert math.isnan(attribute.f1) or attribute.f1 <= max(attribute.precision, attribute.recall) + 1e-9


def macro_f1(gold: Sequence[Profile], labels: Sequence[Mapping[str, Claim]]) -> float:
    return score_labels(NAMES, gold, labels, resamples=0).overall.f1


def test_the_interval_is_that_of_resampled_users() -> None:
    gold, labels = random_case(7, users=25)
    gold[3] = {}
    interval = score_labels(NAMES, gold, labels, resamples=300, seed=5).interval
    assert interval == score_labels(NAMES, gold, labels, resamples=300, seed=5).interval
    assert interval != score_labels(NAMES, gold, labels, resamples=300, seed=6).interval
    with_gold = [i for i, profile in enumerate(gold) if profile]
    drawn = np.random.default_rng(5).integers(0, len(with_gold), size=(300, len(with_gold)))
    draws = [macro_f1([gold[with_gold[i]] for i in row], [labels[with_gold[i]] for i in row]) for row in drawn]
    assert interval == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist())


def test_claims_of_one_attribute_and_of_all() -> None:
    table = tabulate(NAMES, GOLD, LABELS)
    sure, right = table.claims(1)
    assert sorted(zip(sure.tolist(), right.tolist(), strict=True)) == [(0.4, True), (0.8, True)]
    assert len(table.claims()[0]) == 5
