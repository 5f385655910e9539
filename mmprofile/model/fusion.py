"""Fusion of text and photos: ``none``, ``concat`` (equation 3), ``xattn`` (equations 6 to 8), ``select`` (SelectAtt),
``prefix``, ``prefix_aspect`` (AoM).

A fusion takes the states of the encoder. An ``early`` one takes the embeddings of the text, and the encoder or causal
model reads its result. Both may refine the states of the encoder.

Dimension letters as in :mod:`mmprofile.model`.
"""

import math
from typing import Any, NamedTuple

import torch
from entmax import sparsemax
from torch import Tensor, nn

from mmprofile.errors import UserError
from mmprofile.inputs.syntax import Parser, Syntax, build_parser
from mmprofile.model.aspect_graph import AspectGraph

FUSIONS = ("none", "concat", "xattn", "select", "prefix", "prefix_aspect")
NORMS = ("sparsemax", "softmax")
GATES = ("tanh", "sigmoid")
PARTIAL = 64
"""Visual tokens that sparsemax sorts at first, and more where needed: half the time or less with all patches."""
MASKED = -1e4
"""Score of a masked key: finite, since entmax raises an error for a row of -inf alone."""


class Fused(NamedTuple):
    """What the decoder reads, and what can be inspected of it.

    Attributes:
        hidden: (R, N', d).
        mask: (R, N') bool.
        gate: (R, N, d) in (-1, 1); None without a gate.
        attention: (R, H, N, V), sums to 1 over V, or to 0 for a row without photos; None without attention.
        visual: H* of the equations, (R, N, d); None without attention.
    """

    hidden: Tensor
    mask: Tensor
    gate: Tensor | None = None
    attention: Tensor | None = None
    visual: Tensor | None = None


class Gates(NamedTuple):
    """How much of the photos gets through, in arrays of one shape: means over text tokens, dimensions and heads.

    Attributes:
        gate: mean of |gate|.
        added: mean of |gate * H*|.
        support: visual tokens that a text token attends to.
        zeros: share of the attention weights of visual tokens that are exactly 0.
    """

    gate: Any
    added: Any
    support: Any
    zeros: Any


