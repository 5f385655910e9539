"""Classifiers beside the decoder: their loss, and their share of a prediction."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views
from mmprofile.model.build import build_model
from mmprofile.model.decoding import SEARCH_WIDTH, Decoded
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Profile, Schema
from mmprofile.train.module import joint_loss

pytestmark = pytest.mark.fast

MULTI = paradigm_views("multi", VIEWS)
TEXT, FUSION = build_view("text", "text"), build_view("fusion", "multi")


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


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
    # Unknown does not count when the share is fitted, whether the classifiers or the decoder are right.
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


def auxiliary_model(t5_folder: Path, vit_folder: Path, schema: Schema) -> ProfileModel:
    """A small model with auxiliary classifiers, in evaluation mode."""
    vision = {"name": f"local-dir:{vit_folder}", "tokens": "cls", "grid": 2, "trainable": True}
    torch.manual_seed(1)
    head = {"kind": "lm", "auxiliary": 0.25}
    return build_model(
        text={"name": str(t5_folder)}, vision=vision, fusion={"kind": "xattn"}, schema=schema, inputs={}, head=head
    ).eval()
