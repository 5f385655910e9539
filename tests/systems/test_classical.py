"""Classical baselines on tiny synthetic users whose evidence is known."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from mmprofile.errors import UserError
from mmprofile.inputs.views import Example
from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Attribute, Profile, Schema
from mmprofile.systems.classical import WORD, _likeliest, ceiling, majority, tfidf_lr

STARS = Attribute("Stars", ("1", "2", "3", "4", "5"))
LIKES = Attribute("Likes", ("Pizza", "Coffee", "Cars", "Books"), kind="set", size=2)
MEAL = Attribute("Meal", ("Lunch", "Dinner"), unknown=True)
SCHEMA = Schema("toy", [STARS, LIKES, MEAL])
FITTED = [tfidf_lr, ceiling]


def users(number: int, seed: int) -> list[Example]:
    """Users whose text tells Stars, whose photos tell Meal, and whose likes show in both."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(number):
        star, meal = str(rng.choice(["2", "3", "4", "4", "4"])), str(rng.choice(MEAL.values))
        likes = LIKES.canonical(rng.choice(LIKES.values, 2, replace=False).tolist())
        text = f"a place rated{star} near the {likes[0].lower()} shop and some filler{rng.integers(30)}"
        reviews = [{"Stars": star, "Likes": likes[0]}, {"Stars": star}, {}]
        photos = [{"Meal": meal, "Likes": likes[1]}, {"Meal": None}]
        result.append(Example(text, reviews, photos, {"Stars": (star,), "Likes": likes, "Meal": (meal,)}))
    return result


def gold(examples: list[Example]) -> list[Profile]:
    return [example.profile for example in examples]


def test_majority_takes_the_most_frequent_classes_and_breaks_ties_by_schema_order() -> None:
    train = [
        Example("", profile={"Stars": ("4",), "Likes": ("Coffee", "Books"), "Meal": ()}),
        Example("", profile={"Stars": ("4",), "Likes": ("Pizza", "Books"), "Meal": ("Lunch",)}),
        Example("", profile={"Stars": ("2",), "Likes": ("Pizza", "Cars"), "Meal": ("Dinner",)}),
    ]
    predicted = majority(SCHEMA, train, train)
    assert predicted == [{"Stars": ("4",), "Likes": ("Pizza", "Books"), "Meal": ("Lunch",)}] * 3


def test_each_row_reads_its_own_evidence() -> None:
    train, test = users(90, 0), users(60, 1)
    text = score(SCHEMA, gold(test), tfidf_lr(SCHEMA, train, test), resamples=0)
    cues = score(SCHEMA, gold(test), ceiling(SCHEMA, train, test), resamples=0)
    lazy = score(SCHEMA, gold(test), majority(SCHEMA, train, test), resamples=0)
    assert text.per_attribute["Stars"].macro_f1 > 95
    assert text.per_attribute["Meal"].macro_f1 < 75  # only photos tell
    assert all(one.macro_f1 > 99 for one in cues.per_attribute.values())
    assert lazy.macro_f1 < text.macro_f1 < cues.macro_f1


def test_the_ceiling_reads_no_text_and_the_text_baseline_no_cues() -> None:
    train, test = users(60, 0), users(20, 1)
    mute = [Example("", e.review_cues, e.photo_cues) for e in test]
    assert ceiling(SCHEMA, train, mute) == ceiling(SCHEMA, train, test)
    blind = [Example(e.text) for e in test]
    assert tfidf_lr(SCHEMA, train, blind) == tfidf_lr(SCHEMA, train, test)


@pytest.mark.parametrize("baseline", FITTED)
def test_same_input_same_output(baseline) -> None:  # type: ignore[no-untyped-def]
    train, test = users(45, 0), users(15, 1)
    assert baseline(SCHEMA, train, test) == baseline(SCHEMA, train, test)


@pytest.mark.parametrize("baseline", [majority, *FITTED])
@pytest.mark.parametrize("number", [1, 2, 5, 31])
def test_tiny_train_sets_give_whole_valid_profiles(baseline, number: int) -> None:  # type: ignore[no-untyped-def]
    test = users(4, 1)
    predicted = baseline(SCHEMA, users(number, 0), test)
    assert len(predicted) == 4
    for profile in predicted:
        assert SCHEMA.parse(SCHEMA.render(profile)) == (profile, [])


@pytest.mark.parametrize("baseline", [majority, *FITTED])
def test_single_class_and_unlabelled_attributes(baseline) -> None:  # type: ignore[no-untyped-def]
    train = [
        Example(e.text, e.review_cues, e.photo_cues, {"Stars": ("3",), "Likes": ("Cars", "Books"), "Meal": ()})
        for e in users(40, 0)
    ]
    expected = {"Stars": ("3",), "Likes": ("Cars", "Books"), "Meal": ()}
    assert baseline(SCHEMA, train, users(3, 1)) == [expected] * 3


