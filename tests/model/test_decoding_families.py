"""Writing profiles with the tokenizer of every published family: the grammar, the exact search and beams against brute force."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import Masking, User, build_view
from mmprofile.model.build import build_model
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Profile, Schema
from tests.model.test_decoding import check
from tests.support.hubmodels import row_ids
from tests.support.published import PUBLISHED
from tests.support.published.chain import OF_TOKENIZER
from tests.support.published.tokenizers import default_texts

FAMILIES = [family for family in OF_TOKENIZER if family != "llava"]  # which writes as Llama does
SCHEMAS = {
    "yelp": [
        Attribute("Stars", ("1", "5")),
        Attribute("Favorite Category", ("Event Planning & Services", "Pizza", "Coffee & Tea"), "set", 2),
        Attribute("Preferred Meal", ("Breakfast", "Brunch")),
        Attribute("Service Preference", ("True", "False")),
    ],
    "prefixes": [
        Attribute("Place", ("Tea", "Tea House", "Teahouse"), unknown=True),
        Attribute("Place Liked", ("Tea", "House", "Tea House"), "ordered", 2),
    ],
    "marks": [
        Attribute("Age", ("18-24", "18-34", "<5"), unknown=True),
        Attribute("Stars 4.5", ("4.5", "4.5+")),
        Attribute("R&B", ("R&B", "R & B", "B"), "set", 2, unknown=True),
    ],
    "accents": [
        Attribute("Café", ("Café", "Cafe", "Crème brûlée")),
        Attribute("料理", ("寿司", "寿司屋", "お好み焼き"), "ordered", 2, unknown=True),
    ],
}
T5_KNOWS = ("Café, Crème brûlée", "18-24, 4.5+")  # but neither "<" nor Japanese
VIEW = build_view("text", "text")
USERS = [
    User("a", ("The soup was warm, the Café naïve.", "Ramen 寿司 🍜🍣!")),
    User("b", ("We paid $4.50 & left",)),
]
INPUTS: Any = {"modality": "text", "reviews": 3, "photos_per_review": 1, "max_tokens": 96, "encoding": "joint"}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], ProfileModel]:
    """``model_of(family, schema, vocabulary)`` -> a random model of the family's checkpoint, in evaluation mode."""

    @cache
    def folder(family: str) -> Path:
        path = tmp_path_factory.mktemp(family)
        published = replace(PUBLISHED[OF_TOKENIZER[family]], tokenizer=family)
        texts = (
            T5_KNOWS if family == "t5" else [f"{a.name}: {v}, {v};" for a in chain(*SCHEMAS.values()) for v in a.values]
        )
        published.save(published, path, (*default_texts(), *texts), 0)
        return path

    @cache
    def build(family: str, schema: str, vocabulary: str) -> ProfileModel:
        model = build_model(
            text={"name": str(folder(family)), "dropout": 0.0, "instruction": "Read this: ", "answer": " Profile:"},
            vision=None,
            fusion={"kind": "none"},
            schema=Schema(schema, SCHEMAS[schema]),
            inputs=INPUTS,
            vocabulary=vocabulary,
        )
        torch.manual_seed(1)
        with torch.no_grad():  # new tokens begin alike: their values would be as likely as each other
            for table in (model.text.get_input_embeddings(), model.text.get_output_embeddings()):
                table.weight += 0.1 * torch.randn_like(table.weight)
        return model.eval()

    return build


def batch_of(model: ProfileModel) -> Batch:
    return model.collator(INPUTS, None, Masking(), 0)(USERS, [VIEW])


def followers(targets: list[list[int]]) -> dict[tuple[int, ...], set[int]]:
    """Beginning of a target -> the tokens that may follow it."""
    following: dict[tuple[int, ...], set[int]] = {}
    for target in targets:
        for place, token in enumerate(target):
            following.setdefault(tuple(target[:place]), set()).add(token)
    return following


