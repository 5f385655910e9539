"""Selective attention (SelectAtt) against its equation."""

import pytest
import torch

from mmprofile.model.fusion import SelectiveAttention, compact
from tests.support.hubmodels import close

pytestmark = pytest.mark.fast


def test_selective_attention_is_its_equation() -> None:
    torch.manual_seed(0)
    fusion = SelectiveAttention(8, 5)
    hidden, visual = torch.randn(2, 3, 8), torch.randn(2, 4, 5)
    there = torch.tensor([[True, True, False, True], [False] * 4])
    fused = fusion(hidden, torch.ones(2, 3, dtype=torch.bool), visual, there)
    attention = fusion.attention
    for n in range(3):
        query = attention.query.weight @ hidden[0, n]
        keys = [attention.key.weight @ visual[0, v] for v in (0, 1, 3)]
        share = torch.stack([query @ key for key in keys]).div(8**0.5).exp()
        values = torch.stack([attention.value.weight @ visual[0, v] for v in (0, 1, 3)])
        attended = (share / share.sum()) @ values
        gate = 1 / (1 + (-(fusion.gate.weight @ torch.cat([attended, hidden[0, n]]) + fusion.gate.bias)).exp())
        close(fused.hidden[0, n], (1 - gate) * hidden[0, n] + gate * attended)
        close(fused.gate[0, n], gate)
    assert torch.equal(fused.hidden[1], hidden[1])


def test_gaps_are_moved_behind_the_end() -> None:
    hidden = torch.arange(8.0).view(2, 4, 1)
    moved, mask = compact(hidden, torch.tensor([[True, False, True, False], [False, True, True, False]]))
    assert moved[..., 0].tolist() == [[0, 2], [5, 6]]
    assert mask.all()
