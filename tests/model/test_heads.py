"""Classifiers in the place of a decoder: their loss, COOPNet's attention and mix, decoding, and the commands with them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views
from mmprofile.model.backbones import drop_decoder
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.model.heads import CoopNet, LateFusion, Votes
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast

BOTH = paradigm_views("both", VIEWS)
FUSION = BOTH[0]
KINDS = ("coopnet", "late_fusion")
SHORT = Schema(
    "short",
    [
        Attribute("Preferred Meal", ("Lunch", "Dinner"), unknown=True),
        Attribute("Favorite Category", ("Shopping", "Pizza", "Home Services"), "set", 2),
    ],
)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def make(t5_folder: Path, vit_folder: Path, schema: Schema) -> Callable[..., ProfileModel]:
    """``make(kind, vision=True, **options)`` -> a new random model with a head, the same each time."""

    def build(
        kind: str, vision: bool = True, schema: Schema = schema, dtype: str = "float32", **options: Any
    ) -> ProfileModel:
        tower = {"name": f"local-dir:{vit_folder}", "tokens": "cls", "grid": 2, "trainable": True}
        inputs = {"modality": "both", "reviews": 3, "photos_per_review": 1, "max_tokens": 64, "sample_seed": 0}
        torch.manual_seed(1)
        text, head = (
            {"name": str(t5_folder), "dropout": None, "dtype": dtype},
            {"kind": kind, "dropout": 0.4, **options},
        )
        return build_model(
            text=text,
            vision=tower if vision else None,
            fusion={"kind": "none"},
            schema=schema,
            inputs=inputs,
            head=head,
        ).eval()

    return build


@pytest.fixture(params=KINDS)
def model(make: Callable[..., ProfileModel], request: pytest.FixtureRequest) -> ProfileModel:
    return make(request.param)


def votes_of(model: ProfileModel, batch: Batch) -> Votes:
    """What the head says in a pass of the model."""
    assert model.head is not None
    found: list[Votes] = []
    hook = model.head.register_forward_hook(lambda _, __, votes: found.append(votes))
    with torch.no_grad():
        model(batch)
    hook.remove()
    return found[0]


def test_loss_is_each_parts_cross_entropy_summed(
    model: ProfileModel, make_collator: Callable[..., Collator], users: list[User], schema: Schema
) -> None:
    some = [replace(users[0], profile={**users[0].profile, "Preferred Meal": ()}), *users[1:]]  # type: ignore[dict-item]
    batch = make_collator(model)(some, BOTH)
    output, votes = model(batch), votes_of(model, batch)
    expected = torch.zeros(4)
    for row, logits in enumerate(votes.logits):
        user, view = some[batch.row_user[row]], int(batch.row_view[row])
        heard = [True, bool(user.photos) and BOTH[view].photos != "none", True][: len(logits)]
        assert votes.heard[row].tolist() == heard[: len(logits)] if len(logits) > 1 else votes.heard[row].all()
        for part, there in zip(logits, heard if len(logits) > 1 else [True], strict=True):
            at = 0
            for attribute in schema.attributes:
                gold = [attribute.values.index(value) for value in user.profile[attribute.name]]  # type: ignore[index]
                own = part[at : (at := at + len(attribute.values))]
                if attribute.kind == "single" and gold and there:
                    expected[view] += F.cross_entropy(own[None], torch.tensor(gold))
                elif attribute.kind == "set" and there:
                    expected[view] -= sum(F.logsigmoid(x if i in gold else -x) for i, x in enumerate(own))
    close(output.view_totals, expected, 1e-4)
    assert output.view_tokens.tolist() == [23] * 4  # four users, six attributes, one of them unknown
    assert output.logits is None
    # A user's unknown attribute is of no matter to its classifier.
    model.zero_grad()
    nothing = replace(users[0], profile=dict.fromkeys(schema.names, ()))
    model(make_collator(model)([nothing], BOTH)).view_totals.sum().backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_views_padding_and_neighbours(
    model: ProfileModel, make_collator: Callable[..., Collator], users: list[User]
) -> None:
    collator = make_collator(model)
    with torch.no_grad():
        together = model(collator(users, BOTH))
        apart = [[model(collator([user], BOTH, drawn=[v])) for user in users] for v in range(4)]
    expected = [sum(one.view_totals[v] for one in some) for v, some in enumerate(apart)]
    close(together.view_totals, torch.stack(expected), 1e-4)
    assert together.view_tokens.tolist() == [24] * 4
    assert len({round(total.item(), 3) for total in together.view_totals}) == 4  # the views do differ
    blind = [replace(user, profile=None) for user in users]
    decoded = model.decode(collator(blind, [FUSION]))
    for one, user in zip(decoded, blind, strict=True):
        [alone] = model.decode(collator([user], [FUSION]))
        assert alone.text == one.text == model.generate(collator([user], [FUSION]), 4)[0]
        assert alone.log_probability == pytest.approx(one.log_probability, abs=1e-5)


def test_coopnet_by_hand(schema: Schema) -> None:
    torch.manual_seed(0)
    head = CoopNet(schema, 8, 6).eval()
    hidden, visual = torch.randn(3, 5, 8), torch.randn(3, 4, 6)
    lengths, counts = (5, 2, 3), (4, 0, 2)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    visual_mask = torch.arange(4) < torch.tensor(counts)[:, None]
    votes = head(hidden, mask, visual, visual_mask)
    tga = head.attention
    for row, (n, k) in enumerate(zip(lengths, counts, strict=True)):
        text, seen = hidden[row, :n].mean(0), torch.zeros(8)
        if k:
            scores = tga.key.weight @ visual[row, :k].T
            weights = (tga.query.weight @ text @ scores / math.sqrt(8)).softmax(0)
            seen = tga.value.weight @ (weights @ visual[row, :k])
        joint = torch.tanh(head.bridge[0](torch.cat([text, seen])))
        for part, (classify, state) in enumerate([(head.text, text), (head.vision, seen), (head.joint, joint)]):
            close(votes.logits[row, part], classify[2](F.layer_norm(state, [8])))
        assert votes.heard[row].tolist() == [True, k > 0, True]


def test_text_guides_the_attention(
    make: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = make("coopnet")
    for photos in (users[0].photos, users[0].photos[:1]):
        same = [replace(user, photos=photos, captions=(None,) * len(photos)) for user in users]
        vision = votes_of(model, make_collator(model)(same, [FUSION])).logits[:, 1]
        spread = (vision - vision[0]).abs().max()
        assert spread > 1e-4 if len(photos) > 1 else spread < 1e-6


def test_without_photos_the_part_for_vision_says_nothing(
    make: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = make("coopnet")
    assert isinstance(model.head, CoopNet)
    model.head.mix[:] = torch.tensor([0.2, 0.7, 0.1])
    collator = make_collator(model)
    batch = collator(users, [FUSION])
    own, mixed = model.head.shares(votes_of(model, batch)), model.head.probabilities(votes_of(model, batch))
    for parts, found in zip(own, mixed, strict=True):
        close(found[1], (0.2 * parts[1, 0] + 0.1 * parts[1, 2]) / 0.3, 1e-7)
        close(found[0], 0.2 * parts[0, 0] + 0.7 * parts[0, 1] + 0.1 * parts[0, 2], 1e-7)
    model(collator(users[1:2], [FUSION])).view_totals.sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.head.vision.parameters())
    assert all(p.grad.any() for p in model.head.joint.parameters() if p.dim() > 1)
    before = model.decode(batch)
    with torch.no_grad():
        model.head.vision[2].weight.normal_()
    after = model.decode(batch)
    assert [a.posteriors == b.posteriors for a, b in zip(after, before, strict=True)] == [False, True, False, False]
    # Nobody has a photo, or a view shows none.
    blind = [replace(user, photos=(), captions=()) for user in users]
    text = model.decode(collator(users, [build_view("text", "both")]))
    assert [one.text for one in model.decode(collator(blind, [FUSION]))] == [one.text for one in text]


def test_late_fusion_by_hand(schema: Schema) -> None:
    torch.manual_seed(0)
    head = LateFusion(schema, 8, 6).eval()
    hidden, visual = torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    mask, visual_mask = torch.arange(5) < torch.tensor([[3], [5]]), torch.arange(4) < torch.tensor([[2], [0]])
    votes = head(hidden, mask, visual, visual_mask)
    states = torch.cat([hidden[0, :3].mean(0), visual[0, :2].mean(0)]), torch.cat([hidden[1].mean(0), torch.zeros(6)])
    for row, state in enumerate(states):
        close(votes.logits[row, 0], torch.cat([mlp[3](F.gelu(mlp[0](state))) for mlp in head.mlps]))
    assert votes.heard.tolist() == [[True], [True]]


def test_decoding(
    model: ProfileModel, make_collator: Callable[..., Collator], users: list[User], schema: Schema
) -> None:
    batch = make_collator(model)([replace(user, profile=None) for user in users], [FUSION])
    for one in model.decode(batch):
        assert list(one.posteriors) == list(schema.names)
        assert schema.parse(one.text) == (one.profile, [])
        assert (one.lost, one.exact) == (0.0, True)
        for name, shares in one.posteriors.items():
            assert sum(shares.values()) == pytest.approx(1)
            assert one.profile[name] == max(shares, key=lambda values: shares[values])
        best = [max(shares.values()) for shares in one.posteriors.values()]
        assert one.log_probability == pytest.approx(math.log(math.prod(best)))


def test_known_values_are_kept(
    make: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User], schema: Schema
) -> None:
    model = make("coopnet")
    batch = make_collator(model)([replace(user, profile=None) for user in users[:2]], [FUSION])
    plain = model.decode(batch)
    stars = min(plain[0].posteriors["Stars"], key=lambda values: plain[0].posteriors["Stars"][values])
    given = {"Stars": stars, "Favorite Category": ("Pizza", "Shopping")}
    found = model.decode(batch, [given, {}])
    assert found[0].profile == {**plain[0].profile, "Stars": stars, "Favorite Category": ("Shopping", "Pizza")}
    assert found[0].posteriors["Stars"] == {stars: 1.0}
    assert found[0].posteriors["Preferred Meal"] == plain[0].posteriors["Preferred Meal"]
    lost = plain[0].posteriors["Stars"][stars] / max(plain[0].posteriors["Stars"].values())
    sets = plain[0].posteriors["Favorite Category"]
    lost *= sets["Shopping", "Pizza"] / max(sets.values())
    assert found[0].log_probability == pytest.approx(plain[0].log_probability + math.log(lost))
    assert found[1] == plain[1]
    for wrong, says in (({"Star": ("1",)}, "'Star' is not an attribute"), ({"Stars": ("9",)}, "'9' is not one of")):
        with pytest.raises(UserError, match=says):
            model.decode(batch, [wrong, {}])


def test_unknown_can_be_given_and_is_never_said(
    make: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = make("late_fusion", schema=SHORT)
    batch = make_collator(model)([replace(user, profile=None) for user in users], [FUSION])
    plain = model.decode(batch)
    assert all(() not in one.posteriors["Preferred Meal"] and one.profile["Preferred Meal"] for one in plain)
    found = model.decode(batch, [{"Preferred Meal": ()}] * 4)
    for one, before in zip(found, plain, strict=True):
        assert one.profile == {**before.profile, "Preferred Meal": ()}
        assert one.posteriors["Preferred Meal"] == {(): 1.0}
        assert one.log_probability == pytest.approx(math.log(max(before.posteriors["Favorite Category"].values())))


def test_saved_and_loaded(
    model: ProfileModel, make_collator: Callable[..., Collator], users: list[User], tmp_path: Path
) -> None:
    assert model.head is not None
    with torch.no_grad():  # weights that no seed would give again
        for weights in (*model.parameters(), model.head.mix):
            weights += 0.01 * torch.rand_like(weights)
    model.save_pretrained(tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    assert torch.equal(again.head.mix, model.head.mix)  # type: ignore[union-attr]
    batch = make_collator(model)(users, BOTH)
    assert torch.equal(model(batch).view_totals, again(batch).view_totals)
    plain = make_collator(again)(users, [FUSION])
    assert again.decode(plain) == model.decode(plain)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert not any("decoder" in name or "lm_head" in name for name in file.keys())  # noqa: SIM118
    assert again.settings == json.loads(json.dumps(model.settings))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_what_only_writes_is_dropped(family: str, tied: bool) -> None:
    torch.manual_seed(0)
    if family == "t5":
        size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        text = T5ForConditionalGeneration(T5Config(vocab_size=50, tie_word_embeddings=tied, **size)).eval()
    else:
        size = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32}
        config = BartConfig(vocab_size=50, tie_word_embeddings=tied, encoder_attention_heads=2, **size)
        text = BartForConditionalGeneration(config).eval()
    encoder, ids = text.get_encoder(), torch.tensor([[3, 4, 5, 1]])
    expected, needed = encoder(ids).last_hidden_state, {id(p) for p in encoder.parameters()}
    drop_decoder(text)
    assert {id(p) for p in text.parameters()} == needed
    embedded = text.get_encoder().get_input_embeddings()(ids)
    assert torch.equal(text.get_encoder()(inputs_embeds=embedded).last_hidden_state, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(
    kind: str, make: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    plain, half = make(kind), make(kind, dtype="bfloat16")
    for views in ([FUSION], [build_view("text", "both")]):
        batch = make_collator(plain)(users, views)
        expected, found = plain(batch).view_losses, half(batch).view_losses
        with torch.autocast("cpu", torch.bfloat16):
            mixed = plain(batch).view_losses
        for losses in (found, mixed):
            assert losses.dtype is torch.float32
            close(losses, expected, 0.05)
            assert not torch.equal(losses, expected)


def test_parameters_are_trained_or_not_there(
    model: ProfileModel, make_collator: Callable[..., Collator], users: list[User]
) -> None:
    assert model.head is not None
    new, old = ({id(p) for p in part} for part in (model.new_parts(), model.pretrained_parts()))
    assert new == {id(p) for p in model.head.parameters()}
    assert not new & old
    assert new | old == {id(p) for p in model.parameters()}
    model(make_collator(model)(users, BOTH)).view_losses.sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert [name for name in idle if not name.startswith("vision.")] == []


def test_a_model_with_a_decoder_has_nothing_to_fit(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model("xattn")
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    model.fit_validation([make_collator(model)(users, [FUSION])])
    assert model.head is None
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_late_fusion_of_text_alone(
    make: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = make("late_fusion", vision=False)
    assert model.transform is None
    batch = make_collator(model)(users, [build_view("text", "text")])
    assert model(batch).view_totals > 0
    assert len(model.decode(batch)) == 4


def test_what_does_not_fit(make: Callable[..., ProfileModel]) -> None:
    def one(**attribute: Any) -> Schema:
        return Schema("one", [Attribute("Likes", **attribute)])

    with pytest.raises(UserError, match=r"attribute 'Likes' is ordered, which needs model.head=lm"):
        make("late_fusion", schema=one(values=("a", "b"), kind="ordered", size=2))
    with pytest.raises(UserError, match=r"attribute 'Likes' has 155117520 possible sets"):
        make("coopnet", schema=one(values=tuple(f"v{i}" for i in range(30)), kind="set", size=15))
    with pytest.raises(UserError, match=r"attribute 'Likes' has 65536 possible sets"):
        make("coopnet", schema=one(values=tuple(f"v{i}" for i in range(16)), kind="set", size=16, min_size=0))
    with pytest.raises(UserError, match=r"model.head=coopnet looks at photos: choose a paradigm with them"):
        make("coopnet", vision=False)
    with pytest.raises(UserError, match=r"model.options of model.head=coopnet: dropout, from 0 to below 1"):
        make("coopnet", droput=0.1)
    with pytest.raises(UserError, match=r"model.options of model.head=late_fusion: dropout"):
        make("late_fusion", dropout=1.0)
