"""The search against brute force: likeliest profile, posteriors, given attributes, in both vocabularies."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmprofile.batch import Batch, Collator
from mmprofile.decoding import Decoded, Rows, Search, T5Trees
from mmprofile.grammar import Grammar
from mmprofile.model import ProfileModel
from mmprofile.profile import Attribute, Profile, Schema
from mmprofile.views import User, build_view

SCHEMAS = {
    "prefixes": [
        Attribute("Budget", ("Low", "Low End", "Low End Shop", "High")),
        Attribute("Budget Range", ("Low", "End", "Low End"), unknown=True),
    ],
    "sets": [
        Attribute("Likes", ("Pizza", "Coffee & Tea", "Tea", "Cars"), "set", 2),
        Attribute("Meal", ("Lunch", "Dinner"), unknown=True),
        Attribute("Hates", ("Tea", "Cars", "Pizza"), "set", 3),
    ],
    "ordered": [
        Attribute("First", ("1", "2", "12"), "ordered", 2, unknown=True),
        Attribute("Last", ("a", "b", "a b", "b a"), "ordered", 3),
    ],
    "one": [Attribute("Stars", ("1", "2", "3"))],
}
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
    model: ProfileModel, batch: Batch, known: Profile, width: int, tolerance: float, states: type = T5Trees
) -> list[Decoded]:
    fused = model.encode(batch)
    search = Search(model.grammar, 0, model.token_logits, model.settings["vocabulary"], width, tolerance)
    grammar = Grammar(model.schema, model.tokenizer, known)
    return search(states(model.text, fused.hidden, fused.mask), [grammar] * len(batch.users))


@pytest.mark.parametrize("vocabulary", ["full", "schema"])
@pytest.mark.parametrize("name", SCHEMAS)
@torch.no_grad()
def test_brute_force(
    name: str,
    vocabulary: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    legal_profiles: Callable[[Schema], list[Profile]],
    users: list[User],
) -> None:
    schema = Schema(name, SCHEMAS[name])
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
            exact = decode(model, batch, given, 10_000, 0.0, states)
            narrow = decode(model, batch, given, 2, 0.3, states)
            for likely, one, quick in zip(oracle, exact, narrow, strict=True):
                best = max(possible, key=lambda profile: likely[str(profile)])
                assert one.lost == 0
                mass = sum(math.exp(likely[str(profile)]) for profile in possible)
                for attribute, posterior in one.posteriors.items():
                    for value, share in posterior.items():
                        agree = [likely[str(p)] for p in possible if p[attribute] == value]
                        assert share == pytest.approx(sum(map(math.exp, agree)) / mass, abs=1e-5)
                        assert quick.posteriors[attribute].get(value, 0.0) == pytest.approx(
                            share, abs=quick.lost + 1e-5
                        )
                    assert sum(posterior.values()) == pytest.approx(1)
                for found in (one, quick):
                    assert found.profile == best
                    assert found.text == schema.render(best)
                    assert found.log_probability == pytest.approx(likely[str(best)], abs=1e-4)