@torch.no_grad()
def row_gates(fused: Fused, photo_mask: Tensor) -> Tensor:
    """Return how much of its photos each row lets in.

    Args:
        fused: of the rows.
        photo_mask: (R, K) bool.

    Returns:
        (R, 4), the fields of :class:`Gates`; padding does not count. 0 for a row without photos, and without a gate.
    """
    if fused.gate is None or fused.attention is None or fused.visual is None:
        return fused.hidden.new_zeros(len(fused.mask), len(Gates._fields), dtype=torch.float32)
    count = fused.mask.sum(1)
    gate, added = (part.float().abs().mean(-1) for part in (fused.gate, fused.gate * fused.visual))
    support = (fused.attention > 0).sum(-1).float().mean(1)
    keys = photo_mask.sum(1) * (fused.attention.shape[-1] // max(1, photo_mask.shape[1]))
    means = [(values * fused.mask).sum(1) / count for values in (gate, added, support)]
    return torch.stack([*means, (1 - means[2] / keys.clamp_min(1)) * (keys > 0)], 1)


class Fusion(nn.Module):
    """Text states and visual tokens -> what is read next.

    Attributes:
        early: whether text and photos meet before the encoder.
        parser: finds the nouns and edges of the texts; None where the fusion does not use them.
    """

    early = False
    parser: Parser | None = None

    def refine(self, fused: Fused, syntax: Syntax | None) -> Fused:
        """Return what the decoder reads of ``fused``, with ``hidden`` (R, N', d): by default ``fused`` itself."""
        return fused


class NoFusion(Fusion):
    """The text alone."""

    def forward(self, hidden: Tensor, mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Fused:
        """See :meth:`CrossAttention.forward`."""
        return Fused(hidden=hidden, mask=mask)


class Concat(Fusion):
    """``H_fused = [H_txt; H_img]`` along the sequence (equation 3), photos projected to the text's width."""

    def __init__(self, width: int, visual_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(visual_width, width)

    def forward(self, hidden: Tensor, mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Fused:
        """See :meth:`CrossAttention.forward`; hidden and mask grow to (R, N + V)."""
        projected = self.project(visual) * visual_mask[..., None]
        return Fused(hidden=torch.cat([hidden, projected], 1), mask=torch.cat([mask, visual_mask], 1))


def finite_sparsemax(scores: Tensor) -> Tensor:
    """Return sparsemax over the last dimension, NaN for rows with a score that is no finite number.

    For such rows entmax raises an error about indices, which on a GPU ends the process.
    """
    wrong = ~scores.isfinite().all(-1, keepdim=True)
    weights: Tensor = sparsemax(scores.masked_fill(wrong, 0.0), dim=-1, k=PARTIAL)
    return weights.masked_fill(wrong, torch.nan)


class TextGuidedAttention(nn.Module):
    """Attention of every text position over the visual tokens, normalised by sparsemax (equation 6, inner part).

    Scores and normalisation run in float32: in bfloat16 sparsemax's rows sum to anything from 0.97 to 1.02.
    """

    def __init__(self, width: int, visual_width: int, heads: int = 1, norm: str = "sparsemax") -> None:
        super().__init__()
        if norm not in NORMS:
            raise UserError(f"model.fusion.norm={norm!r} is not one of {', '.join(NORMS)}")
        if width % heads:
            raise UserError(f"model.fusion.heads={heads} does not divide the text model's width {width}")
        self.heads, self.norm = heads, norm
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(visual_width, width, bias=False)
        self.value = nn.Linear(visual_width, width, bias=False)

    def weights(self, scores: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the attention weights (R, H, N, V) of scores (R, H, N, V), 0 where the mask (R, V) is False."""
        keys = visual_mask[:, None, None, :]
        scores = scores.float().masked_fill(~keys, MASKED)
        weights = finite_sparsemax(scores) if self.norm == "sparsemax" else scores.softmax(-1)
        return weights * keys

    def forward(self, hidden: Tensor, visual: Tensor, visual_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text (R, N, d), visual tokens (R, V, dv) and mask (R, V) -> attended (R, N, d), weights (R, H, N, V)."""
        query, key, value = (
            states.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for states in (self.query(hidden), self.key(visual), self.value(visual))
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = self.weights(scores, visual_mask)
        attended = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return attended, weights


class CrossAttention(Fusion):
    """Text-guided attention, FFN and gate: equations 6, 7 and 8 of Qiang et al.

    ``H* = FFN(TGA(H_txt, H_img, H_img))``, ``gate = tanh(W_T H_txt + W_I H*)``,
    ``H_fused = H_txt + IF(img) * gate * H*``.

    The FFN starts as the identity (Balduzzi et al., ICML 2017: "looks linear"): started at random, it passes on a fifth of
    what it is given, and faint cues of the photos get lost.
    """

    def __init__(
        self, width: int, visual_width: int, heads: int = 1, norm: str = "sparsemax", gate: str = "tanh"
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise UserError(f"model.fusion.gate={gate!r} is not one of {', '.join(GATES)}")
        self.gate = gate
        self.attention = TextGuidedAttention(width, visual_width, heads, norm)
        first, last = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        mirrored = torch.cat([torch.eye(width), -torch.eye(width)])
        with torch.no_grad():  # relu(x) - relu(-x) = x
            for layer, weight in ((first, mirrored), (last, mirrored.T)):
                layer.weight.copy_(weight)
                layer.bias.zero_()
        self.ffn = nn.Sequential(first, nn.ReLU(), last)
        self.gate_text = nn.Linear(width, width, bias=False)
        self.gate_visual = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Fused:
        """Fuses.

        Args:
            hidden: text states H_txt (R, N, d).
            mask: (R, N) bool, True where there is a token.
            visual: visual tokens H_img (R, V, dv).
            visual_mask: (R, V) bool, True where there is a usable photo. A row without any (IF(img) = 0) comes back as
                it went in, to the last bit.
        """
        attended, weights = self.attention(hidden, visual, visual_mask)
        star = self.ffn(attended)
        activation = torch.tanh if self.gate == "tanh" else torch.sigmoid
        gate = activation(self.gate_text(hidden) + self.gate_visual(star))
        # tanh(0) = 0 would not do this by itself: gate and FFN have text and biases in them.
        available = visual_mask.any(1)[:, None, None]
        fused = torch.where(available, hidden + gate * star, hidden)
        return Fused(hidden=fused, mask=mask, gate=gate * available, attention=weights, visual=star)


class SelectiveAttention(Fusion):
    """One head of softmax attention and a sigmoid gate that chooses between text and image (Li et al., ACL 2022).

    ``A = TGA(H_txt, H_img, H_img)``, ``g = sigmoid(W [A; H_txt])``, ``H_fused = (1 - g) H_txt + g A``.
    """

    def __init__(self, width: int, visual_width: int) -> None:
        super().__init__()
        self.attention = TextGuidedAttention(width, visual_width, 1, "softmax")
        self.gate = nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor, mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Fused:
        """See :meth:`CrossAttention.forward`."""
        attended, weights = self.attention(hidden, visual, visual_mask)
        gate = torch.sigmoid(self.gate(torch.cat([attended, hidden], -1)))
        available = visual_mask.any(1)[:, None, None]
        fused = torch.where(available, (1 - gate) * hidden + gate * attended, hidden)
        return Fused(hidden=fused, mask=mask, gate=gate * available, attention=weights, visual=attended)


class Prefix(Fusion):
    """Visual tokens among the embeddings of the text, before the encoder or causal model reads them.

    They stand in front of the text (Ling et al., ACL 2022: VLP-MABSA), or behind its first tokens (Liu et al., 2024:
    LLaVA). Padding is moved behind the end, so that positions have no gaps.

    Args:
        at: how many tokens of the text stand before the photos.
        project: whether to map visual tokens (R, V, dv) to (R, V, d); False where they are projected already.
    """

    early = True

    def __init__(self, width: int, visual_width: int, at: int = 0, project: bool = True) -> None:
        super().__init__()
        self.at = at
        self.project = nn.Linear(visual_width, width) if project else nn.Identity()

    def forward(self, hidden: Tensor, mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Fused:
        """Fuse.

        Args:
            hidden, mask: embeddings of the text (R, N, d) and (R, N).
            visual, visual_mask: (R, V, dv) and (R, V).

        Returns:
            hidden (R, N + V, d) and mask (R, N + V), without gaps.
        """
        parts = hidden[:, : self.at], self.project(visual).to(hidden.dtype), hidden[:, self.at :]
        masks = mask[:, : self.at], visual_mask, mask[:, self.at :]
        joint, joint_mask = compact(torch.cat(parts, 1), torch.cat(masks, 1))
        return Fused(hidden=joint, mask=joint_mask)


class PrefixAspect(Prefix):
    """Photos in front of the text, and a graph of nouns, words and photos behind the encoder (AoM).

    Args:
        parser: see :func:`mmprofile.inputs.syntax.build_parser`.
    """

    def __init__(self, width: int, visual_width: int, parser: str) -> None:
        super().__init__(width, visual_width)
        self.parser = build_parser(parser)
        self.graph = AspectGraph(width)

    def refine(self, fused: Fused, syntax: Syntax | None) -> Fused:
        """See :class:`mmprofile.model.aspect_graph.AspectGraph`."""
        assert syntax is not None, "the collator must have this fusion's parser"
        refined = self.graph(fused.hidden.float(), fused.mask, syntax)
        return fused._replace(hidden=refined.to(fused.hidden.dtype))


def compact(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding behind the end, in states (R, N', d) and mask (R, N'); the order of the rest stays."""
    order = mask.long().argsort(dim=1, descending=True, stable=True)
    longest = int(mask.sum(1).max())
    return hidden.gather(1, order[..., None].expand_as(hidden))[:, :longest], mask.gather(1, order)[:, :longest]


def build_fusion(
    kind: str,
    width: int,
    visual_width: int,
    *,
    heads: int = 1,
    norm: str = "sparsemax",
    gate: str = "tanh",
    at: int = 0,
    project: bool = True,
    parser: str = "window",
) -> Fusion:
    """Return one of :data:`FUSIONS`.

    Args:
        kind: its name.
        width, visual_width: d and dv.
        heads, norm, gate: of ``xattn``, see :class:`CrossAttention`.
        at, project: of ``prefix``, see :class:`Prefix`.
        parser: of ``prefix_aspect``, see :func:`mmprofile.inputs.syntax.build_parser`.

    Raises:
        UserError: an unknown name, heads that do not divide the width, or a parser that is not installed.
    """
    if kind == "none":
        return NoFusion()
    if kind == "concat":
        return Concat(width, visual_width)
    if kind == "select":
        return SelectiveAttention(width, visual_width)
    if kind == "prefix":
        return Prefix(width, visual_width, at=at, project=project)
    if kind == "prefix_aspect":
        return PrefixAspect(width, visual_width, parser)
    if kind == "xattn":
        return CrossAttention(width, visual_width, heads=heads, norm=norm, gate=gate)
    raise UserError(f"model.fusion.kind={kind!r} is not one of {', '.join(FUSIONS)}")
