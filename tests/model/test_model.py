"""The model as a whole: equal to stock T5 without photos, blind to padding and to its neighbours, saved and loaded."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerFast, T5ForConditionalGeneration

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views
from mmprofile.model.build import build_model, load_pretrained
from mmprofile.model.checkpoints import local_name
from mmprofile.model.decoding import SEARCH_WIDTH, Decoded
from mmprofile.model.kernels import ATTENTION
from mmprofile.model.model import ProfileModel
from mmprofile.paths import ASSETS
from mmprofile.profile.schema import Attribute, Profile, Schema
from mmprofile.train.module import joint_loss

MULTI = paradigm_views("multi", VIEWS)
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


@pytest.mark.parametrize(("fusion", "tokens"), [("none", "cls"), ("concat", "grid"), ("xattn", "patch")])
def test_saved_and_loaded(
    fusion: str,
    tokens: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
    tmp_path: Path,
) -> None:
    model = tiny_model(fusion, tokens, **({"heads": 2, "norm": "softmax"} if fusion == "xattn" else {}))
    with torch.no_grad():  # weights that no seed would give again
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "deep" / "model")
    again = load_pretrained(tmp_path / "deep" / "model")
    batch, second = (make_collator(one)(users[2:], BOTH) for one in (model, again))
    assert torch.equal(batch.text_ids, second.text_ids)
    assert torch.equal(model(batch).logits, again(second).logits)
    assert (again.schema, again.settings) == (model.schema, json.loads(json.dumps(model.settings)))
    assert not again.training
    again.save_pretrained(tmp_path / "twice")
    assert torch.equal(load_pretrained(tmp_path / "twice")(second).logits, again(second).logits)


def test_half_precision_weights_are_computed_with_in_single(
    t5_folder: Path, schema: Schema, tmp_path: Path, schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast]
) -> None:
    T5ForConditionalGeneration.from_pretrained(t5_folder).half().save_pretrained(tmp_path / "half")
    schema_tokenizer(schema).save_pretrained(tmp_path / "half")
    for pretrained in (True, False):
        model = build_model(
            text={"name": str(tmp_path / "half")},
            vision=None,
            fusion={"kind": "none"},
            schema=schema,
            inputs={},
            pretrained=pretrained,
        )
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_damaged_exports(tiny_model: Callable[..., ProfileModel], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no exported model there"):
        load_pretrained(tmp_path)
    tiny_model("concat").save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(UserError, match="damaged or missing"):
        load_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="damaged or missing"):
        load_pretrained(tmp_path)
    weights.write_bytes(whole)
    load_pretrained(tmp_path)
    good = json.loads(config.read_text())
    config.write_text(json.dumps({key: value for key, value in good.items() if key != "fusion"}))
    with pytest.raises(UserError, match="'fusion' is missing; export the model again"):
        load_pretrained(tmp_path)
    config.write_text("[]")
    with pytest.raises(UserError, match="model format None"):
        load_pretrained(tmp_path)
    config.write_text(json.dumps(good | {"format": 99}))
    with pytest.raises(UserError, match="model format 99, this version reads 1"):
        load_pretrained(tmp_path)


def test_text_models_that_cannot_be_had(tmp_path: Path, schema: Schema, t5_folder: Path) -> None:
    def build(name: str) -> None:
        build_model(text={"name": name}, vision=None, fusion={"kind": "none"}, schema=schema, inputs={})

    with pytest.raises(UserError, match=r"model\.text\.name='/no/such/folder' cannot be loaded"):
        build("/no/such/folder")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="is a bert model, which cannot write"):
        build(str(tmp_path / "bert"))
    for path in t5_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 300 if path.suffix == ".safetensors" else None])
    with pytest.raises(UserError, match="cannot be loaded"):
        build(str(tmp_path))


def test_names_inside_the_package() -> None:
    assert local_name("mmprofile:tiny/text") == str(ASSETS / "tiny" / "text")
    assert local_name("mmprofile:tiny/vision", "local-dir:") == f"local-dir:{ASSETS / 'tiny' / 'vision'}"
    assert local_name("google/flan-t5-base", "local-dir:") == "google/flan-t5-base"


def test_auxiliary_classifiers_learn_beside_the_decoder(
    t5_folder: Path, vit_folder: Path, schema: Schema, make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = auxiliary_model(t5_folder, vit_folder, schema)
    batch = make_collator(model)(users, MULTI)
    output = model(batch)
    assert output.view_auxiliary is not None
    fused = model.encode(batch)
    mean = (fused.hidden * fused.mask[..., None]).sum(1) / fused.mask.sum(1, keepdim=True)
    assert model.auxiliary is not None
    for view in range(len(MULTI)):
        losses = []
        for row in (batch.row_view == view).nonzero().squeeze(1).tolist():
            assert batch.profiles is not None
            gold = batch.profiles[int(batch.row_user[row])]
            for attribute, mlp in zip(schema.attributes, model.auxiliary.mlps, strict=True):
                logits = mlp(mean[row])
                there = torch.tensor([float(value in gold[attribute.name]) for value in attribute.values])
                if attribute.kind == "single":
                    losses.append(-logits.log_softmax(0)[int(there.argmax())])
                else:
                    losses.append(-(there * logits.sigmoid().log() + (1 - there) * (1 - logits.sigmoid()).log()).sum())
        close(output.view_auxiliary[view], 0.25 * torch.stack(losses).mean(), 1e-4)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0])
    expected = ((output.view_losses + output.view_auxiliary) * weights).sum() / 4
    close(joint_loss(output, weights), expected)
    assert {id(p) for p in model.auxiliary.parameters()} <= {id(p) for p in model.new_parts()}


def test_auxiliary_classifiers_have_their_share_of_a_prediction(
    t5_folder: Path,
    vit_folder: Path,
    schema: Schema,
    make_collator: Callable[..., Collator],
    users: list[User],
    tmp_path: Path,
) -> None:
    model = auxiliary_model(t5_folder, vit_folder, schema)
    assert model.auxiliary is not None
    batch = make_collator(model)(users, [FUSION])
    known = [{"Budget Range": ("High",)}] * len(users)

    def decode(
        share: float | Sequence[float], given: Sequence[Profile] | None = None, width: int = 10_000
    ) -> list[Decoded]:
        assert model.auxiliary is not None
        model.auxiliary.share[:] = torch.tensor(share)
        return model.decode(batch, given, width)

    for given in (None, known):
        decoder, classes = decode(0.0, given), decode(1.0, given)
        for mixed, one, other in zip(decode(0.3, given), decoder, classes, strict=True):
            assert mixed.text == schema.render(mixed.profile)
            for name, found in mixed.posteriors.items():
                assert sum(found.values()) == pytest.approx(1)
                assert list(found.values()) == sorted(found.values(), reverse=True)
                assert mixed.profile[name] == next(iter(found))
                for value, p in found.items():
                    expected = 0.7 * one.posteriors[name].get(value, 0) + 0.3 * other.posteriors[name].get(value, 0)
                    assert p == pytest.approx(expected, abs=1e-6)
            assert given is None or mixed.profile["Budget Range"] == ("High",)
    assert [one.posteriors for one in decoder] != [one.posteriors for one in classes]
    assert [one.text for one in decoder] != [one.text for one in classes]
    model.auxiliary.share[:] = 1.0
    of_beams = model.generate(batch, beams=8)
    model.auxiliary.share[:] = 0.0
    assert of_beams == model.generate(batch, beams=8)  # the decoder's alone

    shares = torch.linspace(0.1, 0.9, len(schema.names)).tolist()
    before = decode(shares)
    model.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert [one.posteriors for one in again.decode(batch, width=10_000)] == [one.posteriors for one in before]

    own, written = decode(1.0, width=SEARCH_WIDTH), decode(0.0, width=SEARCH_WIDTH)
    golds = [(own if i % 2 else written)[i].profile for i in range(len(users))]
    fitted = replace(batch, profiles=golds)
    model.fit_validation([fitted, fitted])
    spread = []
    for a, name in enumerate(schema.names):
        by_decoder, by_classes = (
            torch.tensor([one.posteriors[name].get(gold[name], 0.0) for one, gold in zip(some, golds, strict=True)])
            for some in (written, own)
        )
        tried = torch.cat([model.auxiliary.share[a : a + 1], torch.linspace(0, 1, 1001)])[:, None]
        likelihoods = ((1 - tried) * by_decoder + tried * by_classes).log().mean(1)
        close(likelihoods[0], likelihoods.max(), 1e-3)
        spread.append(float(likelihoods.max() - likelihoods.min()))
    assert max(spread) > 0.1
    before_fit = model.auxiliary.share.clone()
    model.fit_validation([replace(batch, profiles=[{}] * len(users))])  # nothing known, nothing to fit to
    assert torch.equal(model.auxiliary.share, before_fit)


def test_of_unknown_the_decoder_alone_has_an_opinion(
    vit_folder: Path, users: list[User], t5_folder_of: Callable[[Schema], str], make_collator: Callable[..., Collator]
) -> None:
    schema = Schema("pets", [Attribute("Stars", ("1", "2")), Attribute("Pet", ("cat", "dog"), unknown=True)])
    torch.manual_seed(1)
    head = {"kind": "lm", "auxiliary": 0.25}
    model = build_model(
        text={"name": t5_folder_of(schema)},
        vision=None,
        fusion={"kind": "none"},
        schema=schema,
        inputs={},
        vocabulary="schema",
        head=head,
    ).eval()
    assert model.auxiliary is not None
    batch = make_collator(model)([replace(user, profile=None) for user in users], [TEXT])
    found = []
    for share in (0.0, 1.0, 0.3):
        model.auxiliary.share[:] = share
        found.append(model.decode(batch, width=1000))
    for decoder, classes, mixed in zip(*found, strict=True):
        one, other, both = (some.posteriors["Pet"] for some in (decoder, classes, mixed))
        assert one[()] > 0.01
        assert other[()] == both[()] == pytest.approx(one[()])
        assert sum(other.values()) == pytest.approx(1)
        for value in (("cat",), ("dog",)):
            assert both[value] == pytest.approx(0.7 * one[value] + 0.3 * other[value])
    # Where dev says what the classifiers say, or the decoder, Unknown has no say in whom to believe.
    model.auxiliary.share[:] = 0.5
    golds = [
        {"Stars": one.profile["Stars"], "Pet": max(one.posteriors["Pet"].items(), key=lambda i: i[1] * bool(i[0]))[0]}
        for one in found[1]
    ]
    model.fit_validation([replace(batch, profiles=golds)])
    own, written = (
        [one.posteriors["Pet"][gold["Pet"]] for one, gold in zip(some, golds, strict=True)] for some in found[1::-1]
    )
    tried = torch.cat([model.auxiliary.share[1:], torch.linspace(0, 1, 1001)])[:, None]
    likelihoods = ((1 - tried) * torch.tensor(written) + tried * torch.tensor(own)).log().mean(1)
    close(likelihoods[0], likelihoods.max(), 1e-3)


def test_characters_that_the_tokenizer_lacks_become_tokens(tmp_path: Path) -> None:
    age = Attribute("Age", ("18-24", "65+", "K"))
    parts: dict[str, Any] = {
        "text": {"name": "mmprofile:tiny/text"},
        "vision": None,
        "fusion": {"kind": "none"},
        "inputs": {},
    }
    plain = build_model(**parts, schema=Schema("plain", [Attribute("Age", ("18-24", "25-34"))]))
    model = build_model(**parts, schema=Schema("own", [age]))
    table, before = (one.text.get_input_embeddings().weight for one in (model, plain))
    assert len(model.tokenizer) == len(table) == len(before) + 2
    assert torch.equal(table[: len(before)], before)
    assert torch.equal(table[len(before) :], before[plain.tokenizer.unk_token_id].expand(2, -1))
    model.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert again.tokenizer("65+ K")["input_ids"] == model.tokenizer("65+ K")["input_ids"]
    for value in age.values:
        assert again.schema.parse(again.grammar.decode(again.grammar.encode({"Age": (value,)}))) == (
            {"Age": (value,)},
            [],
        )


def auxiliary_model(t5_folder: Path, vit_folder: Path, schema: Schema) -> ProfileModel:
    """A small model with auxiliary classifiers, in evaluation mode."""
    vision = {"name": f"local-dir:{vit_folder}", "tokens": "cls", "grid": 2, "trainable": True}
    torch.manual_seed(1)
    head = {"kind": "lm", "auxiliary": 0.25}
    return build_model(
        text={"name": str(t5_folder)}, vision=vision, fusion={"kind": "xattn"}, schema=schema, inputs={}, head=head
    ).eval()
