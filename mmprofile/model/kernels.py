"""The same computations in less time on a CPU: T5's attention, GELU and dropout, and a ViT's attention.

Nothing here changes what is computed, up to rounding and the random numbers of dropout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import NewGELUActivation
from transformers.masking_utils import eager_mask

ATTENTION = "sdpa" if torch.cuda.is_available() else "mmprofile"
"""T5's attention, as transformers' ``attn_implementation``: its position bias and dropout keep sdpa off the fast path on a CPU."""


class Dropout(nn.Dropout):
    """``torch.nn.Dropout`` with 16 random bits for an element instead of a random double: a third of the time on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Zeroes elements with probability ``p`` (in steps of 2^-16) and scales the others."""
        if input.device.type != "cpu" or not self.training or not self.p:
            return super().forward(input)
        return drop(input, self.p)


def drop(states: Tensor, p: float) -> Tensor:
    """Zeroes elements with probability ``p``, rounded to a multiple of 2^-16, and divides the others by 1 - p."""
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
    """Attention as transformers' ``eager`` has it, with fewer passes over the scores.

    Args:
        module: the attention layer.
        query, key, value: (B, heads, q or k, dim).
        attention_mask: added to the scores.
        scaling: of the scores; None: one by the square root of dim.
        dropout: of the weights, 0 outside of training.
        position_bias: added to the scores.

    Returns:
        (B, q, heads, dim) and the weights (B, heads, q, k).
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
AttentionMaskInterface.register("mmprofile", eager_mask)


def speed_up(model: nn.Module, on: bool = True) -> None:
    """Puts the kernels above into the modules of transformers and timm, or, with ``on=False``, theirs.

    transformers' attention is chosen when a model is built, see :data:`ATTENTION`.
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
