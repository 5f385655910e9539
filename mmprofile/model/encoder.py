"""The reading half of the model: each distinct text and photo is encoded once, then fused row by row.

Equations 1 to 3 and 6 to 8 of Qiang et al. Dimension letters as in :mod:`mmprofile.model`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmprofile.inputs.batch import Batch
from mmprofile.model.fusion import Fused, Fusion
from mmprofile.model.vision import LlavaVision, VisionEncoder

LIKE_TEXTS = 0.85
"""Texts of at least this share of the longest among them are padded to it and encoded together."""


class Read(NamedTuple):
    """Each text and photo of a batch, encoded once.

    Attributes:
        texts: (n, d) states of the texts' tokens, in any order.
        place: (T * S,) long, where in ``texts`` the state of a token is; tokens are counted as in ``Batch.row_tokens``.
        photos: (P, M, dv); None where no row shows a photo, or the model sees none.
    """

    texts: Tensor
    place: Tensor
    photos: Tensor | None


def alike(lengths: Tensor, share: float) -> Iterator[tuple[Tensor, int]]:
    """Yield groups of like length, since padding all to the longest would cost a good part of a step.

    Args:
        lengths: (n,) long.
        share: the shortest of a group has at least this share of the length of the longest.

    Yields:
        The numbers (r,) of a group, and the length of its longest.
    """
    order = lengths.argsort(descending=True, stable=True)
    sorted_lengths: list[int] = lengths[order].tolist()
    first = 0
    while first < len(order):
        longest = sorted_lengths[first]
        last = next((i for i in range(first, len(order)) if sorted_lengths[i] < share * longest), len(order))
        yield order[first:last], longest
        first = last


class UserEncoder(nn.Module):
    """The reading half of :class:`mmprofile.model.model.ProfileModel`: a batch -> what the decoder reads.

    Args:
        text: an encoder-decoder or a causal language model of transformers.
        vision: photo encoder; None for a model that never sees photos.
        fusion: from :func:`mmprofile.model.fusion.build_fusion`.
    """

    def __init__(self, text: Any, vision: VisionEncoder | LlavaVision | None, fusion: Fusion) -> None:
        super().__init__()
        self.text, self.vision, self.fusion = text, vision, fusion
        self.causal = not text.config.is_encoder_decoder

    def encode(self, batch: Batch) -> Fused:
        """Return what the decoder reads of each row (equations 1, 2 and 3 or 6 to 8)."""
        return self._fuse(batch, self._read(batch), torch.arange(len(batch.row_view), device=batch.row_view.device))

    def _read(self, batch: Batch, embedded: Tensor | None = None) -> Read:
        """Encode each text and photo of a batch once; ``embedded`` (T, S, d): embeddings of the texts, if computed before."""
        if embedded is None:
            embedded = self._embeddings()(batch.text_ids)
        seen = self.vision is not None and len(batch.photos) > 0
        photos = self.vision(batch.photos, batch.photo_keys) if seen else None  # type: ignore[misc]
        if self.causal or self.fusion.early:
            every = torch.arange(batch.text_ids.numel(), device=batch.text_ids.device)
            return Read(texts=embedded.flatten(0, 1), place=every, photos=photos)
        lengths = batch.text_mask.sum(1)
        place = torch.full_like(batch.text_ids, -1)
        parts, first = [], 0
        for texts, width in alike(lengths, LIKE_TEXTS):
            mask = batch.text_mask[texts, :width]
            states = self.text.get_encoder()(inputs_embeds=embedded[texts, :width], attention_mask=mask)
            parts.append(states.last_hidden_state.flatten(0, 1))
            place[texts, :width] = torch.arange(first, first + mask.numel(), device=place.device).view(mask.shape)
            first += mask.numel()
        return Read(texts=torch.cat(parts), place=place.flatten(), photos=photos)

    def _embeddings(self) -> nn.Module:
        """Return the embeddings of what is read, vocabulary x d."""
        table: nn.Module = (self.text if self.causal else self.text.get_encoder()).get_input_embeddings()
        return table

    def _fuse(self, batch: Batch, read: Read, rows: Tensor) -> Fused:
        """Return what the decoder reads of some rows (r,)."""
        fused = self._joined(batch, read, rows)
        if self.fusion.early and not self.causal:
            states = self.text.get_encoder()(inputs_embeds=fused.hidden, attention_mask=fused.mask).last_hidden_state
            fused = fused._replace(hidden=states)
        return self.fusion.refine(fused, batch.syntax.of(rows) if batch.syntax is not None else None)

    @staticmethod
    def _texts(batch: Batch, read: Read, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states (r, N, d) of the texts of some rows (r,), and their mask (r, N)."""
        tokens = batch.row_tokens[rows]
        tokens = tokens[:, : int((tokens >= 0).sum(1).max())]
        mask = tokens >= 0
        return read.texts.index_select(0, read.place[tokens.clamp_min(0).flatten()]).unflatten(0, mask.shape), mask

    @staticmethod
    def _photos(batch: Batch, photos: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (r, V, dv) of some rows (r,), and their mask (r, V), from those of the photos (P, M, dv)."""
        visual_mask = batch.row_photo_mask[rows].repeat_interleave(photos.shape[1], 1)
        return photos[batch.row_photos[rows]].flatten(1, 2), visual_mask

    def _joined(self, batch: Batch, read: Read, rows: Tensor) -> Fused:
        """Fuse texts and photos of some rows (r,); the fusion does not touch rows without a photo."""
        hidden, mask = self._texts(batch, read, rows)
        with_photos = batch.row_photo_mask[rows].any(1).nonzero().squeeze(1)
        if read.photos is None or not len(with_photos):
            return Fused(hidden=hidden, mask=mask)
        visual, visual_mask = self._photos(batch, read.photos, rows[with_photos])
        if len(with_photos) == len(rows):
            return self.fusion(hidden, mask, visual, visual_mask)
        fused: Fused = self.fusion(hidden[with_photos], mask[with_photos], visual, visual_mask)

        def spread(part: Tensor | None) -> Tensor | None:
            return None if part is None else _spread(part, None, with_photos, len(rows))

        return Fused(
            hidden=_spread(fused.hidden, hidden, with_photos, len(rows)),
            mask=_spread(fused.mask, mask, with_photos, len(rows)),
            gate=spread(fused.gate),
            attention=spread(fused.attention),
            visual=spread(fused.visual),
        )


def _spread(part: Tensor, base: Tensor | None, rows: Tensor, count: int) -> Tensor:
    """Put fused rows back among all rows.

    Args:
        part: (r, ...) the fused rows.
        base: (count, ...) what the other rows keep; None: zeros.
        rows: (r,) the numbers of the fused rows.
        count: of all rows.

    Returns:
        (count, ...).
    """
    if base is not None and base.shape[1] > part.shape[1]:  # a row without photos may be the longest
        part = torch.cat([part, part.new_zeros(len(part), base.shape[1] - part.shape[1], *part.shape[2:])], 1)
    full = part.new_zeros(count, *part.shape[1:])
    if base is not None:
        full[:, : base.shape[1]] = base.to(part.dtype)
    return full.index_copy(0, rows, part)
