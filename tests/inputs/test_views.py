"""Views: what each paradigm shows in each of them, the draws behind them, and what is refused."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmprofile.config.settings import InputsConfig
from mmprofile.errors import UserError
from mmprofile.inputs.views import (
    VIEWS,
    Masking,
    User,
    View,
    build_view,
    check_inputs,
    donors,
    drop_photos,
    hidden_attributes,
    keep_photos,
    paradigm_views,
    sample_reviews,
    unpaired,
    user_rng,
)

pytestmark = pytest.mark.fast

# The table of the method, by hand: modality -> view -> (reviews, photos, captions, masked profile).
TABLE = {
    "text": {"text": (True, "none", "none", False)},
    "multi": {
        "fusion": (True, "plain", "none", False),
        "text": (True, "none", "none", False),
        "masked_image": (True, "masked", "none", False),
        "masked_profile": (False, "plain", "none", True),
    },
    "uni": {
        "fusion": (True, "none", "plain", False),
        "text": (True, "none", "none", False),
        "masked_image": (True, "none", "masked", False),
        "masked_profile": (False, "none", "plain", True),
    },
    "both": {
        "fusion": (True, "plain", "plain", False),
        "text": (True, "none", "none", False),
        "masked_image": (True, "masked", "masked", False),
        "masked_profile": (False, "plain", "plain", True),
    },
}


def shown(view: View) -> tuple[bool, str, str, bool]:
    return view.reviews, view.photos, view.captions, view.profile


@pytest.mark.parametrize("modality", TABLE)
def test_every_view_shows_what_the_table_says(modality: str) -> None:
    views = paradigm_views(modality, list(TABLE[modality]))
    assert {view.name: shown(view) for view in views} == TABLE[modality]
    assert [view.kind for view in views] == [view.name for view in views]


def test_order_and_subset() -> None:
    assert [v.name for v in paradigm_views("multi", ["masked_profile", "fusion"])] == ["fusion", "masked_profile"]
    assert [v.name for v in paradigm_views("multi", VIEWS[::-1])] == list(VIEWS)
    assert [v.name for v in paradigm_views("multi", ["fusion"])] == ["fusion"]


def test_union_adds_the_pure_paradigms() -> None:
    views = {view.name: view for view in paradigm_views("both", VIEWS, union=True)}
    kinds = ("fusion", "masked_image", "masked_profile")  # text is the same view in all three
    assert list(views) == [*VIEWS, *(f"{m}/{k}" for m in ("multi", "uni") for k in kinds)]
    assert paradigm_views("both", VIEWS[::-1], union=True) == tuple(views.values())
    for modality in ("multi", "uni"):
        for kind in kinds:
            assert shown(views[f"{modality}/{kind}"]) == TABLE[modality][kind]
            assert views[f"{modality}/{kind}"].kind == kind
    assert {name: shown(views[name]) for name in VIEWS} == TABLE["both"]


@pytest.mark.parametrize(
    ("modality", "views", "union", "message"),
    [
        ("video", ["fusion"], False, "paradigm.modality='video' is not one of"),
        ("multi", ["fusion", "sound"], False, "give different views out of"),
        ("multi", [], False, "give different views out of"),
        ("multi", ["fusion", "fusion"], False, "give different views out of"),
        ("text", ["text", "fusion"], False, "views: [text] only"),
        ("both", ["text"], False, "cannot be left out"),
        ("multi", ["fusion"], True, "needs paradigm.modality=both"),
    ],
)
def test_combinations_without_meaning(modality: str, views: list[str], union: bool, message: str) -> None:
    with pytest.raises(UserError) as error:
        paradigm_views(modality, views, union)
    assert message in str(error.value)


@pytest.mark.parametrize("wrong", [{"image": -0.1}, {"caption": 1.01}, {"profile": float("nan")}])
def test_probabilities_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"paradigm\.masking\."):
        Masking(**wrong)


@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 10**6))
def test_at_least_one_attribute_is_hidden(count: int, probability: float, seed: int) -> None:
    names = [f"a{i}" for i in range(count)]
    hidden = hidden_attributes(names, probability, np.random.default_rng(seed))
    assert hidden
    assert hidden == [name for name in names if name in hidden]


def test_rate_of_hidden_attributes() -> None:
    rng, names = np.random.default_rng(0), [f"a{i}" for i in range(6)]
    draws = [hidden_attributes(names, 0.5, rng) for _ in range(4000)]
    # 6 x 0.5, and the one that is hidden where none would be: + 0.5^6.
    assert np.mean([len(hidden) for hidden in draws]) == pytest.approx(3 + 0.5**6, abs=0.08)
    counts = [sum(name in hidden for hidden in draws) for name in names]
    assert max(counts) - min(counts) < 250  # 4000 x 0.5, standard deviation 32: nobody is preferred
    assert all(len(hidden_attributes(names, 0.0, rng)) == 1 for _ in range(50))
    assert len({hidden_attributes(names, 0.0, rng)[0] for _ in range(200)}) == 6
    assert hidden_attributes(names, 1.0, rng) == names


def rows(count: int, photos: Sequence[Sequence[str]] = ()) -> list[dict[str, Any]]:
    return [
        {"text": f"text {i}", "photo_ids": list(photos[i]) if i < len(photos) else [f"p{i}", f"q{i}"]}
        for i in range(count)
    ]


def test_sampled_reviews_are_some_in_time_order_with_their_photos() -> None:
    reviews = rows(12)
    for name in map(str, range(30)):
        drawn, user = sample_reviews(name, reviews, {"p1": "one", "q2": "two"}, 3, 1, seed=0)
        places = [reviews.index(row) for row in drawn]
        assert places == sorted(set(places))
        assert len(places) == 3
        assert user.reviews == tuple(f"text {i}" for i in places)
        assert [photo[1:] for photo in user.photos] == [str(i) for i in places]
        assert user.captions == tuple({"p1": "one", "q2": "two"}.get(photo) for photo in user.photos)
        assert user.profile is None


def test_sampling_depends_on_seed_and_user_alone() -> None:
    reviews = rows(12)

    def draw(name: str, seed: int = 0) -> User:
        return sample_reviews(name, reviews, {}, 3, 1, seed)[1]

    names = [f"user {i}" for i in range(20)]
    forth, back = {name: draw(name) for name in names}, {name: draw(name) for name in names[::-1]}
    assert forth == back
    assert len({user.reviews for user in forth.values()}) > 10
    assert any(draw(name, seed=1).reviews != forth[name].reviews for name in names)
    seen = {text for i in range(300) for text in draw(str(i)).reviews}
    assert seen == {f"text {i}" for i in range(12)}


def test_few_reviews_many_photos_and_shared_ones() -> None:
    reviews = rows(2, [["x", "y"], ["x"]])
    for name in map(str, range(20)):
        drawn, user = sample_reviews(name, reviews, {}, 5, 3, 0)
        assert drawn == tuple(reviews)
        assert sorted(user.photos) == ["x", "y"]  # x is the photo of both reviews, and taken once
        assert sample_reviews(name, reviews, {}, 5, 0, 0)[1].photos == ()
    assert sample_reviews("u", [], {}, 3, 1, 0) == ((), User("u", (), (), ()))


@given(st.integers(2, 40), st.integers(0, 1000))
def test_unpaired_gives_everybody_somebody_elses_photos(count: int, seed: int) -> None:
    users = [User(f"u{i}", (f"r{i}",), (f"p{i}",), (f"c{i}",), {"A": (str(i),)}) for i in range(count)]
    swapped = unpaired(users, seed)
    for before, after in zip(users, swapped, strict=True):
        assert after.photos != before.photos
        assert (after.user_id, after.reviews, after.profile) == (before.user_id, before.reviews, before.profile)
        assert after.captions == (after.photos[0].replace("p", "c"),)
    assert sorted(user.photos for user in swapped) == sorted(user.photos for user in users)
    assert unpaired(users, seed) == swapped


def test_unpaired_alone_and_by_seed() -> None:
    users = [User(f"u{i}", (), (f"p{i}",)) for i in range(12)]
    assert unpaired(users[:1], 0) == users[:1]
    assert unpaired([], 0) == []
    assert len({tuple(user.photos for user in unpaired(users, seed)) for seed in range(5)}) > 1


@given(st.integers(2, 40), st.integers(0, 1000))
def test_donors_are_everybody_once_and_never_oneself(count: int, seed: int) -> None:
    found = donors(count, seed)
    assert sorted(found) == list(range(count))
    assert all(donor != user for user, donor in enumerate(found))
    assert found == donors(count, seed)


def album(name: str, count: int = 6) -> User:
    places = range(count)
    return User(name, ("text",), tuple(f"p{i}" for i in places), tuple(f"c{i}" if i != 2 else None for i in places))


def parallel(user: User) -> bool:
    """Whether each photo still has its own caption."""
    return user.captions == tuple(None if photo == "p2" else photo.replace("p", "c") for photo in user.photos)


def test_at_most_so_many_photos_and_fewer_are_some_of_more() -> None:
    firsts = set()
    for name in map(str, range(30)):
        user = album(name)
        kept = [keep_photos(user, count, seed=0) for count in range(8)]
        assert [len(one.photos) for one in kept] == [0, 1, 2, 3, 4, 5, 6, 6]
        for fewer, more in itertools.pairwise(kept):
            assert set(fewer.photos) <= set(more.photos)
        assert all(list(one.photos) == sorted(one.photos) and parallel(one) for one in kept)
        assert kept == [keep_photos(user, count, seed=0) for count in range(8)]
        firsts.add(kept[1].photos)
    assert len(firsts) == 6
    assert keep_photos(album("a"), None, 0) == keep_photos(album("a"), 6, 0) == album("a")
    assert any(keep_photos(album(str(i)), 1, 1) != keep_photos(album(str(i)), 1, 0) for i in range(5))


def test_each_photo_is_missing_with_its_probability_whatever_else_is_shown() -> None:
    users = [album(str(i)) for i in range(500)]
    dropped = {p: [drop_photos(user, p, seed=0) for user in users] for p in (0.0, 0.3, 0.5, 1.0)}
    assert dropped[0.0] == users
    assert all(user.photos == user.captions == () for user in dropped[1.0])
    for p, rest in dropped.items():
        assert sum(len(user.photos) for user in rest) / 3000 == pytest.approx(1 - p, abs=0.03)  # three deviations
        assert all(parallel(user) and user.reviews == ("text",) for user in rest)
    for user, more, fewer in zip(users, dropped[0.3], dropped[0.5], strict=True):
        assert set(fewer.photos) <= set(more.photos)
        alone = drop_photos(replace(user, photos=("p4",), captions=("c4",)), 0.5, 0)
        assert alone.photos == (("p4",) if "p4" in fewer.photos else ())
    assert dropped[0.5] == [drop_photos(user, 0.5, 0) for user in users]
    assert dropped[0.5] != [drop_photos(user, 0.5, 1) for user in users]


def test_the_photos_kept_are_not_those_least_often_missing() -> None:
    """Both draw a number per photo: were it the same number, those kept would never, or always, be dropped."""
    kept = [drop_photos(keep_photos(album(str(i)), 1, 0), 0.5, 0) for i in range(500)]
    assert sum(len(user.photos) for user in kept) / 500 == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"reviews": 0}, "inputs.reviews=0: give 1 or more"),
        ({"photos_per_review": -1}, "inputs.photos_per_review=-1: give 0 or more"),
        ({"photos": -1}, "inputs.photos=-1: give 0 or more"),
        ({"max_tokens": 0}, "inputs.max_tokens=0: give 1 or more"),
        ({"pairing": "unpared"}, "inputs.pairing='unpared' is not one of paired, unpaired"),
        ({"missing": 1.2}, "inputs.missing=1.2 is not a probability"),
        ({"missing": float("nan")}, "inputs.missing=nan is not a probability"),
        ({"missing_labels": -0.1}, "inputs.missing_labels=-0.1 is not a probability"),
    ],
)
def test_inputs_are_checked(wrong: dict[str, Any], says: str) -> None:
    settings: dict[str, Any] = {"reviews": 3, "photos_per_review": 1, "photos": None, "max_tokens": 320}
    settings |= {"pairing": "paired", "missing": 0.0, "missing_labels": 0.0, "evidence": 0}
    check_inputs(InputsConfig(**settings))
    with pytest.raises(UserError) as raised:
        check_inputs(InputsConfig(**{**settings, **wrong}))
    assert str(raised.value).startswith(says)


def test_a_users_generator_is_its_own() -> None:
    def first(*key: Any) -> float:
        return float(user_rng(*key).random())

    assert first(0, "a", 1) == first(0, "a", 1)
    assert len({first(0, "a"), first(1, "a"), first(0, "b"), first(0, "a", 1), first(0, "a", 1, 1)}) == 5
    assert len({first(0, "a"), first(0, "a", 0), first(0, "a", 0, 0), first(0, "a", 2)}) == 4


def test_a_view_may_have_another_name() -> None:
    assert build_view("fusion", "uni", "uni/fusion") == View("uni/fusion", "fusion", True, "none", "plain", False)
