"""The model as a whole: equal to stock T5 without photos, blind to padding and to its neighbours, saved and loaded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views
from mmprofile.model.kernels import ATTENTION
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast

BOTH = paradigm_views("both", VIEWS)
SHORT = Schema(
    "short", [Attribute("Stars", ("1", "2", "3")), Attribute("Meal", ("Late Lunch", "Dinner", "Late Dinner"))]
)
TEXT, FUSION = build_view("text", "text"), build_view("fusion", "multi")


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def encoded(model: ProfileModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.encode(batch).hidden


@pytest.mark.parametrize("fusion", ["none", "concat", "xattn"])
def test_text_alone_is_stock_t5(
    fusion: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
    t5_folder: Path,
) -> None:
    model = tiny_model(fusion)
    stock = T5ForConditionalGeneration.from_pretrained(t5_folder, attn_implementation=ATTENTION).eval()
    for user in users:
        alone = make_collator(model)([user], [TEXT])
        expected = stock(input_ids=alone.text_ids, attention_mask=alone.text_mask.long(), labels=alone.labels)
        assert torch.equal(model(alone).logits, expected.logits)
    batch = make_collator(model)(users, [TEXT])
    expected = stock(input_ids=batch.text_ids, attention_mask=batch.text_mask.long(), labels=batch.labels)
    output = model(batch)
    close(output.logits, expected.logits, 1e-5)
    close(output.view_losses[0], expected.loss, 1e-6)
    assert batch.labels is not None
    assert output.view_tokens.tolist() == [(batch.labels >= 0).sum()]
    output.view_losses[0].backward()
    expected.loss.backward()
    for name, parameter in stock.named_parameters():
        close(model.text.get_parameter(name).grad, parameter.grad, 1e-6)
    assert all(p.grad is None for p in model.fusion.parameters())


def test_loss_over_what_the_schema_allows(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model("xattn", vocabulary="schema")
    batch = make_collator(model)(users, [FUSION, TEXT])
    output = model(batch)
    full = tiny_model("xattn")(batch)
    assert batch.labels is not None
    expected = torch.zeros(2)
    for row, target in enumerate(batch.labels.tolist()):
        ids = [token for token in target if token >= 0]
        for place, token in enumerate(ids):
            allowed = model.grammar.allowed(tuple(ids[:place]))
            shares = full.logits[row, place, allowed].softmax(0)
            expected[batch.row_view[row]] -= shares[allowed.index(token)].log()
    close(output.view_totals, expected, 1e-3)
    assert (output.view_totals < full.view_totals).all()
    output.view_losses.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with pytest.raises(UserError, match=r"decoder\.vocabulary='half' is not one of schema, full"):
        tiny_model(vocabulary="half")


@pytest.mark.parametrize("fusion", ["concat", "xattn"])
def test_segments(
    fusion: str, tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model(fusion)
    collator = make_collator(model, encoding="segments")

    def losses(some: list[User]) -> Tensor:
        with torch.no_grad():
            return model(collator(some, BOTH)).view_losses

    # The order of reviews does not matter, nor who else is in the batch; what is joint does depend on the order.
    backwards = [replace(user, reviews=user.reviews[::-1]) for user in users]
    close(losses(users), losses(backwards))
    one_by_one = torch.stack([losses([user]) for user in users])
    assert model(collator(users, BOTH)).view_tokens.unique().numel() == 1
    tokens = torch.stack([model(collator([user], BOTH)).view_tokens for user in users])
    close(losses(users), (one_by_one * tokens).sum(0) / tokens.sum(0))
    together = make_collator(model)
    assert (model(together(users, BOTH)).view_losses - model(together(backwards, BOTH)).view_losses).abs().max() > 1e-4
    # A text of one segment is the joint text.
    single = [user for user in users if len(user.reviews) == 1]
    for view in (TEXT, FUSION):
        close(encoded(model, collator(single, [view])), encoded(model, together(single, [view])))


def test_without_photos_fusion_is_text_to_the_last_bit(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model("xattn")
    batch = make_collator(model)(users, [FUSION, TEXT])
    with torch.no_grad():
        fused = model.encode(batch)
    fusion, text = (batch.row_view == v for v in (0, 1))
    hidden = fused.hidden
    assert fused.gate is not None
    assert fused.attention is not None
    for u, user in enumerate(users):
        changed = (hidden[fusion][u] - hidden[text][u])[batch.text_mask[u]].abs().amax(-1)
        if user.photos:
            assert changed.min() > 1e-3
            close(fused.attention[fusion][u].sum(-1), torch.ones(1, hidden.shape[1]))
        else:
            assert torch.equal(hidden[fusion][u], hidden[text][u])
            assert not fused.gate[fusion][u].any()
            assert not fused.attention[fusion][u].any()
    # And where nobody has a photo, or the model no eyes.
    blind = [replace(user, photos=()) for user in users]
    assert torch.equal(encoded(model, make_collator(model)(blind, [FUSION])), hidden[text])
    none = tiny_model("none")
    assert torch.equal(encoded(none, make_collator(none)(users, [FUSION])), hidden[text])


def test_without_photos_concat_reads_the_text_alone(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model("concat")
    batch = make_collator(model)(users, [FUSION, TEXT])
    with torch.no_grad():
        logits, fused = model(batch).logits, model.encode(batch)
    width = batch.text_ids.shape[1]
    rows = {u: (batch.row_user == u).nonzero().flatten().tolist() for u in range(4)}
    assert fused.hidden.shape[1] == width + 3
    for u, user in enumerate(users):
        fusion, text = rows[u]
        assert fused.mask[fusion, width:].sum() == len(user.photos)
        assert not fused.mask[text, width:].any()
        assert torch.equal(fused.hidden[fusion, :width], fused.hidden[text, :width])
        difference = (logits[fusion] - logits[text]).abs().max()
        assert difference > 1e-3 if user.photos else difference < 1e-6


@pytest.mark.parametrize(
    ("fusion", "tokens"), [("none", "cls"), ("concat", "grid"), ("xattn", "cls"), ("xattn", "grid")]
)
def test_padding_and_neighbours_change_nothing(
    fusion: str,
    tokens: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
) -> None:
    model = tiny_model(fusion, tokens)
    collator = make_collator(model)
    with torch.no_grad():
        together, fused = model(collator(users, BOTH)), model.encode(collator(users, BOTH))
        for u, user in enumerate(users):
            for v in (0, 3):
                batch = collator([user], BOTH, drawn=[v])
                alone, one = model(batch), model.encode(batch)
                row, length = 4 * u + v, batch.labels.shape[1]  # type: ignore[union-attr]
                close(together.logits[row, :length], alone.logits[0])
                close(fused.hidden[row][fused.mask[row]], one.hidden[0][one.mask[0]])
                assert alone.view_tokens.nonzero().tolist() == [[v]]
        apart = [model(collator([user], BOTH)) for user in users]
    tokens = sum(one.view_tokens for one in apart)
    assert torch.equal(together.view_tokens, tokens)
    close(together.view_losses, sum(one.view_totals for one in apart) / tokens)


@pytest.mark.parametrize(
    ("fusion", "beams"),
    [("none", None), ("none", 1), ("concat", 1), ("concat", 4), ("xattn", 1), ("xattn", 4), ("xattn", None)],
)
def test_generation_of_one_is_generation_in_a_batch(
    fusion: str,
    beams: int | None,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
) -> None:
    model = tiny_model(fusion, schema=SHORT)
    collator = make_collator(model)
    blind = [replace(user, profile=None) for user in users]
    together = model.generate(collator(blind, [FUSION]), beams)
    assert together == [model.generate(collator([user], [FUSION]), beams)[0] for user in blind]
    assert together == model.generate(collator(blind, [FUSION]), beams)  # nothing is left behind by the first call
    assert [SHORT.parse(text).faults for text in together] == [[]] * 4


def test_attention_varies_over_the_text(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    for tokens, per_photo in (("cls", 1), ("patch", 17), ("grid", 5)):
        model = tiny_model("xattn", tokens, heads=2)
        batch = make_collator(model)(users, [FUSION])
        with torch.no_grad():
            attention = model.encode(batch).attention
        assert attention is not None
        assert attention.shape == (4, 2, batch.text_ids.shape[1], 3 * per_photo)
        for u, user in enumerate(users):
            rows = attention[u][:, batch.text_mask[u]]
            keys = len(user.photos) * per_photo
            assert not rows[..., keys:].any()
            if keys > 1:
                assert (rows[:, 0] - rows[:, 1:].amax(1)).abs().max() > 1e-4
            elif keys == 1:
                assert torch.equal(rows[..., 0], torch.ones_like(rows[..., 0]))


def test_parameters_old_and_new(tiny_model: Callable[..., ProfileModel], vit_folder: Path) -> None:
    model = tiny_model("xattn")
    new, old = ({id(p) for p in part} for part in (model.new_parts(), model.pretrained_parts()))
    assert new == {id(p) for p in model.fusion.parameters()}
    assert not new & old
    assert new | old == {id(p) for p in model.parameters()}
    assert model.vision is not None
    model.vision.requires_grad_(False)
    assert {id(p) for p in model.pretrained_parts()} == {id(p) for p in model.text.parameters()}
    assert tiny_model("none").new_parts() == []
    assert tiny_model("none").transform is None
