"""Classifiers per attribute: instead of a decoder (COOPNet, late fusion of text and photos), and beside one.

A head is made of parts; each part has an opinion on every attribute, and their probabilities are mixed. A single value is
one of its classes (softmax); in a set each class is decided by itself (sigmoid), within the number of values that the set
may have. A head never predicts Unknown.

Dimension letters as in :mod:`mmprofile.model`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate, combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmprofile.config.settings import ModelConfig
from mmprofile.errors import UserError
from mmprofile.model.decoding import Decoded
from mmprofile.model.fusion import TextGuidedAttention
from mmprofile.profile.schema import UNKNOWN, Attribute, Profile, Schema

MOST_SETS = 50_000
"""The most sets that an attribute may have: decoding computes the probability of each."""
STEPS = 500
"""Of expectation maximisation."""
LEAST = 1e-9
"""The least distance of probabilities from 0 and 1, and of the shares of a mix from 0."""


class Votes(NamedTuple):
    """The opinions of a head's parts.

    Attributes:
        logits: (R, O, C).
        heard: (R, O) bool, False where a part has seen nothing and does not count.
    """

    logits: Tensor
    heard: Tensor

    @classmethod
    def concatenated(cls, votes: Sequence["Votes"]) -> "Votes":
        """Return the votes on all rows, one after another."""
        return cls(logits=torch.cat([part.logits for part in votes]), heard=torch.cat([part.heard for part in votes]))

    def of(self, rows: Tensor) -> "Votes":
        """Return the votes on some rows (r,)."""
        return Votes(logits=self.logits[rows], heard=self.heard[rows])


class AttributeHead(nn.Module):
    """The base of all heads: losses and profiles from the votes of a head's parts.

    The ``forward`` of a subclass takes (hidden, mask, visual, visual_mask) and returns votes.

    Args:
        schema: what is predicted.
        parts: number of parts, O.

    Attributes:
        mix: (A, O) the share of each part in an attribute's probabilities: equal until :meth:`fit_mix`.

    Raises:
        UserError: the schema has an ordered attribute, or one with too many sets.
    """

    def __init__(self, schema: Schema, parts: int = 1) -> None:
        super().__init__()
        for attribute in schema.attributes:
            sets = sum(math.comb(len(attribute.values), size) for size in range(attribute.least, attribute.size + 1))
            if attribute.kind == "ordered" or sets > MOST_SETS:
                reason = "is ordered" if attribute.kind == "ordered" else f"has {sets} possible sets"
                raise UserError(
                    f"model.head: attribute {attribute.name!r} {reason}, which needs model.head=lm and model.auxiliary=0"
                )
        self.schema = schema
        sizes = [len(attribute.values) for attribute in schema.attributes]
        ends = accumulate(sizes)  # not by torch: the doctor builds models without memory, on torch's meta device
        self.spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.classes = sum(sizes)
        self.mix: Tensor
        self.register_buffer("mix", torch.full((len(sizes), parts), 1 / parts))

    def targets(self, profiles: Sequence[Profile], device: torch.device) -> Tensor:
        """Return (profiles, C) float, 1 at the gold values of each profile and 0 at the others, -1 at an unknown attribute."""
        rows = [
            [float(value in values) if values else -1.0 for values, known in pairs for value in known]
            for pairs in ([(profile.get(a.name), a.values) for a in self.schema.attributes] for profile in profiles)
        ]
        return torch.tensor(rows, device=device)

    def losses(self, votes: Votes, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the parts' losses.

        It is the cross-entropy of a single value, and the binary cross-entropy of a set, summed over its classes.

        Args:
            votes: on R rows.
            targets: (R, C) from :meth:`targets`.

        Returns:
            (R, A) float, 0 where the gold value is unknown, and (R, A) bool where it is known.
        """
        losses = []
        for attribute, span in zip(self.schema.attributes, self.spans, strict=True):
            logits = votes.logits[..., span].float()
            gold = targets[:, None, span].clamp_min(0).expand_as(logits)
            if not attribute.several:
                loss = -(gold * logits.log_softmax(-1)).sum(-1)
            else:
                loss = F.binary_cross_entropy_with_logits(logits, gold, reduction="none").sum(-1)
            losses.append((loss * votes.heard).sum(1))
        known = self.known(targets)
        return torch.stack(losses, 1) * known, known

    def known(self, targets: Tensor) -> Tensor:
        """Return (R, A) bool, where the gold value is known.

        Args:
            targets: (R, C) from :meth:`targets`.
        """
        return torch.stack([(targets[:, span] >= 0).all(1) for span in self.spans], 1)

    def shares(self, votes: Votes) -> list[Tensor]:
        """Return the probabilities of each part for each attribute, (R, O, classes) in double precision."""
        shares = []
        for attribute, span in zip(self.schema.attributes, self.spans, strict=True):
            logits = votes.logits[..., span].cpu().double()
            probabilities = logits.sigmoid() if attribute.several else logits.softmax(-1)
            shares.append(probabilities.clamp(LEAST, 1 - LEAST))
        return shares

    def probabilities(self, votes: Votes) -> list[Tensor]:
        """Return the mixed probabilities of each attribute, (R, classes).

        The share of parts that are not heard goes to the other parts.
        """
        mixed = []
        for shares, mix in zip(self.shares(votes), self.mix.cpu().double(), strict=True):
            weights = mix * votes.heard.cpu()
            mixed.append((shares * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))
        return mixed

    def fit_mix(self, votes: Votes, targets: Tensor) -> None:
        """Fit the mix of each attribute to make the gold values of these rows likeliest.

        Args:
            votes: on R rows.
            targets: (R, C) from :meth:`targets`.
        """
        heard = votes.heard.cpu()
        for a, (attribute, shares) in enumerate(zip(self.schema.attributes, self.shares(votes), strict=True)):
            gold = targets[:, self.spans[a]].cpu()
            known = (gold >= 0).all(1)
            if not known.any():
                continue
            gold, shares = gold[known].bool()[:, None].expand_as(shares[known]), shares[known]
            right = shares.where(gold, 1 - shares)  # of each class by itself
            if not attribute.several:
                right = shares.where(gold, 0).sum(-1, keepdim=True)
            cells = right.transpose(1, 2)
            self.mix[a] = mixture(cells.flatten(0, 1), heard[known][:, None].expand_as(cells).flatten(0, 1))

    def decode(self, votes: Votes, known: Sequence[Mapping[str, tuple[str, ...]]]) -> list[Decoded]:
        """Return the likeliest profile of each row, attribute by attribute.

        Args:
            votes: on R rows.
            known: per row the values that are given, as a grammar writes them; they are kept.
        """
        posteriors = [
            {
                attribute.name: posterior(attribute, row)
                for attribute, row in zip(self.schema.attributes, rows, strict=True)
            }
            for rows in zip(*self.probabilities(votes), strict=True)
        ]
        return [self._decoded(row, given) for row, given in zip(posteriors, known, strict=True)]

    def _decoded(self, posteriors: dict[str, dict[tuple[str, ...], float]], known: Mapping[str, Any]) -> Decoded:
        """Return the likeliest profile by the posteriors of a row; those of ``known`` attributes become certain."""
        profile: Profile = {}
        log_probability = 0.0
        for name, shares in posteriors.items():
            given = known.get(name)
            profile[name] = next(iter(shares)) if given is None else () if given == (UNKNOWN,) else given
            log_probability += math.log(max(shares.get(profile[name], 1.0), LEAST))  # Unknown can only be given
            if given is not None:
                posteriors[name] = {profile[name]: 1.0}
        return Decoded(
            text=self.schema.render(profile),
            profile=profile,
            log_probability=log_probability,
            posteriors=posteriors,
            lost=0.0,
            exact=True,
        )


