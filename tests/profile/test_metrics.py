"""Metrics against scikit-learn, against slow direct bootstraps, and against figures worked by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    multilabel_confusion_matrix,
)

from mmprofile.errors import UserError
from mmprofile.profile.metrics import bootstrap, confusion, count, resample_weights, score
from mmprofile.profile.schema import Attribute, Profile, Schema
from tests.support.toyprofiles import LIKES, MEAL, ONE, SCHEMA, STARS, profiles, stars

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("seed", range(5))
def test_single_value_matches_sklearn_with_invalid_and_absent_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold, predicted = profiles(rng, 40), profiles(rng, 40, wrong=0.3)
    one = score(SCHEMA, gold, predicted, resamples=0).per_attribute["Stars"]
    truth = [profile["Stars"][0] for profile in gold]
    guess = [p["Stars"][0] if len(p["Stars"]) == 1 and p["Stars"][0] in STARS.values else "bad" for p in predicted]
    present = sorted(set(truth))
    options = {"average": "macro", "zero_division": 0}
    assert one.macro_f1 == pytest.approx(100 * f1_score(truth, guess, labels=present, **options))
    assert one.macro_f1_all == pytest.approx(100 * f1_score(truth, guess, labels=STARS.values, **options))
    per_class = f1_score(truth, guess, labels=STARS.values, average=None, zero_division=0)
    assert list(one.f1.values()) == pytest.approx(list(100 * per_class))
    assert one.accuracy == pytest.approx(100 * accuracy_score(truth, guess))
    assert one.support == {label: truth.count(label) for label in STARS.values}
    assert one.invalid == guess.count("bad")
    assert one.exact_set_accuracy is None


@pytest.mark.parametrize("seed", range(5))
def test_set_matches_multilabel_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold, predicted = profiles(rng, 40), profiles(rng, 40, wrong=0.3)
    one = score(SCHEMA, gold, predicted, resamples=0).per_attribute["Likes"]
    truth = np.array([[label in profile["Likes"] for label in LIKES.values] for profile in gold])
    guess = np.array([[label in profile["Likes"] for label in LIKES.values] for profile in predicted])
    present = np.flatnonzero(truth.any(axis=0))
    assert one.macro_f1 == pytest.approx(100 * f1_score(truth, guess, labels=present, average="macro", zero_division=0))
    assert one.macro_f1_all == pytest.approx(100 * f1_score(truth, guess, average="macro", zero_division=0))
    exact = [set(a["Likes"]) == set(b["Likes"]) for a, b in zip(gold, predicted, strict=True)]
    assert one.exact_set_accuracy == one.accuracy == pytest.approx(100 * np.mean(exact))


@pytest.mark.parametrize("seed", range(5))
def test_set_of_any_size_matches_multilabel_sklearn(seed: int) -> None:
    """Users whose set is empty count: their predicted values are wrong ones."""
    rng = np.random.default_rng(seed)
    likes = Attribute("Likes", ("Pizza", "Coffee", "Cars", "Books"), "set", 3, min_size=0)

    def drawn() -> list[Profile]:
        rows = rng.random((40, 4)) < rng.choice([0.2, 0.4])
        return [{"Likes": tuple(np.array(likes.values)[row][:3].tolist()) or ("None",)} for row in rows]

    gold, predicted = drawn(), drawn()
    truth, guess = (
        np.array([[label in profile["Likes"] for label in likes.values] for profile in rows])
        for rows in (gold, predicted)
    )
    assert not truth.any(axis=1).all()
    one = score(Schema("likes", [likes]), gold, predicted, resamples=0).per_attribute["Likes"]
    assert one.macro_f1 == pytest.approx(100 * f1_score(truth, guess, average="macro", zero_division=0))
    assert one.exact_set_accuracy == one.accuracy == pytest.approx(100 * (truth == guess).all(axis=1).mean())
    assert (one.invalid, one.not_scored) == (0, 0)
    wrong: list[tuple[str, ...]] = [(), likes.values, ("None", "Cars"), ("bogus",)]
    bad = score(Schema("likes", [likes]), gold[:4], [{"Likes": values} for values in wrong], resamples=0)
    assert bad.per_attribute["Likes"].invalid == 4
    assert bad.per_attribute["Likes"].accuracy == 0


@pytest.mark.parametrize("seed", range(5))
def test_values_in_order_match_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = Attribute("Size", ("S", "M", "L", "XL"), "ordinal")
    spends = Attribute("Spends", kind="number", edges=(10, 20, 50), typical=(4, 15, 30, 80), unit="€")
    gold, guess = rng.integers(0, 4, (2, 50))
    guess = np.where(rng.random(50) < 0.5, gold, guess)
    for attribute, scale, unit in ((size, [0, 1, 2, 3], "steps"), (spends, [4, 15, 30, 80], "€")):
        rows = [[{attribute.name: (attribute.values[i],)} for i in part] for part in (gold, guess)]
        schema = Schema("one", [attribute])
        one = score(schema, *rows, resamples=0).per_attribute[attribute.name]
        assert one.quadratic_kappa == pytest.approx(cohen_kappa_score(gold, guess, weights="quadratic"))
        assert one.mean_absolute_error == pytest.approx(np.abs(np.array(scale)[gold] - np.array(scale)[guess]).mean())
        assert one.macro_f1 == pytest.approx(100 * f1_score(gold, guess, average="macro"))
        assert one.to_dict()["unit"] == unit
        # An invalid answer is as wrong as can be.
        worst = [{attribute.name: (attribute.values[3 if known < 2 else 0],)} for known in gold]
        if attribute is size:
            nothing: list[Profile] = [{attribute.name: ("bogus",)} for _ in gold]
            found, expected = (
                score(schema, rows[0], some, resamples=0).per_attribute["Size"] for some in (nothing, worst)
            )
            assert found.mean_absolute_error == expected.mean_absolute_error
            assert found.quadratic_kappa == expected.quadratic_kappa
    same = score(Schema("one", [size]), *([{"Size": ("S",)}] * 3 for _ in range(2)), resamples=0).to_dict()
    assert same["per_attribute"]["Size"]["mean_absolute_error"] == 0
    assert same["per_attribute"]["Size"]["quadratic_kappa"] is None
    nobody = score(Schema("one", [size]), [{}], [{"Size": ("S",)}], resamples=0).to_dict()["per_attribute"]["Size"]
    assert nobody["mean_absolute_error"] is nobody["quadratic_kappa"] is None


def test_values_without_order_have_no_distance() -> None:
    rows = profiles(np.random.default_rng(0), 5)
    for scores in score(SCHEMA, rows, rows, resamples=0).to_dict()["per_attribute"].values():
        assert not {"mean_absolute_error", "quadratic_kappa", "unit"} & scores.keys()


@pytest.mark.parametrize("seed", range(5))
def test_confusion_matches_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold, predicted = profiles(rng, 40), profiles(rng, 40, wrong=0.3)
    counts = count(SCHEMA, gold, predicted)
    guess = [p["Stars"][0] if len(p["Stars"]) == 1 and p["Stars"][0] in STARS.values else "bad" for p in predicted]
    usual = confusion_matrix([p["Stars"][0] for p in gold], guess, labels=[*STARS.values, "bad"])
    assert confusion(counts, 0).tolist() == usual[:-1].tolist()
    truth, guesses = ([[label in p["Likes"] for label in LIKES.values] for p in some] for some in (gold, predicted))
    each, table = multilabel_confusion_matrix(truth, guesses), confusion(counts, 1)
    assert np.diag(table).tolist() == each[:, 1, 1].tolist()
    assert table.sum(axis=1) == pytest.approx(each[:, 1].sum(axis=1))  # users with the class in gold


def test_confusion_of_several_values_by_hand() -> None:
    schema = Schema("likes", [LIKES])
    gold = [{"Likes": values} for values in (("Pizza", "Coffee"), ("Pizza", "Cars"), ("Pizza", "Coffee"), ())]
    said = [{"Likes": values} for values in (("Pizza", "Cars"), ("Coffee", "Books"), (), ("Cars", "Books"))]
    assert confusion(count(schema, gold, said), 0).tolist() == [
        [1, 0.5, 0, 0.5, 1],  # Pizza: hit; taken for Coffee and Books; nothing said
        [0, 0, 1, 0, 1],  # Coffee: taken for Cars; nothing said
        [0, 0.5, 0, 0.5, 0],
        [0, 0, 0, 0, 0],
    ]


def test_hand_worked_figures() -> None:
    # 4: tp 1, fp 1, fn 1 -> 50; 3: tp 1 -> 100; 2: one missed -> 0; 5: predicted once, never in gold.
    result = score(ONE, stars("4", "4", "3", "2"), stars("4", "5", "3", "4"), [[], ["x"], [], []], resamples=0)
    one = result.per_attribute["Stars"]
    assert result.macro_f1 == one.macro_f1 == pytest.approx(50.0)
    assert result.macro_f1_all == one.macro_f1_all == pytest.approx(30.0)
    assert one.predicted_absent == 1
    assert one.support == {"1": 0, "2": 1, "3": 1, "4": 2, "5": 0}
    assert one.accuracy == 50.0
    assert result.parse_fault_rate == 0.25
    assert result.n_users == 4
    assert result.interval is None


def test_missing_and_invalid_are_wrong_and_never_dropped() -> None:
    gold = stars("4", "4", "3")
    for bad in ({}, {"Stars": ()}, {"Stars": ("9",)}, {"Stars": ("4", "3")}):
        one = score(ONE, gold, [bad, *stars("4", "3")], resamples=0).per_attribute["Stars"]
        assert one.macro_f1 == pytest.approx((200 / 3 + 100) / 2)
        assert one.invalid == 1
        assert one.accuracy == pytest.approx(200 / 3)


def test_unknown_gold_is_not_scored_but_counted() -> None:
    schema = Schema("meal", [STARS, MEAL])
    gold: list[Profile] = [{"Stars": ("4",), "Meal": ()}, {"Stars": ("3",), "Meal": ("Lunch",)}]
    predicted: list[Profile] = [{"Stars": ("4",), "Meal": ("Dinner",)}, {"Stars": ("3",), "Meal": ("Lunch",)}]
    meal = score(schema, gold, predicted, resamples=0).per_attribute["Meal"]
    assert (meal.macro_f1, meal.not_scored, meal.predicted_absent) == (100.0, 1, 0)
    predicted[1]["Meal"] = ()
    assert score(schema, gold, predicted, resamples=0).per_attribute["Meal"].macro_f1 == 0.0


def test_attribute_without_gold_is_left_out_of_the_mean_and_null_in_json() -> None:
    schema = Schema("meal", [STARS, MEAL])
    gold: list[Profile] = [{"Stars": ("4",)}, {"Stars": ("3",)}]
    result = score(schema, gold, [{"Stars": ("4",)}, {"Stars": ("3",)}], resamples=20)
    assert result.macro_f1 == 100.0
    assert math.isnan(result.per_attribute["Meal"].macro_f1)
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["per_attribute"]["Meal"]["macro_f1"] is None
    assert written["per_attribute"]["Meal"]["interval"] == [None, None]
    assert written["per_attribute"]["Stars"]["interval"] == [100.0, 100.0]


def test_ordered_attribute_counts_as_multilabel_but_is_exact_in_order() -> None:
    schema = Schema("ranked", [Attribute("Rank", ("a", "b", "c"), kind="ordered", size=2)])
    gold: list[Profile] = [{"Rank": ("a", "b")}, {"Rank": ("b", "c")}]
    one = score(schema, gold, [{"Rank": ("b", "a")}, {"Rank": ("b", "c")}], resamples=0).per_attribute["Rank"]
    assert (one.macro_f1, one.exact_set_accuracy) == (100.0, 50.0)


def test_to_dict_layout() -> None:
    rng = np.random.default_rng(0)
    written = score(SCHEMA, profiles(rng, 9), profiles(rng, 9), resamples=10).to_dict()
    keys = {"macro_f1", "macro_f1_all", "interval", "per_attribute", "parse_fault_rate", "n_users"}
    assert set(written) == keys
    assert list(written["per_attribute"]) == ["Stars", "Likes", "Meal"]
    low, high = written["per_attribute"]["Likes"]["interval"]
    assert 0 <= low <= high <= 100


def test_bad_input_says_what_is_wrong() -> None:
    with pytest.raises(UserError, match="nothing to score"):
        score(ONE, [], [])
    with pytest.raises(UserError, match=r"gold profile 1: Stars has '6'.*schema 'one'"):
        score(ONE, stars("4", "6"), stars("4", "4"))
    with pytest.raises(ValueError, match="1 predicted profiles for 2"):
        score(ONE, stars("4", "4"), stars("4"))
    with pytest.raises(ValueError, match="3 fault entries"):
        score(ONE, stars("4"), stars("4"), [False] * 3)


def test_bootstrap_equals_scoring_each_resample_directly() -> None:
    rng = np.random.default_rng(3)
    gold, predicted = profiles(rng, 12), profiles(rng, 12, wrong=0.2)
    gold[0]["Meal"] = ()
    draws = bootstrap(count(SCHEMA, gold, predicted), 30, seed=7)
    indices = np.random.default_rng(7).integers(0, 12, size=(30, 12))
    for row, index in zip(draws, indices, strict=True):
        direct = score(SCHEMA, [gold[i] for i in index], [predicted[i] for i in index], resamples=0)
        assert row.tolist() == pytest.approx([one.macro_f1 for one in direct.per_attribute.values()])
    result = score(SCHEMA, gold, predicted, resamples=30, seed=7)
    assert result.interval == pytest.approx(tuple(np.percentile(draws.mean(axis=1), [2.5, 97.5])))
    for place, one in enumerate(result.per_attribute.values()):
        assert one.interval == pytest.approx(tuple(np.percentile(draws[:, place], [2.5, 97.5])))


def test_resamples_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resample_weights(7, 20, seed=1)))
    monkeypatch.setattr("mmprofile.profile.metrics._CHUNK", 21)
    blocks = list(resample_weights(7, 20, seed=1))
    assert len(blocks) == 7
    assert np.array_equal(np.concatenate(blocks), whole)
    assert (whole.sum(axis=1) == 7).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(STARS.values), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_perfect_is_100_and_order_of_users_is_irrelevant(values: list[str], random: object) -> None:
    gold = stars(*values)
    assert score(ONE, gold, gold, resamples=5).macro_f1 == 100.0
    predicted = stars(*(random.choice(STARS.values) for _ in values))  # type: ignore[attr-defined]
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = score(ONE, [gold[i] for i in order], [predicted[i] for i in order], resamples=0)
    result = score(ONE, gold, predicted, resamples=0)
    assert shuffled == result
    assert 0 <= result.macro_f1_all <= result.macro_f1 <= 100
    missed = score(ONE, gold, stars(*[""] * len(values)), resamples=0)
    assert missed.macro_f1 == 0.0
    assert missed.per_attribute["Stars"].invalid == len(values)
