"""Models that write each attribute apart (OD-TUP), against decoding each one by hand."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import User
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from tests.support.hubmodels import TEXT, answer, close, row_ids

pytestmark = pytest.mark.fast


def test_each_attribute_is_asked_for_by_its_name(
    hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User], schema: Schema
) -> None:
    model, plain = hub_model("bart", target="attributes"), hub_model("bart", target="prompted")
    batch, one = collate(model, users, TEXT), collate(plain, users, TEXT)
    assert len(batch.row_user) == len(users) * len(schema.names) == len(one.row_user) * len(schema.names)
    for row, (u, a) in enumerate(zip(batch.row_user.tolist(), batch.row_attribute.tolist(), strict=True)):
        name = schema.names[a]
        assert f"attribute: {name}" in model.tokenizer.decode(row_ids(batch, row))
        parsed = schema.parse(model.grammar.decode(answer(batch, row))).profile
        assert parsed == {n: users[u].profile[n] if n == name else () for n in schema.names}
    assert all(
        f"attributes: {', '.join(schema.names)}" in plain.tokenizer.decode(row_ids(one, r)) for r in range(len(users))
    )
    found, texts = model.decode(batch, width=64), model.generate(batch)
    for u, decoded in enumerate(found):
        parts = []
        for a, grammar in enumerate(model.grammar.parts):  # each alone, with a model that knows no other attribute
            rows = [r for r in range(len(batch.row_user)) if (batch.row_user[r], batch.row_attribute[r]) == (u, a)]
            ids = torch.tensor([row_ids(batch, rows[0])])
            states = [  # texts are encoded apart: prompt, then each review
                model.text.get_encoder()(input_ids=torch.tensor([piece])).last_hidden_state
                for piece in split(ids[0].tolist(), 1)
            ]
            assert len(states) == 1 + len(users[u].reviews)
            scored = []
            for value in all_values(schema, a):
                target = grammar.encode({schema.names[a]: value})
                logits = model.text(
                    encoder_outputs=(torch.cat(states, 1),), labels=torch.tensor([target])
                ).logits.log_softmax(-1)[0]
                scored.append((logits[range(len(target)), target].sum().item(), value))
            parts.append(max(scored)[1])
        assert decoded.profile == dict(zip(schema.names, parts, strict=True))
        assert decoded.text == schema.render(decoded.profile)
        assert schema.parse(texts[u]).faults == []
        assert set(decoded.posteriors) == set(schema.names)
    total = model(batch).view_totals
    per_attribute = [model(collate(model, [user], TEXT)).view_totals for user in users]
    close(total, torch.stack(per_attribute).sum(0), 1e-4)


def split(ids: list[int], end: int) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    for token in ids:
        pieces[-1].append(token)
        if token == end:
            pieces.append([])
    return pieces[:-1]


def all_values(schema: Schema, number: int) -> list[tuple[str, ...]]:
    attribute = schema.attributes[number]
    return list(combinations(attribute.values, attribute.size))


def test_beams_write_each_attribute_too(
    hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = hub_model("bart", target="attributes")
    batch = collate(model, users, TEXT)
    for text, found in zip(model.generate(batch, 8), model.decode(batch), strict=True):
        profile, faults = model.schema.parse(text)
        assert faults == []
        for name in model.schema.names:  # categories differ in length, by which beams are normalised
            assert name == "Favorite Category" or profile[name] == found.profile[name]
