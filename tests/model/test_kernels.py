"""The faster kernels compute what transformers, timm and torch compute."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import NewGELUActivation
from transformers.models.t5.modeling_t5 import eager_attention_forward

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, paradigm_views
from mmprofile.model.kernels import ATTENTION, Dropout, attention, drop, speed_up
from mmprofile.model.model import ProfileModel
from mmprofile.train.module import joint_loss

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("scaling", [1.0, None])
@pytest.mark.parametrize("biases", ["none", "position", "mask", "both"])
def test_attention_is_transformers_own(scaling: float | None, biases: str) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, requires_grad=True) for n in (5, 7, 7))
    position = torch.randn(1, 3, 5, 7, requires_grad=True)
    mask = torch.zeros(2, 1, 1, 7).masked_fill(torch.arange(7) > 4, torch.finfo(torch.float32).min)
    given = {
        "position_bias": position if biases in ("position", "both") else None,
        "attention_mask": mask if biases in ("mask", "both") else None,
    }
    leaves = [query, key, value] + ([position] if given["position_bias"] is not None else [])
    module = nn.Identity()
    results = []
    for kernel in (eager_attention_forward, attention):
        states, weights = kernel(module, query, key, value, scaling=scaling, **given)
        results.append([states, weights, *torch.autograd.grad(states.square().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_attention_drops_weights_in_training_only() -> None:
    torch.manual_seed(0)
    states = [torch.randn(2, 2, 50, 8) for _ in range(3)]
    module = nn.Identity()
    plain = attention(module, *states, None)[1]
    kept = attention(module.train(), *states, None, dropout=0.25)[1]
    gone = kept == 0
    assert 0.22 < gone.float().mean() < 0.28
    torch.testing.assert_close(kept[~gone], plain[~gone] / 0.75)
    assert torch.equal(attention(module.eval(), *states, None, dropout=0.25)[1], plain)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 1 / 3, 0.99, 1.0])
def test_dropout(p: float) -> None:
    """Frequency within five standard deviations, scale, independence of neighbours, gradient."""
    torch.manual_seed(1)
    states = torch.ones(401, 997, requires_grad=True)
    found = drop(states, p)
    out = (found == 0).float()
    share = round(p * 2**16) / 2**16
    assert abs(float(out.mean()) - share) <= 5 * math.sqrt(share * (1 - share) / out.numel())
    assert torch.equal(found[found != 0], torch.full_like(found[found != 0], 1 / (1 - share) if share < 1 else 0.0))
    if 0 < share < 1:
        for step in (1, 2, 3, 4, 997):
            flat = out.flatten() - out.mean()
            correlation = (flat[step:] * flat[:-step]).mean() / flat.square().mean()
            assert abs(float(correlation)) < 0.01, step
    [gradient] = torch.autograd.grad(found.sum(), states)
    assert torch.equal(gradient, found.detach())


def test_dropout_is_seeded_and_keeps_the_dtype() -> None:
    module, states = Dropout(0.3).train(), torch.ones(1000, dtype=torch.bfloat16)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(module(states))
    assert runs[0].dtype == torch.bfloat16
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(module.eval()(states), states)
    assert torch.equal(Dropout(0.0).train()(states), states)


def test_gelu() -> None:
    states = torch.linspace(-20, 20, 4001)
    torch.testing.assert_close(F.gelu(states, approximate="tanh"), NewGELUActivation()(states), rtol=0, atol=1e-6)


def test_a_model_computes_the_same_without(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model("xattn")
    views = paradigm_views("both", VIEWS)
    batch = make_collator(model)(users, views)
    gelus = [part.act for part in model.vision.vit.modules() if isinstance(getattr(part, "act", None), nn.GELU)]  # type: ignore[union-attr]

    def run(on: bool) -> tuple[Tensor, list[Tensor]]:
        model.text.set_attn_implementation(ATTENTION if on else "eager")
        speed_up(model, on)
        model.zero_grad()
        loss = joint_loss(model(batch), torch.ones(len(views)))
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]

    fast, stock = run(True), run(False)
    assert not any(isinstance(part, Dropout) for part in model.modules())
    torch.testing.assert_close(fast[0], stock[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(fast[1], stock[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert gelus
    assert all(act.approximate == "none" for act in gelus)  # a ViT's exact GELU stays what it is
