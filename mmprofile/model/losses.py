"""Losses of rows and tokens -> sums over each view, which the training loss is made of.

Dimension letters as in :mod:`mmprofile.model`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmprofile.inputs.batch import IGNORE, Batch
from mmprofile.model.fusion import Fused, row_gates


class Output(NamedTuple):
    """What :meth:`mmprofile.model.model.ProfileModel.forward` returns.

    Attributes:
        view_totals: (views,) cross-entropy summed over the target tokens of each view's rows.
        view_tokens: (views,) the number of those tokens, 0 where a view has no row. With a head of classifiers it is the
            number of attributes whose value is known. Both are weighted sums where attributes have weights (see
            :class:`mmprofile.inputs.batch.Batch`).
        logits: (R, L, vocabulary); None where the loss is over the schema's tokens, which needs only a few of them, and
            with a head.
        view_auxiliary: (views,) mean loss of the auxiliary classifiers over attributes and rows of each view, times their
            weight; None without any.
        view_gates: (views, 4) means over each view's rows with photos, the fields of
            :class:`mmprofile.model.fusion.Gates`, NaN where a view has none; None unless asked for, and without a gate or
            photos.
    """

    view_totals: Tensor
    view_tokens: Tensor
    logits: Tensor | None
    view_auxiliary: Tensor | None = None
    view_gates: Tensor | None = None

    @property
    def view_losses(self) -> Tensor:
        """(views,) mean cross-entropy of a target token in each view, as transformers computes it; 0 without rows."""
        return self.view_totals / self.view_tokens.clamp_min(1)


class ViewCounts(NamedTuple):
    """What the losses of each view are means over.

    Attributes:
        tokens: (views,) as ``view_tokens`` of :class:`Output`.
        auxiliary: (views,) number of attributes that the auxiliary classifiers are asked for, weighted likewise; 0 without.
    """

    tokens: Tensor
    auxiliary: Tensor


class ViewSums(NamedTuple):
    """Sums over the rows of each view.

    Attributes:
        totals: (views,) of losses.
        counts: (views,) of what they are means over.
    """

    totals: Tensor
    counts: Tensor


def sums_by_view(batch: Batch, loss: Tensor, counted: Tensor, weights: Tensor | None) -> ViewSums:
    """Sum losses over the rows of each view.

    Args:
        batch: of the rows.
        loss: (R, n) float, n tokens or attributes.
        counted: (R, n) bool, which of them count.
        weights: (R, n) float, how much they count; None: all count 1.
    """
    counts = count_by_view(batch, counted, weights, loss.dtype)
    totals = (loss if weights is None else loss * weights).sum(1)
    return ViewSums(totals=totals.new_zeros(len(batch.views)).index_add(0, batch.row_view, totals), counts=counts)


def count_by_view(batch: Batch, counted: Tensor, weights: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Count what the losses of each view are means over, (views,); the arguments are those of :func:`sums_by_view`."""
    counts = (counted if weights is None else counted * weights).sum(1).to(dtype)
    return counts.new_zeros(len(batch.views)).index_add(0, batch.row_view, counts)


def attribute_weights(batch: Batch) -> Tensor | None:
    """Return how much each attribute of a row counts, (R, A)."""
    return None if batch.weights is None else batch.weights[batch.row_user]


def gate_sums(batch: Batch, rows: Tensor, fused: Fused) -> Tensor:
    """Sum how much of the photos some rows let in, over the rows of each view.

    Args:
        batch: of the rows.
        rows: (r,) their numbers.
        fused: of these rows.

    Returns:
        (views, 5), the fields of :class:`mmprofile.model.fusion.Gates`, and the number of rows with photos.
    """
    photo_mask = batch.row_photo_mask[rows]
    values = torch.cat([row_gates(fused, photo_mask), photo_mask.any(1, keepdim=True)], 1)
    return values.new_zeros(len(batch.views), values.shape[1]).index_add(0, batch.row_view[rows], values)


def full_loss(batch: Batch, logits: Tensor) -> Tensor:
    """Return the loss of each target token among all tokens.

    Args:
        batch: with labels.
        logits: (R, L, vocabulary).

    Returns:
        (R, L), 0 beyond the end of a target.
    """
    assert batch.labels is not None
    logits = logits[
        :, : batch.labels.shape[1]
    ]  # the decoder reads one token even where no row of the batch has a target
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE, reduction="none")
    return loss.view_as(batch.labels)


def schema_loss(batch: Batch, states: Tensor, token_logits: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the loss of each target token among those that the grammar allows.

    It is 0 where there is no choice, so only choices need logits.

    Args:
        batch: with labels and legal tokens.
        states: (R, L, d) of the decoder.
        token_logits: states (n, d) and token ids (n2,) -> logits (n, n2).

    Returns:
        (R, L).
    """
    assert batch.labels is not None
    assert batch.legal is not None
    row, place, token = batch.legal
    labels = batch.labels.flatten()
    position = row * batch.labels.shape[1] + place
    count = position.bincount(minlength=len(labels))
    choices = (count > 1).nonzero().squeeze(1)
    several = count[position] > 1
    rivals, number = token[several].unique(return_inverse=True)
    logits = token_logits(states.flatten(0, 1)[choices], rivals).float()
    illegal = torch.ones_like(logits, dtype=torch.bool)
    illegal[torch.searchsorted(choices, position[several]), number] = False
    target = torch.searchsorted(rivals, labels[choices])
    loss = F.cross_entropy(logits.masked_fill(illegal, -torch.inf), target, reduction="none")
    return loss.new_zeros(len(labels)).index_copy(0, choices, loss).view_as(batch.labels)
