"""Users and views -> one batch of tensors: each distinct text and each distinct photo is in it once.

Dimension letters as in :mod:`mmprofile.model`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmprofile.inputs.syntax import Annotator, Parser, Syntax
from mmprofile.inputs.texts import Prompt, TextReader
from mmprofile.inputs.views import Masking, User, View, user_rng
from mmprofile.profile.grammar import Grammar, Target
from mmprofile.profile.schema import Profile

IGNORE = -100
"""Label of a place that has no target."""


@dataclass(kw_only=True)
class Batch:
    """A batch of users in their views. A *row* is one user in one view, or one attribute of a user in one view.

    Attributes:
        users: U user ids, in order.
        views: the views, in order.
        text_ids, text_mask: (T, S) long and bool.
        photos: (P, 3, height, width) uint8, P may be 0; a masked copy of a photo is another photo.
        photo_keys: a digest of the pixels of each photo, by which its states may be remembered; None for masked copies.
        row_user, row_view: (R,) long, indices into ``users`` and ``views``.
        row_attribute: (R,) long, number of the attribute to write; -1 for the whole profile.
        row_tokens: (R, N) long, indices into the texts' tokens, text * S + place, texts one after another; -1 beyond the
            end.
        row_photos, row_photo_mask: (R, K) long and bool, index into the photos and whether there is one; K may be 0.
        labels: (R, L) long, :data:`IGNORE` beyond the end; None without targets.
        legal: (3, n) long, each (row, place, token id) that the grammar allows along the targets; None without targets.
        profiles: the gold profile of each user; None without targets.
        weights: (U, A) how much each attribute of a user counts in the loss; None: all count 1.
        label_weights: (R, L) how much each label counts: all tokens of an attribute, its name included, count as the
            attribute, and the end token as much as the heaviest attribute of its row; None without ``weights``.
        syntax: nouns and edges of the rows' texts; None where the model does not use them.
    """

    users: list[str]
    views: tuple[View, ...]
    text_ids: Tensor
    text_mask: Tensor
    photos: Tensor
    photo_keys: list[bytes | None]
    row_user: Tensor
    row_view: Tensor
    row_attribute: Tensor
    row_tokens: Tensor
    row_photos: Tensor
    row_photo_mask: Tensor
    labels: Tensor | None
    legal: Tensor | None
    profiles: list[Profile] | None = None
    syntax: Syntax | None = None
    weights: Tensor | None = None
    label_weights: Tensor | None = None

    def to(self, device: torch.device | str, **kwargs: Any) -> "Batch":
        """Return the batch on another device."""
        return self._mapped(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, for ``DataLoader(pin_memory=True)``."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with ``function`` applied to each of its tensors."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {n: function(value) for n, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed, syntax=None if self.syntax is None else self.syntax.mapped(function))


class Row(NamedTuple):
    """A row of a batch.

    Attributes:
        user, view: indices into the batch's users and views.
        attribute: number of the attribute to write; -1 for the whole profile.
    """

    user: int
    view: int
    attribute: int


class TargetTensors(NamedTuple):
    """What the rows of a batch are to write; the fields are those of :class:`Batch`."""

    labels: Tensor
    legal: Tensor
    weights: Tensor | None
    label_weights: Tensor | None


class Collator(TextReader):
    """Makes batches.

    Args:
        load_photo: photo key -> uint8 (3, height, width), at the vision model's size; None for a model without photos.
        seed: of all masking, together with the epoch and the user's id.
        prompt: what a causal model reads around the texts.
        parser: finds the nouns and edges of the texts; None where the model does not use them.
        tokenizer, grammar, masking, max_tokens, encoding, target, room: see :class:`mmprofile.inputs.texts.TextReader`.

    Raises:
        UserError: an unknown encoding or target.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        grammar: Grammar,
        load_photo: Callable[[str], np.ndarray] | None,
        masking: Masking,
        max_tokens: int,
        seed: int,
        encoding: str = "joint",
        target: str = "profile",
        prompt: Prompt | None = None,
        room: int | None = None,
        parser: Parser | None = None,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            grammar=grammar,
            masking=masking,
            max_tokens=max_tokens,
            encoding=encoding,
            target=target,
            room=room,
        )
        self.load_photo, self.seed, self.prompt = load_photo, seed, prompt
        self.annotator = None if parser is None else Annotator(tokenizer, parser)
        self._digests: dict[str, bytes] = {}

    def __call__(
        self, users: Sequence[User], views: Sequence[View], epoch: int = 0, drawn: Sequence[int] | None = None
    ) -> Batch:
        """Return a batch with each user in all views, or in the one view that ``drawn`` gives.

        Args:
            users: all with profiles, or all without (then there are no labels).
            views: the views, in the order that ``row_view`` refers to.
            epoch: masks differ from epoch to epoch.
            drawn: for the ``sampled`` schedule: an index into ``views`` per user.
        """
        wanted = self.wanted()
        rows = [
            Row(user=u, view=v, attribute=a)
            for u in range(len(users))
            for v in range(len(views))
            for a in wanted
            if (drawn is None or drawn[u] == v)
        ]
        texts: dict[tuple[int, ...], int] = {}
        photos = _PhotoTable(self.load_photo, self.masking.image)
        row_texts: list[list[int]] = []
        row_photos: list[list[int]] = []
        for row in rows:
            user, view = users[row.user], views[row.view]
            rng = user_rng(self.seed, user.user_id, epoch, row.view)  # what is hidden is the same for all attributes
            shown = self.texts(user, view, rng, wanted[row.attribute])
            if self.prompt is not None:
                shown = [self.prompt.before, *shown, self.prompt.after]
            row_texts.append([texts.setdefault(text, len(texts)) for text in shown if text])
            copy = (user.user_id, view.name) if view.photos == "masked" else ()
            row_photos.append(
                [photos.number(photo, copy, rng) for photo in user.photos] if view.photos != "none" else []
            )
        targets = self._targets(users, rows) if users and users[0].profile is not None else None
        text_ids = pad(list(texts), -1)
        numbers = [np.arange(t * text_ids.shape[1], t * text_ids.shape[1] + len(text)) for text, t in texts.items()]
        return Batch(
            users=[user.user_id for user in users],
            views=tuple(views),
            text_ids=torch.where(text_ids < 0, self.tokenizer.pad_token_id or 0, text_ids),
            text_mask=text_ids >= 0,
            photos=photos.tensor(),
            photo_keys=[self._digest(key[0], photos.pixels[i]) if len(key) == 1 else None for key, i in photos.items()],
            row_user=torch.tensor([row.user for row in rows]),
            row_view=torch.tensor([row.view for row in rows]),
            row_attribute=torch.tensor([row.attribute for row in rows]),
            row_tokens=pad([np.concatenate([numbers[t] for t in row]) for row in row_texts], -1),
            row_photos=pad(row_photos, -1).clamp_min(0),
            row_photo_mask=pad(row_photos, -1) >= 0,
            labels=None if targets is None else targets.labels,
            legal=None if targets is None else targets.legal,
            profiles=None if targets is None else [user.profile or {} for user in users],
            syntax=None if self.annotator is None else self.annotator.rows(list(texts), row_texts),
            weights=None if targets is None else targets.weights,
            label_weights=None if targets is None else targets.label_weights,
        )

    def _targets(self, users: Sequence[User], rows: Sequence[Row]) -> TargetTensors:
        """Return what the rows are to write."""
        wanted = {
            (row.user, row.attribute): self.grammar_of(row.attribute).target(users[row.user].profile or {})
            for row in rows
        }
        targets = [wanted[row.user, row.attribute] for row in rows]
        number = np.repeat(np.arange(len(rows)), [len(target.legal) for target in targets])
        weights = label_weights = None
        if any(user.weights for user in users):
            weights = torch.tensor([[user.weights.get(name, 1.0) for name in self.schema.names] for user in users])
            spread = {key: self._label_weights(users[key[0]], key[1], target) for key, target in wanted.items()}
            label_weights = pad_sequence([spread[row.user, row.attribute] for row in rows], batch_first=True)
        return TargetTensors(
            labels=pad([target.ids for target in targets], IGNORE),
            legal=torch.from_numpy(np.vstack([number, np.concatenate([target.legal for target in targets]).T])),
            weights=weights,
            label_weights=label_weights,
        )

    def _label_weights(self, user: User, attribute: int, target: Target) -> Tensor:
        """Return how much each token of a row's target counts, (L,)."""
        weights = [user.weights.get(name, 1.0) for name in self.grammar_of(attribute).schema.names]
        return torch.tensor([*weights, max(weights)]).repeat_interleave(torch.tensor(target.lengths))

    def forget(self) -> None:
        """Forget the tokens of all texts, and the digests of all photos."""
        super().forget()
        self._digests = {}

    def _digest(self, photo: str, pixels: np.ndarray) -> bytes:
        """Return the digest of a photo's pixels, uint8 (3, height, width)."""
        if photo not in self._digests:
            self._digests[photo] = hashlib.sha256(pixels.tobytes()).digest()
        return self._digests[photo]