def test_a_class_seen_by_one_user_only_and_unlabelled_users_are_no_trouble() -> None:
    train = users(40, 0)
    train[0] = Example(train[0].text, train[0].review_cues, train[0].photo_cues, train[0].profile | {"Stars": ("1",)})
    train[1] = Example(train[1].text, train[1].review_cues, train[1].photo_cues, train[1].profile | {"Meal": ()})
    for baseline in FITTED:
        predicted = baseline(SCHEMA, train, users(10, 1))
        assert all(profile["Stars"][0] in {"1", "2", "3", "4"} for profile in predicted)  # never a class not seen
        assert all(profile["Meal"] for profile in predicted)


def test_rare_classes_are_predicted_for_macro_f1() -> None:
    """Weak evidence, one class in eight: plain probabilities would never name it."""
    rng = np.random.default_rng(0)

    def draw(number: int) -> list[Example]:
        meals = ["Lunch" if rng.random() < 0.125 else "Dinner" for _ in range(number)]
        shown = [meal if rng.random() < 0.75 else str(rng.choice(MEAL.values)) for meal in meals]
        return [Example("", [], [{"Meal": s}], {"Meal": (m,)}) for m, s in zip(meals, shown, strict=True)]

    schema = Schema("meal", [MEAL])
    train, test = draw(300), draw(200)
    assert score(schema, gold(test), ceiling(schema, train, test), resamples=0).macro_f1 > 70


def test_texts_without_words_fall_back_to_frequencies() -> None:
    train = [Example("", profile=e.profile) for e in users(12, 0)]
    assert tfidf_lr(SCHEMA, train, users(2, 1)) == majority(SCHEMA, train, users(2, 1))


def test_nothing_to_predict_and_nothing_to_learn_from() -> None:
    for baseline in (majority, *FITTED):
        assert baseline(SCHEMA, users(3, 0), []) == []
        with pytest.raises(UserError, match="train split has no user"):
            baseline(SCHEMA, [], users(1, 0))
    with pytest.raises(UserError, match="no train example has cues"):
        ceiling(SCHEMA, [Example(e.text, profile=e.profile) for e in users(3, 0)], users(1, 0))


def test_cues_seen_only_in_test_are_ignored() -> None:
    train, test = users(40, 0), users(2, 1)
    odd = [Example(e.text, [*e.review_cues, {"Mood": "glad"}], e.photo_cues) for e in test]
    assert len(ceiling(SCHEMA, train, odd)) == 2


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Grüße aus Köln, it's a 4-star café_x a b ok 12", None),
        ("مرحبا بالعالم naïve Straße", None),
        ("iPhone很好用 ok", ["iphone", "很", "好", "用", "ok"]),
        ("ラーメンde", ["ラ", "ー", "メ", "ン", "de"]),
    ],
)
def test_terms_are_words_and_the_characters_of_scripts_without_blanks(text: str, terms: list[str] | None) -> None:
    found = TfidfVectorizer(token_pattern=WORD).build_analyzer()(text)
    assert found == (terms or TfidfVectorizer().build_analyzer()(text))  # with blanks: what scikit-learn takes


def test_a_set_of_any_size_has_the_classes_beyond_a_threshold() -> None:
    likes = Attribute("Likes", ("Pizza", "Coffee", "Cars"), "set", 2, min_size=0)
    schema = Schema("likes", [likes])

    def people(number: int, seed: int) -> list[Example]:
        rng = np.random.default_rng(seed)
        draws = rng.random((number, 3)) < (0.6, 0.3, 0.1)
        rows = [[value for value, has in zip(likes.values, draw, strict=True) if has] for draw in draws]
        return [
            Example(
                f"went out {' '.join(chosen)}",
                [dict.fromkeys(chosen, "yes")],
                [],
                {"Likes": tuple(chosen[:2]) or ("None",)},
            )
            for chosen in rows
        ]

    train, test = people(90, 0), people(60, 1)
    assert ("None",) in [example.profile["Likes"] for example in test]
    assert majority(schema, train, test[:1]) == [{"Likes": ("Pizza",)}]
    result = score(schema, gold(test), tfidf_lr(schema, train, test), resamples=0).per_attribute["Likes"]
    assert result.invalid == 0
    assert result.accuracy > 90
    nobody = [Example("", profile={"Likes": ("None",)})] * 3
    for baseline in (majority, tfidf_lr):
        assert baseline(schema, nobody, nobody[:1]) == [{"Likes": ("None",)}]


@pytest.mark.parametrize(("power", "expected"), [(0.0, ("a",)), (0.5, ("a", "b")), (1.0, ("b", "c"))])
def test_the_threshold_lies_between_one_half_and_the_frequency(power: float, expected: tuple[str, ...]) -> None:
    attribute = Attribute("Any", ("a", "b", "c", "d"), "set", 2, min_size=1)
    table, frequency = np.array([[0.6, 0.4, 0.06, 0.2], [0.1, 0.1, 0.0, 0.1]]), np.array([0.5, 0.2, 0.01, 0.4])
    found = _likeliest(attribute, table, frequency, power)
    assert found[0] == expected
    assert len(found[1]) == 1  # nothing is beyond the threshold, and one is needed
