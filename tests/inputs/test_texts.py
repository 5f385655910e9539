"""Texts of a view: how they are cut, what stands for hidden tokens, and what is remembered."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.texts import fair_shares, sentinels
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from tests.support.batchrows import row_of, words

pytestmark = pytest.mark.fast

LONG = ("soup was warm " * 20, "bread good " * 30, "nice")


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., ProfileModel]) -> ProfileModel:
    return tiny_model("none")


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(-5, 200))
def test_fair_shares(lengths: list[int], budget: int) -> None:
    shares = fair_shares(lengths, budget)
    assert sum(shares) == min(sum(lengths), max(budget, 0))
    assert all(0 <= share <= length for share, length in zip(shares, lengths, strict=True))
    # Whoever is cut has as much as anybody else, to one token.
    cut = [share for share, length in zip(shares, lengths, strict=True) if share < length]
    assert all(share >= max(shares) - 1 for share in cut)


def test_fair_shares_by_hand() -> None:
    assert fair_shares([10, 2, 7], 12) == [5, 2, 5]
    assert fair_shares([3, 3, 3], 8) == [2, 3, 3]


@pytest.mark.parametrize("modality", ["multi", "both"])
@pytest.mark.parametrize("budget", [120, 60, 57])
def test_reviews_give_way(
    model: ProfileModel,
    schema: Schema,
    users: list[User],
    make_collator: Callable[..., Collator],
    modality: str,
    budget: int,
) -> None:
    user = replace(users[3], reviews=LONG)
    collator = make_collator(model, budget, profile=0.0, caption=0.0)
    batch = collator([user], paradigm_views(modality, VIEWS))
    captions = " photo: red sign above door photo: two people" if modality == "both" else ""
    for view in ("fusion", "masked_image"):
        text = words(model, batch, row_of(batch, 0, view))
        assert int((batch.row_tokens[row_of(batch, 0, view)] >= 0).sum()) == budget
        assert text.endswith(f"{captions}</s>")
        pieces = [len(collator.tokens(f" review: {piece}")) for piece in text.split(" photo")[0].split("review: ")[1:]]
        assert len(pieces) == 3
        assert abs(pieces[0] - pieces[1]) <= 2  # both cut, to the same length
        assert "review: nice" in text
    profile = words(model, batch, row_of(batch, 0, "masked_profile"))
    assert sum(name in profile for name in schema.names) == 6
    assert profile.endswith(f"{captions}</s>")


def test_nothing_is_longer_than_max_tokens(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    user = replace(users[0], reviews=LONG, captions=("warm " * 50, "nice " * 50, None))
    for budget in (2, 5, 11, 33):
        batch = make_collator(model, budget)([user, users[1]], paradigm_views("both", VIEWS, union=True))
        assert batch.text_ids.shape[1] <= budget
        assert (batch.text_ids == model.grammar.eos).sum(1).tolist() == [1] * len(batch.text_ids)


def test_no_segment_is_cut_because_another_is_long(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    user = replace(users[3], reviews=LONG)
    texts = make_collator(model, 20, encoding="segments").texts(
        user, build_view("fusion", "both"), np.random.default_rng(0)
    )
    whole = [make_collator(model).tokens(f" review: {review}") for review in LONG]
    assert [len(text) for text in texts[:3]] == [min(len(ids) + 1, 20) for ids in whole] == [20, 20, 4]
    assert all(text[-1] == model.grammar.eos for text in texts)
    nobody = make_collator(model, encoding="segments").texts(
        User("u", ()), build_view("text", "text"), np.random.default_rng(0)
    )
    assert nobody == [(model.grammar.eos,)]
    with pytest.raises(UserError, match=r"text\.encoding='parts' is not one of joint, segments"):
        make_collator(model, encoding="parts")


def test_what_stands_for_something_hidden(make_tokenizer: Callable[..., object]) -> None:
    tokenizer = make_tokenizer(["a"])
    assert [*sentinels(tokenizer)] == [f"<extra_id_{i}>" for i in range(8)]

    class Plain:
        mask_token, unk_token = "<mask>", "<unk>"

        def get_vocab(self) -> dict[str, int]:
            return {"<mask>": 0, "<unk>": 1}

    plain = Plain()
    assert [*sentinels(plain)] == ["<mask>"]
    plain.mask_token = None  # type: ignore[assignment]
    assert [*sentinels(plain)] == ["<unk>"]


def test_a_review_is_tokenised_once_while_there_is_room(
    model: ProfileModel, make_collator: Callable[..., Collator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmprofile.inputs.texts.REMEMBERED", 3)
    collator, calls = make_collator(model), []
    tokenizer = collator.tokenizer

    def counts(texts: list[str], **options: Any) -> Any:
        calls.append(len(texts) - 1)  # the first is what stands before them
        return tokenizer(texts, **options)

    collator.tokenizer = counts
    reviews = ["soup was warm", "bread", "good so we stayed", "long dinner"]
    expected = [tokenizer(f" review: {review}", add_special_tokens=False)["input_ids"] for review in reviews]
    assert collator.review_tokens(reviews[:2]) == collator.review_tokens(reviews[:2]) == expected[:2]
    assert calls == [2]
    assert collator.review_tokens([*reviews, reviews[0]]) == [*expected, expected[0]]
    assert calls == [2, 2]  # the two not known together, though there is no room for all
    for _ in range(3):
        assert collator.review_tokens(reviews) == expected
        assert len(collator._tokens) <= 3
    assert len(calls) <= 5
