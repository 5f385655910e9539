"""Classifiers per attribute in the place of a decoder, COOPNet and late fusion of text and photos; and beside one.

A head is made of parts, each with an opinion of its own on every attribute; their probabilities are mixed. A single value
is one of its classes (softmax), a set is what each of its classes says (sigmoid). A head never says Unknown.

Dimension letters: R rows (a user in a view), N text tokens, V visual tokens, d and dv the widths of text and vision model,
A attributes, C classes of all attributes side by side, H parts of a head.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmprofile.errors import UserError
from mmprofile.model.decoding import Decoded
from mmprofile.model.fusion import TextGuidedAttention
from mmprofile.profile.schema import UNKNOWN, Attribute, Profile, Schema

MOST_SETS = 50_000
"""Sets that an attribute may have: decoding weighs each of them."""
STEPS = 500
LEAST = 1e-9
"""Probabilities are kept so far from 0 and 1, shares of a mix from 0."""


class Votes(NamedTuple):
    """What the parts of a head say.

    Attributes:
        logits: (R, H, C).
        heard: (R, H) bool, False where a part has seen nothing and does not count.
    """

    logits: Tensor
    heard: Tensor


class AttributeHead(nn.Module):
    """What every head does with the votes of its parts; a subclass's ``forward`` is (hidden, mask, visual, visual_mask) -> votes.

    Attributes:
        mix: (A, H) the share of each part in an attribute's probabilities: equal until :meth:`fit_mix`.

    Raises:
        UserError: the schema has an ordered attribute, or one of too many sets.
    """

    def __init__(self, schema: Schema, parts: int = 1) -> None:
        super().__init__()
        for attribute in schema.attributes:
            sets = math.comb(len(attribute.values), attribute.size)
            if attribute.kind == "ordered" or sets > MOST_SETS:
                what = "is ordered" if attribute.kind == "ordered" else f"has {sets} possible sets"
                raise UserError(f"model.head: attribute {attribute.name!r} {what}, which needs model.head=lm")
        self.schema = schema
        sizes = [len(attribute.values) for attribute in schema.attributes]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.classes = sum(sizes)
        self.mix: Tensor
        self.register_buffer("mix", torch.full((len(sizes), parts), 1 / parts))

    def targets(self, profiles: Sequence[Profile], device: torch.device) -> Tensor:
        """(R, C) 1 at the gold values, of each row's profile; an unknown attribute has none."""
        rows = [
            [float(value in profile.get(attribute.name, ())) for attribute in self.schema.attributes for value in attribute.values]
            for profile in profiles
        ]  # fmt: skip
        return torch.tensor(rows, device=device)

    def losses(self, votes: Votes, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the parts' losses: cross-entropy of a single value; of a set, binary cross-entropy summed over its classes.

        Returns:
            (R, A) float, 0 where the gold value is unknown, and (R, A) bool where it is known.
        """
        losses, known = [], []
        for attribute, span in zip(self.schema.attributes, self.spans, strict=True):
            logits, gold = votes.logits[..., span].float(), targets[:, None, span].expand_as(votes.logits[..., span])
            if attribute.kind == "single":
                loss = -(gold * logits.log_softmax(-1)).sum(-1)
            else:
                loss = F.binary_cross_entropy_with_logits(logits, gold, reduction="none").sum(-1)
            there = targets[:, span].any(1)
            losses.append((loss * votes.heard).sum(1) * there)
            known.append(there)
        return torch.stack(losses, 1), torch.stack(known, 1)

    def shares(self, votes: Votes) -> list[Tensor]:
        """Of each attribute the parts' own probabilities, (R, H, classes) in double precision."""
        shares = []
        for attribute, span in zip(self.schema.attributes, self.spans, strict=True):
            logits = votes.logits[..., span].cpu().double()
            found = logits.softmax(-1) if attribute.kind == "single" else logits.sigmoid()
            shares.append(found.clamp(LEAST, 1 - LEAST))
        return shares

    def probabilities(self, votes: Votes) -> list[Tensor]:
        """Of each attribute the mixed probabilities (R, classes); what the parts not heard had is shared among the others."""
        mixed = []
        for own, mix in zip(self.shares(votes), self.mix.cpu().double(), strict=True):
            weights = mix * votes.heard.cpu()
            mixed.append((own * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))
        return mixed

    def fit_mix(self, votes: Votes, targets: Tensor) -> None:
        """Gives each attribute the mix under which the gold values of these rows are likeliest."""
        heard = votes.heard.cpu()
        for a, (attribute, own) in enumerate(zip(self.schema.attributes, self.shares(votes), strict=True)):
            gold = targets[:, self.spans[a]].cpu().bool()
            there = gold.any(1)
            if not there.any():
                continue
            gold, own = gold[there][:, None].expand_as(own[there]), own[there]
            right = own.where(gold, 1 - own)  # of each class by itself
            if attribute.kind == "single":
                right = own.where(gold, 0).sum(-1, keepdim=True)
            cells = right.transpose(1, 2)
            self.mix[a] = mixture(cells.flatten(0, 1), heard[there][:, None].expand_as(cells).flatten(0, 1))

    def decode(self, votes: Votes, known: Sequence[Mapping[str, tuple[str, ...]]]) -> list[Decoded]:
        """The likeliest profile of each row, attribute by attribute; ``known`` values, as a grammar writes them, are kept."""
        posteriors = [
            {
                attribute.name: posterior(attribute, row)
                for attribute, row in zip(self.schema.attributes, rows, strict=True)
            }
            for rows in zip(*self.probabilities(votes), strict=True)
        ]
        return [self._decoded(found, given) for found, given in zip(posteriors, known, strict=True)]

    def _decoded(self, posteriors: dict[str, dict[tuple[str, ...], float]], known: Mapping[str, Any]) -> Decoded:
        profile: Profile = {}
        log_probability = 0.0
        for name, found in posteriors.items():
            given = known.get(name)
            profile[name] = next(iter(found)) if given is None else () if given == (UNKNOWN,) else given
            log_probability += math.log(max(found.get(profile[name], 1.0), LEAST))  # Unknown can only be given
            if given is not None:
                posteriors[name] = {profile[name]: 1.0}
        return Decoded(self.schema.render(profile), profile, log_probability, posteriors, 0.0, True)


def posterior(attribute: Attribute, probabilities: Tensor) -> dict[tuple[str, ...], float]:
    """The values of an attribute -> their probability, likeliest first, ties in the schema's order.

    Of a set: given that it has as many values as it should, classes being independent otherwise. The likeliest is then
    that of the likeliest classes.

    Args:
        attribute: single or a set.
        probabilities: (classes,) double.
    """
    if attribute.kind == "single":
        sets, shares = torch.arange(len(probabilities))[:, None], probabilities / probabilities.sum()
    else:
        sets = torch.combinations(torch.arange(len(probabilities)), attribute.size)
        shares = probabilities.logit()[sets].sum(1).softmax(0)
    order = shares.argsort(descending=True, stable=True)
    chosen, found = sets[order].tolist(), shares[order].tolist()
    return {tuple(attribute.values[i] for i in one): share for one, share in zip(chosen, found, strict=True)}


def mixture(right: Tensor, heard: Tensor) -> Tensor:
    """Weights of a mixture by maximum likelihood, by expectation maximisation.

    Where some parts are not heard, the weights of the others are scaled up to 1: the expectation counts the draws that
    came to nothing as well (Dempster, Laird and Rubin 1977, on truncated data), so that no step makes things worse.

    Args:
        right: (n, H) double, the probability that each part gives to what is the case.
        heard: (n, H) bool, at least one in each row.

    Returns:
        (H,) of sum 1, all above 0: others may not be heard elsewhere.
    """
    weights = torch.full_like(right[0], 1 / right.shape[1])
    for _ in range(STEPS):
        there = weights * heard
        drawn = there * right
        counts = drawn / drawn.sum(1, keepdim=True) + weights * ~heard / there.sum(1, keepdim=True)
        weights = (counts.sum(0) / counts.sum()).clamp_min(LEAST)
    return weights / weights.sum()


class CoopNet(AttributeHead):
    """COOPNet (Li et al., ICASSP 2021): text, photos and both together decide, each for itself and then with each other.

    The mean text state t guides attention over the photos: ``v = TGA(t, V, V)``. Three parts, text (t), vision (v) and
    joint (``tanh(W [t; v])``), each with its own loss. Where nobody sees a photo, the part for vision is not heard.

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
        """(R, N, d), (R, N) bool, (R, V, dv), (R, V) bool -> votes; V may be 0."""
        text = masked_mean(hidden, mask)
        seen = self.attention(text[:, None], visual, visual_mask)[0][:, 0]
        joint = self.bridge(torch.cat([text, seen], -1))
        logits = torch.stack([self.text(text), self.vision(seen), self.joint(joint)], 1)
        some_text, some_photo = mask.any(1), visual_mask.any(1)
        return Votes(logits, torch.stack([some_text, some_photo, some_text], 1))


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
        """As :meth:`CoopNet.forward`; a row without photos has zeros in their place."""
        both = torch.cat([masked_mean(hidden, mask), masked_mean(visual, visual_mask)], -1)
        logits = torch.cat([mlp(both) for mlp in self.mlps], -1)
        return Votes(logits[:, None], torch.ones_like(logits[:, :1], dtype=torch.bool))


class Auxiliary(LateFusion):
    """Classifiers of what the decoder reads, trained beside it, whose opinion is mixed with the decoder's.

    Args:
        schema: what is predicted.
        width: d.
        weight: of their loss in training.

    Attributes:
        share: (A,) how much of an attribute's probabilities is theirs, the rest being the decoder's: half until
            :meth:`fit_share`.
    """

    def __init__(self, schema: Schema, width: int, weight: float) -> None:
        super().__init__(schema, width, 0)
        self.weight = weight
        self.share: Tensor
        self.register_buffer("share", torch.full((len(schema.attributes),), 0.5))

    def votes(self, hidden: Tensor, mask: Tensor) -> Votes:
        """What the decoder reads, (R, N, d) and (R, N) bool -> votes."""
        return self(hidden, mask, hidden[:, :0, :0], mask[:, :0])

    def join(self, written: Sequence[Decoded], own: Sequence[Decoded]) -> list[Decoded]:
        """What the decoder finds and what the classifiers find, mixed: the likeliest value of each attribute by itself.

        Of Unknown the decoder alone has an opinion: the classifiers' is about what is left.
        """
        return [self._joined(*both) for both in zip(written, own, strict=True)]

    def _joined(self, written: Decoded, own: Decoded) -> Decoded:
        shares = dict(zip(self.schema.names, self.share.tolist(), strict=True))
        posteriors: dict[str, dict[tuple[str, ...], float]] = {}
        for name, share in shares.items():
            decoder, classes = written.posteriors[name], known_share(written, own, name)
            mixed = {
                value: (1 - share) * decoder.get(value, 0.0) + share * classes.get(value, 0.0)
                for value in decoder | classes
            }
            posteriors[name] = dict(sorted(mixed.items(), key=lambda item: -item[1]))
        profile = {name: next(iter(found)) for name, found in posteriors.items()}
        log_probability = sum(math.log(posteriors[name][values]) for name, values in profile.items())
        lost = written.lost * (1 - min(shares.values()))
        return Decoded(self.schema.render(profile), profile, log_probability, posteriors, lost, not lost)

    def fit_share(self, written: Sequence[Decoded], own: Sequence[Decoded], gold: Sequence[Profile]) -> None:
        """Gives each attribute the share under which the gold values are likeliest; unknown ones do not count."""
        for a, name in enumerate(self.schema.names):
            right = [
                [found.get(profile[name], 0.0) for found in (one.posteriors[name], known_share(one, other, name))]
                for one, other, profile in zip(written, own, gold, strict=True)
                if profile.get(name)
            ]
            if right:
                sure = torch.tensor(right, dtype=torch.double).clamp_min(LEAST)
                self.share[a] = mixture(sure, torch.ones_like(sure, dtype=torch.bool))[1]


def known_share(written: Decoded, own: Decoded, name: str) -> dict[tuple[str, ...], float]:
    """What classifiers find of an attribute, in the share that the decoder leaves to values other than Unknown."""
    unknown = written.posteriors[name].get((), 0.0)
    found = {value: (1 - unknown) * share for value, share in own.posteriors[name].items()}
    return found | {(): unknown} if unknown else found


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """(R, N, d), (R, N) bool -> (R, d) in single precision; zeros where the mask is empty."""
    weights = mask[..., None].float()
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


HEADS: dict[str, type[CoopNet] | type[LateFusion]] = {"coopnet": CoopNet, "late_fusion": LateFusion}


def check_head(model: Any) -> None:
    """Refuses what is no head, and what makes no sense beside one; ``model``: that part of the configuration.

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
    """One of :data:`HEADS`; None for ``lm``, the text model's own decoder.

    Args:
        head: ``kind``, checked, and its options.
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
