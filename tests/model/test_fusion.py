"""Fusion against oracles: sparsemax by bisection, equations 6 to 8 by hand, and rows without photos."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmprofile.errors import UserError
from mmprofile.model.fusion import Concat, CrossAttention, NoFusion, TextGuidedAttention, build_fusion

pytestmark = pytest.mark.fast

R, N, V, D, DV = 3, 5, 4, 8, 6
MASK = torch.tensor([[True, True, True, True], [True, False, True, False], [False] * 4])


@pytest.fixture
def states() -> tuple[Tensor, Tensor, Tensor]:
    """Text states, text mask, visual tokens."""
    generator = torch.Generator().manual_seed(0)
    hidden, visual = (torch.randn(R, n, d, generator=generator) for n, d in ((N, D), (V, DV)))
    return hidden, torch.ones(R, N, dtype=torch.bool), visual


def projection(scores: np.ndarray) -> np.ndarray:
    """The point of the simplex nearest to ``scores``: max(z - tau, 0) with the tau, by bisection, that makes it sum to 1."""
    low, high = scores.min() - 1.0, scores.max()
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if np.maximum(scores - tau, 0).sum() > 1 else (low, tau)
    return np.maximum(scores - (low + high) / 2, 0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("shape", [(2, 1, 7, 5), (3, 2, 4, 49), (2, 1, 3, 1), (2, 1, 3, 300)])
def test_sparsemax_is_the_projection_onto_the_simplex(scale: float, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = scale * torch.randn(shape, generator=generator)
    mask = torch.rand(shape[0], shape[-1], generator=generator) < 0.7
    mask[0], mask[1] = True, False
    weights = TextGuidedAttention(D, DV).weights(scores, mask).double().numpy()
    for index in np.ndindex(*shape[:3]):
        there = mask[index[0]].numpy()
        expected = np.zeros(shape[-1])
        if there.any():
            expected[there] = projection(scores[index].double().numpy()[there])
        np.testing.assert_allclose(weights[index], expected, atol=1e-6 * max(1.0, scale))
        assert not weights[index][~there].any()
    if scale >= 10 and shape[-1] > 1:
        assert (weights[0] == 0).any()  # sparse, which softmax never is


def test_softmax_variant() -> None:
    scores = torch.randn(R, 2, N, V, generator=torch.Generator().manual_seed(2))
    weights = TextGuidedAttention(D, DV, 2, "softmax").weights(scores, MASK).double()
    for row in range(R):
        there = MASK[row]
        exp = scores[row].double()[..., there].exp()
        torch.testing.assert_close(weights[row][..., there], exp / exp.sum(-1, keepdim=True), atol=1e-6, rtol=0)
        assert not weights[row][..., ~there].any()


@pytest.mark.parametrize("norm", ["sparsemax", "softmax"])
def test_rows_sum_to_one_even_in_bfloat16(states: tuple[Tensor, Tensor, Tensor], norm: str) -> None:
    torch.manual_seed(0)
    hidden, _, visual = (part.bfloat16() for part in states)
    attended, weights = TextGuidedAttention(D, DV, 2, norm).bfloat16()(20 * hidden, visual, MASK)
    assert (attended.dtype, weights.dtype) == (torch.bfloat16, torch.float32)
    sums = weights.sum(-1)
    torch.testing.assert_close(sums[:2], torch.ones_like(sums[:2]), atol=1e-5, rtol=0)
    assert not sums[2].any()


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("gate", ["tanh", "sigmoid"])
def test_equations_6_to_8_by_hand(states: tuple[Tensor, Tensor, Tensor], heads: int, gate: str) -> None:
    torch.manual_seed(3)
    hidden, mask, visual = states
    module = CrossAttention(D, DV, heads, gate=gate).double()
    for weight in module.ffn.parameters():  # which starts as the identity
        nn.init.normal_(weight)
    part = {name: value.detach().numpy() for name, value in module.named_parameters()}
    fused = module(hidden.double(), mask, visual.double(), MASK)
    size = D // heads
    for row in range(R):
        text, image = hidden[row].double().numpy(), visual[row].double().numpy()
        there = MASK[row].numpy()
        if not there.any():
            assert torch.equal(fused.hidden[row], hidden[row].double())
            assert not fused.gate[row].any()
            continue
        query, key, value = (
            x @ part[f"attention.{name}.weight"].T for name, x in (("query", text), ("key", image), ("value", image))
        )
        attended = np.zeros((N, D))
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            for n in range(N):
                weights = projection((key[there, cut] @ query[n, cut]) / math.sqrt(size))
                attended[n, cut] = weights @ value[there, cut]
                np.testing.assert_allclose(fused.attention[row, head, n, MASK[row]].detach(), weights, atol=1e-6)
        inner = np.maximum(attended @ part["ffn.0.weight"].T + part["ffn.0.bias"], 0)
        star = inner @ part["ffn.2.weight"].T + part["ffn.2.bias"]
        mixed = text @ part["gate_text.weight"].T + star @ part["gate_visual.weight"].T
        opened = np.tanh(mixed) if gate == "tanh" else 1 / (1 + np.exp(-mixed))
        np.testing.assert_allclose(fused.visual[row].detach(), star, atol=1e-6)
        np.testing.assert_allclose(fused.gate[row].detach(), opened, atol=1e-6)
        np.testing.assert_allclose(fused.hidden[row].detach(), text + opened * star, atol=1e-6)
    assert fused.mask is mask


def test_photos_reach_the_gate_unchanged_before_training(states: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, mask, visual = states
    module = CrossAttention(D, DV)
    attended, _ = module.attention(hidden, visual, MASK)
    assert torch.equal(module(hidden, mask, visual, MASK).visual, attended)


def test_attention_looks_elsewhere_from_each_position_when_there_is_a_choice(
    states: tuple[Tensor, Tensor, Tensor],
) -> None:
    torch.manual_seed(4)
    hidden, mask, visual = states
    module = CrossAttention(D, DV)
    weights = module(hidden, mask, visual, MASK).attention
    assert weights.shape == (R, 1, N, V)
    for row in range(2):
        assert (weights[row, 0, 0] - weights[row, 0, 1:]).abs().amax(-1).min() > 1e-3
    # One key, or one key that is there: nothing to choose from.
    for one in (
        module(hidden, mask, visual[:, :1], MASK[:, :1]),
        module(hidden, mask, visual, MASK & (torch.arange(V) == 0)),
    ):
        assert torch.equal(one.attention[:2, ..., 0], torch.ones(2, 1, N))
        assert not one.attention[2].any()


def test_absent_photos_leave_no_trace(states: tuple[Tensor, Tensor, Tensor]) -> None:
    torch.manual_seed(5)
    hidden, mask, visual = states
    module = CrossAttention(D, DV)
    other = torch.where(MASK[..., None], visual, 1e3 * torch.randn_like(visual))
    first, second = module(hidden, mask, visual, MASK), module(hidden, mask, other, MASK)
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.hidden[2], hidden[2])
    # Without IF(img), gate and FFN have enough in them to change the row.
    assert (module(hidden, mask, visual, ~MASK).hidden[2] - hidden[2]).abs().max() > 1e-3
    first.hidden[2].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_concat(states: tuple[Tensor, Tensor, Tensor]) -> None:
    torch.manual_seed(6)
    hidden, mask, visual = states
    module = Concat(D, DV)
    fused = module(hidden, mask, visual, MASK)
    projected = visual @ module.project.weight.T + module.project.bias
    assert fused.hidden.shape == (R, N + V, D)
    assert torch.equal(fused.hidden[:, :N], hidden)
    torch.testing.assert_close(fused.hidden[:, N:], projected * MASK[..., None], atol=1e-6, rtol=0)
    assert torch.equal(fused.mask, torch.cat([mask, MASK], 1))
    assert fused.gate is fused.attention is fused.visual is None


def test_no_fusion(states: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, mask, visual = states
    fused = build_fusion("none", D, DV)(hidden, mask, visual, MASK)
    assert fused.hidden is hidden
    assert fused.mask is mask


def test_built_by_name() -> None:
    for kind, cls in (("none", NoFusion), ("concat", Concat), ("xattn", CrossAttention)):
        assert type(build_fusion(kind, D, DV)) is cls
    built = build_fusion("xattn", D, DV, heads=2, norm="softmax", gate="sigmoid")
    assert (built.attention.heads, built.attention.norm, built.gate) == (2, "softmax", "sigmoid")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "sum"}, "model.fusion.kind='sum' is not one of none, concat, xattn"),
        ({"kind": "xattn", "norm": "max"}, "model.fusion.norm='max' is not one of sparsemax, softmax"),
        ({"kind": "xattn", "gate": "relu"}, "model.fusion.gate='relu' is not one of tanh, sigmoid"),
        ({"kind": "xattn", "heads": 3}, "model.fusion.heads=3 does not divide the text model's width 8"),
    ],
)
def test_unknown_names(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build_fusion(width=D, visual_width=DV, **arguments)
    assert message in str(error.value)