def posterior(attribute: Attribute, probabilities: Tensor) -> dict[tuple[str, ...], float]:
    """Return the probability of each value of an attribute, likeliest first, ties in the schema's order.

    Classes of a set are independent, but for the number of values, which has limits. Without limits, the likeliest set is
    that of the classes above one half.

    Args:
        attribute: of one value, or a set.
        probabilities: (classes,) double.
    """
    tables = _sets(len(probabilities), attribute.least, attribute.size)
    if not attribute.several:
        shares = probabilities / probabilities.sum()
    else:
        logits = probabilities.logit()
        shares = torch.cat([logits[table].sum(1) for table in tables]).softmax(0)
    sets = [chosen for table in tables for chosen in table.tolist()]
    order = shares.argsort(descending=True, stable=True)
    pairs = zip(order.tolist(), shares[order].tolist(), strict=True)
    return {tuple(attribute.values[i] for i in sets[at]) or attribute.empty: share for at, share in pairs}


@cache
def _sets(classes: int, least: int, most: int) -> list[Tensor]:
    """Return all sets of ``least`` to ``most`` classes, a table (sets, size) for each size."""
    sizes = range(least, most + 1)
    return [torch.tensor([*combinations(range(classes), size)], dtype=torch.long) for size in sizes]


def mixture(right: Tensor, heard: Tensor) -> Tensor:
    """Fit the weights of a mixture by maximum likelihood, with expectation maximisation.

    Where parts are not heard, the weights of the others are scaled up to 1. The expectation therefore also counts the
    draws of parts that are not heard (Dempster, Laird and Rubin 1977, on truncated data), so that no step lowers the
    likelihood.

    Args:
        right: (n, O) double, the probability that each part gives to the truth.
        heard: (n, O) bool, at least one in each row.

    Returns:
        (O,) with sum 1, all above 0, since the other parts may not be heard elsewhere.
    """
    weights = torch.full_like(right[0], 1 / right.shape[1])
    for _ in range(STEPS):
        active = weights * heard
        drawn = active * right
        counts = drawn / drawn.sum(1, keepdim=True) + weights * ~heard / active.sum(1, keepdim=True)
        weights = (counts.sum(0) / counts.sum()).clamp_min(LEAST)
    return weights / weights.sum()