class _PhotoTable(dict[tuple[str, ...], int]):
    """The distinct photos of a batch, each loaded once; a masked copy is another photo. Keys -> numbers.

    Args:
        load: photo key -> uint8 (3, height, width).
        probability: of hiding a pixel of a masked copy.
    """

    def __init__(self, load: Callable[[str], np.ndarray] | None, probability: float) -> None:
        super().__init__()
        self.load, self.probability = load, probability
        self.pixels: list[np.ndarray] = []

    def number(self, photo: str, copy: tuple[str, ...], rng: np.random.Generator) -> int:
        """Return the number of a photo or, where ``copy`` names one (user and view), of its masked copy."""
        key = (photo, *copy)
        if key not in self:
            assert self.load is not None, "a view with photos needs load_photo"
            plain = self.get((photo,))
            pixels = self.load(photo) if plain is None else self.pixels[plain]
            self.pixels.append(mask_pixels(pixels, self.probability, rng) if copy else pixels)
            self[key] = len(self.pixels) - 1
        return self[key]

    def tensor(self) -> Tensor:
        """Return uint8 (P, 3, height, width)."""
        return torch.from_numpy(np.stack(self.pixels)) if self.pixels else torch.empty(0, 3, 0, 0, dtype=torch.uint8)


def pad(rows: Sequence[Sequence[int] | np.ndarray], value: int) -> Tensor:
    """Return rows of different lengths as (rows, longest) long, filled up with ``value``."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def mask_pixels(photo: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Turn each pixel black with ``probability``, in steps of 2^-16 (all channels of a pixel together).

    Args:
        photo: uint8 (3, height, width).
        probability: of a pixel.
        rng: draws them.

    Returns:
        uint8 (3, height, width).
    """
    size = photo.shape[1:]
    draws = np.frombuffer(rng.bytes(2 * math.prod(size)), np.uint16).reshape(size)  # 4 times as fast as rng.random
    return photo * (draws >= round(probability * 2**16))
