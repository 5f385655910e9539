"""The same computations in less time on a CPU: T5's attention, GELU and dropout, and a ViT's attention.

The results are the same up to rounding and the random numbers of dropout. Dimension letters as in :mod:`mmprofile.model`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import NewGELUActivation

ATTENTION = "sdpa" if torch.cuda.is_available() else "mmprofile"
"""T5's ``attn_implementation`` in transformers: sdpa is slow on a CPU with its position bias and dropout."""


class Dropout(nn.Dropout):
    """``torch.nn.Dropout`` with 16 random bits for an element instead of a random double: a third of the time on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements of a tensor of any shape with probability ``p`` (in steps of 2^-16) and scale the others."""
        if input.device.type != "cpu" or not self.training or not self.p:
            return super().forward(input)
        return drop(input, self.p)


def drop(states: Tensor, p: float) -> Tensor:
    """Zero elements of states (any shape) with probability ``p``, a multiple of 2^-16, and divide the others by 1 - p."""
    count, out = states.numel(), round(p * 2**16)
    if out == 0:
        return states
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=states.device).random_(-(2**63), None)
    keep = draws.view(torch.int16)[:count].view(states.shape) > out - 2**15 - 1
    return states * keep.to(states.dtype).mul_(2**16 / max(2**16 - out, 1))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention like transformers' ``eager``, with fewer passes over the scores.

    Args:
        module: the attention layer.
        query: (n, H, queries, d / H).
        key, value: (n, H, keys, d / H).
        attention_mask: added to the scores, broadcasts to (n, H, queries, keys).
        scaling: of the scores; None: 1 / sqrt(d / H).
        dropout: probability of zeroing a weight, 0 outside of training.
        position_bias: added to the scores, as ``attention_mask``.
        options: of other implementations; not used.

    Returns:
        (n, queries, H, d / H) and the weights (n, H, queries, keys).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(2, 3)
    if scaling != 1:
        scores = scores * scaling
    for bias in (position_bias, attention_mask):
        if bias is not None:
            scores = scores + bias
    weights = scores.softmax(-1).to(value.dtype)
    if dropout and module.training:
        weights = drop(weights, dropout)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("mmprofile", attention)
AttentionMaskInterface.register("mmprofile", AttentionMaskInterface()["eager"])


def speed_up(model: nn.Module, on: bool = True) -> None:
    """Put the kernels above into the modules of transformers and timm, or, with ``on=False``, put the original ones back.

    The attention of transformers is chosen when a model is built, see :data:`ATTENTION`.
    """
    for part in model.modules():
        act = getattr(part, "act", None)
        if on and isinstance(act, NewGELUActivation):  # eight operations for the tanh approximation of GELU
            part.act = nn.GELU(approximate="tanh")
        elif not on and isinstance(act, nn.GELU) and act.approximate == "tanh":
            part.act = NewGELUActivation()
        if isinstance(part, nn.Dropout):
            part.__class__ = Dropout if on else nn.Dropout
        if hasattr(part, "fused_attn"):  # timm's sdpa: on a CPU its backward pass is slower than products and a softmax
            part.fused_attn = not on or torch.cuda.is_available()  # type: ignore[assignment]