class CoopNet(AttributeHead):
    """COOPNet (Li et al., ICASSP 2021): text, photos and both together classify, and their opinions are mixed.

    The mean text state t guides attention over the photos: ``v = TGA(t, V, V)``. There are three parts, text (t), vision
    (v) and joint (``tanh(W [t; v])``), each with its own loss. The vision part is not heard where there is no photo.

    Args:
        schema: what is predicted.
        width, visual_width: d, dv.
        dropout: in front of each classifier; 0.4 in the original (which used SGD and batches of 15).
    """

    def __init__(self, schema: Schema, width: int, visual_width: int, dropout: float = 0.4) -> None:
        super().__init__(schema, parts=3)
        if not visual_width:
            raise UserError("model.head=coopnet looks at photos: choose a paradigm with them (basic, multi, both)")
        self.attention = TextGuidedAttention(width, visual_width, norm="softmax")
        self.bridge = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh())
        self.text, self.vision, self.joint = (
            nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, self.classes)) for _ in range(3)
        )

    def forward(self, hidden: Tensor, mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Votes:
        """Return the votes on R rows.

        Args:
            hidden, mask: states of the text (R, N, d) and (R, N) bool.
            visual, visual_mask: visual tokens (R, V, dv) and (R, V) bool; V may be 0.
        """
        text = masked_mean(hidden, mask)
        attended = self.attention(text[:, None], visual, visual_mask)[0][:, 0]
        joint = self.bridge(torch.cat([text, attended], -1))
        logits = torch.stack([self.text(text), self.vision(attended), self.joint(joint)], 1)
        has_text, has_photo = mask.any(1), visual_mask.any(1)
        return Votes(logits=logits, heard=torch.stack([has_text, has_photo, has_text], 1))


class LateFusion(AttributeHead):
    """Mean text state and mean photo vector, concatenated: an MLP for each attribute (after AutoGluon's multimodal fusion).

    Args:
        schema: what is predicted.
        width, visual_width: d, dv; dv is 0 for a model that never sees photos.
        dropout: inside the MLPs.
    """

    def __init__(self, schema: Schema, width: int, visual_width: int, dropout: float = 0.1) -> None:
        super().__init__(schema)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width + visual_width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, len(a.values))
            )
            for a in schema.attributes
        )

    def forward(self, hidden: Tensor, mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Votes:
        """Return the votes on R rows; see :meth:`CoopNet.forward`. A row without photos has zeros in their place."""
        both = torch.cat([masked_mean(hidden, mask), masked_mean(visual, visual_mask)], -1)
        logits = torch.cat([mlp(both) for mlp in self.mlps], -1)
        return Votes(logits=logits[:, None], heard=torch.ones_like(logits[:, :1], dtype=torch.bool))


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (R, d) of states (R, n, d) under a mask (R, n), in single precision; zeros where the mask is empty."""
    weights = mask[..., None].float()
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


HEADS: dict[str, type[CoopNet] | type[LateFusion]] = {"coopnet": CoopNet, "late_fusion": LateFusion}


def check_head(model: ModelConfig) -> None:
    """Refuse an unknown head, and settings that do not go with a head.

    Raises:
        UserError: ``head`` is neither ``lm`` nor one of :data:`HEADS`, or does not go with ``fusion`` or ``target``.
    """
    if model.head == "lm":
        return
    if model.head not in HEADS:
        raise UserError(f"model.head={model.head!r} is not one of lm, {', '.join(HEADS)}")
    if model.fusion.kind != "none" or model.target != "profile":
        raise UserError(
            f"model.head={model.head} needs model.fusion.kind=none (it looks at photos itself) and model.target=profile"
        )


def build_head(head: Mapping[str, Any], schema: Schema, width: int, visual_width: int) -> AttributeHead | None:
    """Return one of :data:`HEADS`; None for ``lm``, the text model's decoder.

    Args:
        head: its ``kind``, which has been checked, and its options.
        schema: what is predicted.
        width, visual_width: d, dv; dv is 0 without a vision model.

    Raises:
        UserError: an unknown option, or a head that does not fit.
    """
    kind, options = str(head["kind"]), {key: value for key, value in head.items() if key != "kind"}
    if kind == "lm":
        return None
    dropout = options.pop("dropout", None)
    if options or (dropout is not None and not 0 <= dropout < 1):
        raise UserError(f"model.options of model.head={kind}: dropout, from 0 to below 1, not {dict(head)}")
    return HEADS[kind](schema, width, visual_width, **({} if dropout is None else {"dropout": dropout}))
