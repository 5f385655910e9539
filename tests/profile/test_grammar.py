"""The grammar against brute force: every legal profile can be written, and nothing else can."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, build_view
from mmprofile.model.model import ProfileModel
from mmprofile.paths import ASSETS
from mmprofile.profile.grammar import Grammar, Target, continuation_ids
from mmprofile.profile.schema import Attribute, Profile, Schema
from tests.support.oddschemas import ODD

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def shipped() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny backbone, which cuts words to pieces."""
    return AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")


def sentences(grammar: Grammar) -> Iterator[tuple[int, ...]]:
    """Everything that ``allowed`` lets be written, to the end token."""
    prefixes: list[tuple[int, ...]] = [()]
    while prefixes:
        prefix = prefixes.pop()
        for token in grammar.allowed(prefix):
            if token == grammar.eos:
                yield (*prefix, token)
            else:
                prefixes.append((*prefix, token))


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("pieces", [False, True])
def test_what_can_be_written_is_what_is_legal(
    name: str,
    pieces: bool,
    shipped: PreTrainedTokenizerFast,
    schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast],
    legal_profiles: Callable[[Schema], list[Profile]],
) -> None:
    schema = Schema(name, ODD[name])
    tokenizer = shipped if pieces else schema_tokenizer(schema)
    grammar = Grammar(schema, tokenizer)
    profiles = legal_profiles(schema)
    texts = [schema.render(profile) for profile in profiles]
    assert len(set(texts)) == len(texts)
    legal = {(*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id): text for text in texts}
    written = list(sentences(grammar))
    assert len(set(written)) == len(written)
    assert set(written) == set(legal)
    assert {tuple(grammar.encode(profile)) for profile in profiles} == set(legal)
    assert max(map(len, written)) <= grammar.max_tokens
    for ids in written:
        assert grammar.decode(list(ids)) == legal[ids]
        assert grammar.allowed(ids) == [grammar.eos]


def test_fewer_values_and_unknown_ones_can_be_encoded(schema: Schema, shipped: PreTrainedTokenizerFast) -> None:
    grammar = Grammar(schema, shipped)
    profile: Profile = dict.fromkeys(schema.names, ()) | {"Stars": ("3",), "Favorite Category": ("Shopping",)}
    target = grammar.target(profile)
    assert grammar.decode(target.ids) == schema.render(profile)
    assert {*enumerate(target.ids)} <= set(map(tuple, target.legal.tolist()))
    with pytest.raises(ValueError, match="Stars: '6' is not a value of the schema"):
        grammar.encode({"Stars": ("6",)})


def test_what_is_not_labelled_is_not_written(schema: Schema, shipped: PreTrainedTokenizerFast) -> None:
    """The rest is written as in the whole profile, among the same tokens: nothing is learned of what is left out."""
    grammar = Grammar(schema, shipped)
    whole = {a.name: a.values[: a.size] for a in schema.attributes}
    full = grammar.target(whole)
    starts = np.cumsum([0, *full.lengths])

    def rivals(target: Target) -> list[set[int]]:
        return [set(target.legal[target.legal[:, 0] == place, 1].tolist()) for place in range(len(target.ids))]

    for size in range(len(schema.names) + 1):
        for left in combinations(range(len(schema.names)), size):
            profile = {name: whole[name] for i, name in enumerate(schema.names) if i not in left}
            target = grammar.target(profile)
            gone = (
                {*left, len(schema.names)} if len(schema.names) - 1 in left else {*left}
            )  # the end goes with the last
            kept = [
                place
                for i in range(len(full.lengths))
                if i not in gone
                for place in range(starts[i], starts[i] + full.lengths[i])
            ]
            assert target.ids == [full.ids[place] for place in kept]
            assert target.lengths == [0 if i in gone else length for i, length in enumerate(full.lengths)]
            assert rivals(target) == [rivals(full)[place] for place in kept]


def test_a_prefix_that_is_not_legal_ends(schema: Schema, shipped: PreTrainedTokenizerFast) -> None:
    grammar = Grammar(schema, shipped)
    start = grammar.allowed(())
    assert len(start) == 1
    wrong = (start[0] + 1,)
    assert grammar.allowed(wrong) == grammar.allowed((*wrong, 7)) == [grammar.eos]
    ids = torch.tensor([0, *start])  # behind the decoder's start token
    assert grammar.constraint(1)(0, ids) == grammar.allowed(tuple(start))


