"""The search against brute force: likeliest profile, posteriors, given attributes, in both vocabularies."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.views import User, build_view
from mmprofile.model.decoding import Decoded, ProfileSearch
from mmprofile.model.model import ProfileModel
from mmprofile.model.trees import Rows, T5Trees
from mmprofile.profile.grammar import Grammar
from mmprofile.profile.schema import Profile, Schema
from tests.support.oddschemas import ODD

VIEW = build_view("fusion", "multi")


def log_probabilities(model: ProfileModel, user: User, profiles: list[Profile], collator: Collator) -> list[float]:
    """Of every profile: the stock logits of all, place by place; what competes is what some profile goes on with."""
    copies = [User(f"{i}", user.reviews, user.photos, (), one) for i, one in enumerate(profiles)]
    batch: Batch = collator(copies, [VIEW])
    assert batch.labels is not None
    fused = model.encode(batch)
    logits: Tensor = model.text(
        encoder_outputs=(fused.hidden,), attention_mask=fused.mask, labels=batch.labels.clamp_min(0)
    ).logits.double()
    targets = [[token for token in row if token >= 0] for row in batch.labels.tolist()]
    found = []
    for row, target in enumerate(targets):
        total = 0.0
        for place, token in enumerate(target):
            near = sorted({other[place] for other in targets if other[:place] == target[:place]})
            rivals = logits[row, place, near] if model.settings["vocabulary"] == "schema" else logits[row, place]
            total += float(logits[row, place, token] - rivals.logsumexp(0))
        found.append(total)
    return found


def decode(
    model: ProfileModel, batch: Batch, known: Profile, states: type, width: int, tolerance: float, exact: bool
) -> list[Decoded]:
    fused = model.encode(batch)
    search = ProfileSearch(
        grammar=model.grammar,
        start=0,
        logits=model.token_logits,
        vocabulary=model.settings["vocabulary"],
        width=width,
        tolerance=tolerance,
        exact=exact,
    )
    grammar = Grammar(model.schema, model.tokenizer, known)
    return search(states(model.text, fused.hidden, fused.mask), [grammar] * len(batch.users))


@pytest.mark.parametrize("vocabulary", ["full", "schema"])
@pytest.mark.parametrize("name", ODD)
@torch.no_grad()
def test_brute_force(
    name: str,
    vocabulary: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    legal_profiles: Callable[[Schema], list[Profile]],
    users: list[User],
) -> None:
    schema = Schema(name, ODD[name])
    model = tiny_model("xattn", schema=schema, vocabulary=vocabulary)
    model.text.get_decoder().block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_(std=2)
    collator, profiles = make_collator(model), legal_profiles(schema)
    blind = [User(user.user_id, user.reviews, user.photos) for user in users]
    batch = collator(blind, [VIEW])
    for given in ({}, {schema.names[-1]: profiles[-1][schema.names[-1]]}):
        possible = [one for one in profiles if all(one[key] == value for key, value in given.items())]
        oracle = [
            dict(zip(map(str, profiles), log_probabilities(model, user, profiles, collator), strict=True))
            for user in users
        ]
        for states in (T5Trees, Rows):
            whole = decode(model, batch, given, states, 10_000, -1.0, False)  # 0 would give up what rounds to nothing
            narrow = decode(model, batch, given, states, 2, 0.3, True)
            greedy = decode(model, batch, given, states, 1, 0.3, False)
            assert all(one.exact and one.lost == 0 for one in whole)
            assert all(one.exact for one in narrow)
            assert any(one.lost > 0 for one in greedy) or len(possible) == 1
            for likely, *three in zip(oracle, whole, narrow, greedy, strict=True):
                check(schema, likely, possible, three)


@pytest.mark.parametrize("vocabulary", ["full", "schema"])
@pytest.mark.parametrize("name", ["", *ODD])
def test_a_decoded_profile_is_what_its_text_says(
    name: str,
    vocabulary: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
) -> None:
    model = tiny_model("none", schema=Schema(name, ODD[name]) if name else None, vocabulary=vocabulary)
    blind = [User(user.user_id, user.reviews, user.photos) for user in users]
    batch = make_collator(model)(blind, [VIEW])
    unknown = [attribute.name for attribute in model.schema.attributes if attribute.unknown]
    for known in (None, [dict.fromkeys(unknown, ())] * len(users)):
        for decoded in model.decode(batch, known):
            assert model.schema.parse(decoded.text) == (decoded.profile, [])
            assert list(decoded.profile) == list(model.schema.names)


def check(schema: Schema, likely: dict[str, float], possible: list[Profile], found: list[Decoded]) -> None:
    """What was found with different widths against the log-probabilities of all profiles."""
    best = max(possible, key=lambda profile: likely[str(profile)])
    mass = sum(math.exp(likely[str(profile)]) for profile in possible)
    for decoded in found:
        assert decoded.profile == best or not decoded.exact
        assert decoded.text == schema.render(decoded.profile)
        assert decoded.log_probability == pytest.approx(likely[str(decoded.profile)], abs=1e-4)
        for attribute, posterior in decoded.posteriors.items():
            assert sum(posterior.values()) == pytest.approx(1)
            for value in {profile[attribute] for profile in possible}:
                agree = sum(math.exp(likely[str(profile)]) for profile in possible if profile[attribute] == value)
                assert posterior.get(value, 0.0) == pytest.approx(agree / mass, abs=decoded.lost + 1e-5)
