"""Texts and words with the tokenizer of every published family: nothing is lost, no character is cut in two."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from mmprofile.inputs.batch import IGNORE, Collator
from mmprofile.inputs.reading import Reader
from mmprofile.inputs.syntax import UNDECODED, Annotator, window
from mmprofile.inputs.texts import sentinels
from mmprofile.inputs.views import VIEWS, Masking, User, build_view
from mmprofile.profile.grammar import Grammar
from mmprofile.profile.schema import Schema
from tests.support.published import PUBLISHED
from tests.support.published.chain import OF_TOKENIZER
from tests.support.published.tokenizers import default_texts

pytestmark = pytest.mark.fast

WHOLE = [family for family in OF_TOKENIZER if family not in ("t5", "mt5")]  # those that know every character
PLAIN = "The soup wasn't warm, so we (all 12 of us) left at 9:30!"
ODD = [
    "Café naïve, Crème brûlée.",
    "寿司 🍜🍣! すし屋",
    "👩‍👩‍👧 loved it… “really”",
    "Straße №5 — 4½ €",
    "e\u0301te\u0301",
    "a  b\n\nc\td",
]


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    @cache
    def load(family: str) -> Any:
        folder = tmp_path_factory.mktemp(family)
        published = replace(PUBLISHED[OF_TOKENIZER[family]], tokenizer=family)
        published.save(published, folder, (*default_texts(), PLAIN, "Café naïve, Crème brûlée."), 0)
        return AutoTokenizer.from_pretrained(folder)

    return load


@pytest.fixture
def collator_of(tokenizer_of: Callable[[str], Any], schema: Schema) -> Callable[..., Collator]:
    def make(family: str, **options: Any) -> Collator:
        tokenizer = tokenizer_of(family)
        defaults: dict[str, Any] = {"masking": Masking(), "max_tokens": 500, "seed": 0, "load_photo": None}
        return Collator(tokenizer=tokenizer, grammar=Grammar(schema, tokenizer), **(defaults | options))

    return make


@pytest.mark.parametrize("family", OF_TOKENIZER)
def test_reviews_one_after_another_are_one_text(family: str, collator_of: Callable[..., Collator]) -> None:
    """Their tokens side by side are those of the whole text, without a blank more."""
    collator = collator_of(family)
    reviews = [PLAIN, "Café naïve, Crème brûlée.", "it was good"]
    ids = [*chain(*collator.review_tokens(reviews))]
    text = "".join(f" review: {review}" for review in reviews)
    assert ids == collator.tokens(text)
    assert collator.tokenizer.decode(ids).strip() == text.strip()


@pytest.mark.parametrize("family", WHOLE)
def test_every_character_comes_back(family: str, collator_of: Callable[..., Collator]) -> None:
    collator = collator_of(family)
    normal = collator.tokenizer.backend_tokenizer.normalizer
    for review in ODD:
        expected = f"review: {review}"
        if family == "qwen":
            expected = normal.normalize_str(expected)
        [ids] = collator.review_tokens([review])
        assert collator.tokenizer.decode(ids).strip() == expected


@pytest.mark.parametrize("family", OF_TOKENIZER)
def test_words_are_the_same_whatever_the_tokens(family: str, collator_of: Callable[..., Collator]) -> None:
    collator = collator_of(family)
    annotator = Annotator(collator.tokenizer, window)
    for review, expected in (
        (PLAIN, "The soup wasn 't warm , so we ( all 12 of us ) left at 9 : 30 !"),
        ("Café naïve, Crème brûlée.", "Café naïve , Crème brûlée ."),
    ):
        words = annotator.words(collator.tokens(f" {review}"))
        assert " ".join(words.texts) == expected


@pytest.mark.parametrize("family", WHOLE)
def test_no_character_is_cut_in_two(family: str, collator_of: Callable[..., Collator]) -> None:
    """The words of a review and the blanks between them are the review."""
    collator = collator_of(family)
    reader = Reader(collator, build_view("fusion", "text"))
    normal = collator.tokenizer.backend_tokenizer.normalizer if family == "qwen" else None
    for encoding in ("segments", "joint"):
        user = User("u", tuple(ODD))
        reader.collator.joint = encoding == "joint"
        tokens, words = reader(user)
        places = [place for word in words for place in range(*word.span)]
        assert places == sorted(set(places))
        assert all(tokens[place].source == "review" for place in places)
        for number, review in enumerate(ODD):
            mine = [word for word in words if word.number == number]
            text = "".join(word.text + " " * word.space for word in mine).strip()
            assert UNDECODED not in text
            assert text == " ".join((normal.normalize_str(review) if normal else review).split())


@pytest.mark.parametrize("family", OF_TOKENIZER)
def test_what_is_hidden_has_a_token(family: str, collator_of: Callable[..., Collator], schema: Schema) -> None:
    collator = collator_of(family, masking=Masking(caption=1.0, profile=1.0))
    tokenizer = collator.tokenizer
    expected = {"bart": "<mask>", "roberta": "<mask>", "llama": "<unk>", "llava": "<unk>", "glm": "[MASK]"}
    names = [*sentinels(tokenizer)]
    assert names[0] == expected.get(family, "<extra_id_0>" if family in ("t5", "mt5") else "_")
    assert all(isinstance(token, int) for token in collator.sentinel_ids)
    assert len(names) == (100 if family in ("t5", "mt5") else 1)
    values = {a.name: a.canonical(a.values[: a.size]) for a in schema.attributes}
    user = User("u", ("it was good",), ("p",), ("a plate of noodles",), values)
    rng = np.random.default_rng(0)
    hidden = collator.pieces(user, build_view("masked_image", "uni"), rng).captions[0]
    marker = collator.tokens(" photo:")
    assert set(hidden[len(marker) :]) == {collator.sentinel_ids[0]}
    assert len(hidden) - len(marker) == len(collator.tokens(" a plate of noodles"))
    profile = collator.pieces(user, build_view("masked_profile", "uni"), rng).profile
    text = tokenizer.decode(profile)
    for i, name in enumerate(schema.names):
        shown = text.split(f"{name}:")[1].split(";")[0].strip()
        assert shown == names[min(i, len(names) - 1)]
    # One token, as in the caption.
    assert sum(token in collator.sentinel_ids for token in profile) == len(schema.names)


@pytest.mark.parametrize("family", OF_TOKENIZER)
def test_padding_is_masked_whether_or_not_there_is_a_token_for_it(
    family: str, collator_of: Callable[..., Collator], schema: Schema
) -> None:
    collator = collator_of(family)
    values = {a.name: a.canonical(a.values[: a.size]) for a in schema.attributes}
    users = [User("a", (PLAIN, "good"), (), (), values), User("b", ("it",), (), (), values)]
    batch = collator(users, [build_view(name, "uni") for name in VIEWS])
    assert batch.labels is not None
    lengths = batch.text_mask.sum(1).tolist()
    assert min(lengths) < max(lengths)
    padding = collator.tokenizer.pad_token_id
    assert set(batch.text_ids[~batch.text_mask].tolist()) == {0 if padding is None else padding}
    assert (padding is None) == (family in ("llama", "llama3"))
    ends = [row[row != IGNORE][-1] for row in batch.labels]
    assert set(map(int, ends)) == {collator.grammar.eos}