def test_words_that_a_tokenizer_lacks(schema: Schema, make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    texts = [f"{a.name}: {v}, {v};" for a in schema.attributes for v in a.values]
    Grammar(schema, make_tokenizer(texts))
    said = (
        r"cannot write the profile schema 'yelp': of the attribute 'Favorite Category' the value 'Event Planning & Services' "
        r"comes back as 'Event Planning Services', without the characters &; rename it or choose another model\.text\.name"
    )
    with pytest.raises(UserError, match=said):
        Grammar(schema, make_tokenizer([text.replace(" &", "") for text in texts]))
    with pytest.raises(UserError, match="the attribute 'Discount Preference' comes back as 'Preference'"):
        Grammar(schema, make_tokenizer([text.replace("Discount", "") for text in texts]))


def test_characters_that_a_tokenizer_lacks_are_named(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    schema = Schema("mixed", [Attribute("Stars", ("1", "2")), Attribute("City", ("Bonn", "北京 Bonn"))])
    known = make_tokenizer(["Stars: 1, 1; 2, 2; City: Bonn, Bonn;"])
    with pytest.raises(
        UserError, match=r"of the attribute 'City' the value '北京 Bonn' comes back as 'Bonn', .* 北 京;"
    ):
        Grammar(schema, known)


def test_characters_that_a_tokenizer_replaces(shipped: PreTrainedTokenizerFast) -> None:
    # The shipped tokenizer writes any script, but takes compatibility forms for what they stand for, as T5's does.
    Grammar(Schema("any", [Attribute("Ort", ("北京", "القاهرة", "Köln 😀"))]), shipped)
    with pytest.raises(
        UserError, match="of the attribute 'Size' the value 'Ｌ' comes back as 'L', without the characters Ｌ"
    ):
        Grammar(Schema("wide", [Attribute("Size", ("S", "Ｌ"))]), shipped)


@pytest.mark.parametrize("beams", [None, 1, 3, 6])
@pytest.mark.parametrize("fusion", ["xattn", "concat"])
def test_generated_profiles_have_no_faults(
    beams: int | None,
    fusion: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
) -> None:
    model = tiny_model(fusion)
    with torch.no_grad():  # a model with strong opinions about anything but the schema
        model.text.lm_head.weight.mul_(30)
    for text in model.generate(make_collator(model)(users, [build_view("fusion", "both")]), beams):
        profile, faults = model.schema.parse(text)
        assert faults == []
        assert model.schema.render(profile) == text


@pytest.mark.parametrize("vocabulary", ["full", "schema"])
@pytest.mark.parametrize(
    "attributes",
    [
        [Attribute("Meal", ("Lunch", "Dinner", "Brunch")), Attribute("Likes", ("Tea", "Cars", "Pizza"), "set", 2)],
        [
            Attribute("Budget", ("Low", "High End", "Low End")),
            Attribute("Pets", ("a", "b"), "ordered", 2, unknown=True),
        ],
    ],
)
def test_wide_beams_find_the_most_likely_profile(
    attributes: list[Attribute],
    vocabulary: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    legal_profiles: Callable[[Schema], list[Profile]],
    users: list[User],
) -> None:
    schema = Schema("tiny", attributes)
    model = tiny_model("xattn", schema=schema, vocabulary=vocabulary)
    collator, view = make_collator(model), build_view("fusion", "multi")
    profiles = legal_profiles(schema)
    chosen = set()
    for user in users:
        copies: list[Any] = [User(f"{i}", user.reviews, user.photos, (), one) for i, one in enumerate(profiles)]
        batch = collator(copies, [view])
        assert batch.labels is not None
        with torch.no_grad():
            logits = tiny_model("xattn", schema=schema)(batch).logits.double()
        if vocabulary == "schema":  # in this oracle: every token that some legal profile continues with
            for row, target in enumerate(batch.labels.tolist()):
                for place in range(sum(token >= 0 for token in target)):
                    near = [o[place] for o in batch.labels.tolist() if o[:place] == target[:place]]
                    illegal = [token for token in range(logits.shape[-1]) if token not in near]
                    logits[row, place, illegal] = -torch.inf
        logs = logits.log_softmax(-1)
        there = batch.labels >= 0
        likely = logs.gather(-1, batch.labels.clamp_min(0)[..., None])[..., 0] * there
        scores = likely.sum(1) / there.sum(1)  # transformers' length penalty of 1
        best, second = scores.topk(2).values.tolist()
        assert best - second > 1e-4
        expected = schema.render(profiles[int(scores.argmax())])
        found = model.generate(collator([User("u", user.reviews, user.photos)], [view]), len(profiles) + 1)
        assert found == [expected]
        chosen.add(expected)
    assert chosen


def llama_like(texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a blank before whatever it is given, as Llama's, Llama 2's and LLaVA's do."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_])
    tokenizer.train_from_iterator([word for text in texts for word in text.split()] * 2, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def test_a_profile_has_the_tokens_of_its_text(schema: Schema, users: list[User]) -> None:
    texts = [schema.render(user.profile or {}) for user in users]
    tokenizer = llama_like([*texts, *(f"{a.name}: {value};" for a in schema.attributes for value in a.values)])
    grammar = Grammar(schema, tokenizer)
    for user, text in zip(users, texts, strict=True):
        assert tokenizer(" x")["input_ids"] != tokenizer("x")["input_ids"]
        ids = grammar.encode(user.profile or {})
        assert ids == [*tokenizer(text, add_special_tokens=False)["input_ids"], grammar.eos]
        assert grammar.decode(ids) == text
    assert continuation_ids(tokenizer, [" ", "", " cheap"])[1:] == [[], tokenizer("cheap")["input_ids"]]
    assert continuation_ids(tokenizer, []) == []