@torch.no_grad()
def log_likelihoods(model: ProfileModel, batch: Batch, row: int, targets: list[list[int]]) -> list[float]:
    """The log-probability of each target after what a row reads, by transformers alone."""
    ids = row_ids(batch, row)
    labels = [torch.tensor(target) for target in targets]
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
    if model.causal:
        prompt = torch.tensor([*ids, model.start]).expand(len(targets), -1)
        logits = model.text(input_ids=torch.cat([prompt, padded], 1), use_cache=False).logits
        logits = logits[:, prompt.shape[1] - 1 : -1]
    else:
        start = torch.full_like(padded[:, :1], model.text.config.decoder_start_token_id)
        read = torch.tensor(ids).expand(len(targets), -1)
        logits = model.text(input_ids=read, decoder_input_ids=torch.cat([start, padded[:, :-1]], 1)).logits
    logits = logits.double()
    following = followers(targets)
    totals = []
    for i, target in enumerate(targets):
        total = 0.0
        for place, token in enumerate(target):
            rivals = logits[i, place]
            if model.settings["vocabulary"] == "schema":
                rivals = rivals[sorted(following[tuple(target[:place])])]
            total += float(logits[i, place, token] - rivals.logsumexp(0))
        totals.append(total)
    return totals


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_profile_comes_back_from_its_tokens(
    family: str, schema: str, model_of: Callable[..., ProfileModel], legal_profiles: Callable[[Schema], list[Profile]]
) -> None:
    """A profile's tokens are those of its text behind other text; no two profiles have the same."""
    model = model_of(family, schema, "schema")
    grammar, tokenizer, profiles = model.grammar, model.tokenizer, legal_profiles(model.schema)
    targets = [grammar.encode(profile) for profile in profiles]
    assert len(set(map(tuple, targets))) == len(profiles)
    front = tokenizer("x:", add_special_tokens=False)["input_ids"]
    for profile, target in zip(profiles, targets, strict=True):
        text = model.schema.render(profile)
        assert target[-1] == grammar.eos
        assert tokenizer.unk_token_id not in target
        assert model.schema.parse(grammar.decode(target)) == (profile, [])
        assert grammar.decode(target) == text
        whole = tokenizer(f"x: {text}", add_special_tokens=False)["input_ids"]
        assert [*front, *target[:-1]] == whole
        assert grammar.moves(grammar.walk(target) or 0) == {}
        assert len(target) <= grammar.max_tokens


@pytest.mark.parametrize(
    ("schema", "vocabulary"),
    [
        ("yelp", "full"),
        ("prefixes", "schema"),
        ("prefixes", "full"),
        ("marks", "schema"),
        ("accents", "schema"),
        ("accents", "full"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_search_and_beams_are_brute_force(
    family: str,
    schema: str,
    vocabulary: str,
    model_of: Callable[..., ProfileModel],
    legal_profiles: Callable[[Schema], list[Profile]],
) -> None:
    model = model_of(family, schema, vocabulary)
    profiles, batch = legal_profiles(model.schema), batch_of(model)
    targets = [model.grammar.encode(profile) for profile in profiles]
    likely = [
        dict(zip(map(str, profiles), log_likelihoods(model, batch, row, targets), strict=True))
        for row in range(len(USERS))
    ]
    whole = model.decode(batch, width=10_000, exact=True)
    narrow = model.decode(batch, width=2, exact=True)
    for scores, *decoded in zip(likely, whole, narrow, strict=True):
        assert all(one.exact for one in decoded)
        check(model.schema, scores, profiles, decoded)
    for scores, text in zip(likely, model.generate(batch, beams=len(profiles)), strict=True):
        best, _ = max(zip(profiles, targets, strict=True), key=lambda pair: scores[str(pair[0])] / len(pair[1]))
        assert text == model.schema.render(best)
    parsed = [model.schema.parse(text) for text in model.generate(batch, beams=5)]
    assert all(faults == [] for _, faults in parsed)
    ids, score = stock_beams(model, row_ids(batch, 1), targets, 5)
    assert ids == model.grammar.encode(parsed[1].profile)
    assert score == pytest.approx(likely[1][str(parsed[1].profile)] / len(ids), abs=1e-4)


@torch.no_grad()
def stock_beams(model: ProfileModel, read: list[int], targets: list[list[int]], beams: int) -> tuple[list[int], float]:
    """The target that transformers writes after what was read, alone in a batch, and its score: the mean over its tokens."""
    following = followers(targets)
    ids = torch.tensor([[*read, model.start] if model.causal else read])
    skip = ids.shape[1] if model.causal else 1
    generated = model.text.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=max(map(len, targets)),
        prefix_allowed_tokens_fn=lambda _, ids: sorted(following.get(tuple(ids.tolist()[skip:]), {model.grammar.eos})),
        renormalize_logits=model.settings["vocabulary"] == "schema",
        pad_token_id=model.grammar.eos,
        eos_token_id=model.grammar.eos,
        decoder_start_token_id=None if model.causal else model.start,
        return_dict_in_generate=True,
        output_scores=True,
    )
    written = generated.sequences[0, skip:].tolist()
    return written[: written.index(model.grammar.eos) + 1], float(generated.sequences_scores[0])
