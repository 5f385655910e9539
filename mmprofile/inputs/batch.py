"""Users and views -> one batch of tensors: each distinct text and each distinct photo in it once."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmprofile.errors import UserError
from mmprofile.inputs.syntax import Annotator, Parser, Syntax
from mmprofile.inputs.views import Masking, User, View, hidden_attributes, user_rng
from mmprofile.profile.grammar import Grammar
from mmprofile.profile.schema import Profile, Schema

IGNORE = -100
REMEMBERED = 20_000
"""Texts whose tokens are kept: more than an epoch of most data sets, less than 100 MB."""
ENCODINGS = ("joint", "segments")
TARGETS = ("profile", "prompted", "attributes")


class Prompt(NamedTuple):
    """What a causal model reads around a user's texts.

    Attributes:
        before, after: token ids in front of the texts and behind them.
        at: how many of ``before`` stand before the photos.
        start: the last token of the prompt, from which the profile is written on.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    at: int
    start: int


class Pieces(NamedTuple):
    """What a user's view says in words: the tokens of each piece, or what stands for them one by one.

    Attributes:
        wanted, profile: tokens.
        reviews, captions: tokens of each.
    """

    wanted: list[Any]
    reviews: list[list[Any]]
    profile: list[Any]
    captions: list[list[Any]]


@dataclass
class Batch:
    """A batch of users in their views. A *row* is one user in one view, or one attribute of a user in one view.

    Dimension letters: T distinct texts, S tokens of the longest, N tokens of a row's texts together, P distinct photos,
    R rows, K photos a row, L target tokens.

    Attributes:
        users: user ids, in order.
        views: the views, in order.
        text_ids, text_mask: (T, S) long and bool.
        photos: (P, 3, H, W) uint8, P may be 0; masked copies of a photo are photos of their own.
        photo_keys: per photo a digest of its pixels, by which its states may be remembered; None for masked copies.
        row_user, row_view: (R,) indices into ``users`` and ``views``.
        row_attribute: (R,) number of the attribute that is to be written; -1 for the whole profile.
        row_tokens: (R, N) indices into the texts' tokens, text * S + place, texts one after another; -1 beyond the end.
        row_photos, row_photo_mask: (R, K) index into the photos and whether there is one; K may be 0.
        labels: (R, L) long, -100 beyond the end; None without targets.
        legal: (3, n) long, every (row, place, id) that the grammar allows along the targets; None without targets.
        profiles: the gold profile of each user; None without targets.
        weights: (users, attributes) how much each attribute of a user counts in the loss; None: all count 1.
        label_weights: (R, L) the same of each label: all tokens of an attribute weigh alike, its name among them, and the end
            as much as the heaviest attribute of its row; None with ``weights``.
        syntax: nouns and edges of the rows' texts; None where the model does not ask for them.
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
        """The batch on another device."""
        return self._mapped(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, for DataLoader(pin_memory=True)."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {n: function(value) for n, value in values.items() if isinstance(value, Tensor)}
        syntax = None if self.syntax is None else Syntax(*map(function, self.syntax))
        return replace(self, **changed, syntax=syntax)


def pad(rows: Sequence[Sequence[int] | np.ndarray], value: int) -> Tensor:
    """Rows of different lengths -> (rows, longest) long, filled up with ``value``."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def fair_shares(lengths: Sequence[int], budget: int) -> list[int]:
    """Cuts ``lengths`` so that they add up to at most ``budget``: short ones stay whole, long ones share the rest alike."""
    shares, left = list(lengths), max(budget, 0)
    for rank, i in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        shares[i] = min(lengths[i], left // (len(lengths) - rank))
        left -= shares[i]
    return shares


def check_encoding(encoding: str, target: str = "profile") -> None:
    """Refuses what is not an encoding of texts, or no target.

    Raises:
        UserError: not one of :data:`ENCODINGS`, or of :data:`TARGETS`.
    """
    if encoding not in ENCODINGS:
        raise UserError(f"text.encoding={encoding!r} is not one of {', '.join(ENCODINGS)}")
    if target not in TARGETS:
        raise UserError(f"model.target={target!r} is not one of {', '.join(TARGETS)}")


class Collator:
    """Makes batches.

    Args:
        tokenizer: a transformers tokenizer; its sentinels (or mask token) stand for what is hidden.
        grammar: writes the targets.
        load_photo: photo key -> uint8 (3, H, W), already at the vision model's size; None for a model without photos.
        masking: probabilities of hiding.
        max_tokens: longest text; reviews give way to captions and profile, the longest review first.
        seed: of all masking, together with the epoch and the user's id.
        encoding: one of :data:`ENCODINGS`: ``joint``, what a view shows in words is one text, as in the paper;
            ``segments``, each review, the masked profile and the captions are texts of their own, which the encoder
            reads apart and the decoder together (Fusion-in-Decoder, Izacard and Grave 2021), so that views share them.
        target: one of :data:`TARGETS`: the whole ``profile``; the same, ``prompted`` by the names of its attributes; or
            ``attributes``, each in a row of its own that is prompted by its name (OD-TUP, Wen et al. 2023).
        prompt: what a causal model reads around the texts.
        room: tokens that all texts of a row may have together; None: ``max_tokens`` is the only limit.
        parser: finds the nouns and edges of the texts; None where nobody asks for them.

    Raises:
        UserError: an unknown encoding or target.
    """

    def __init__(
        self,
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
        check_encoding(encoding, target)
        self.joint, self.target, self.prompt, self.room = encoding == "joint", target, prompt, room
        self.tokenizer, self.grammar, self.load_photo = tokenizer, grammar, load_photo
        self.masking, self.max_tokens, self.seed = masking, max_tokens, seed
        self.sentinels = sentinels(tokenizer)
        self.sentinel_ids = tokenizer.convert_tokens_to_ids(self.sentinels)
        self.annotator = None if parser is None else Annotator(tokenizer, parser)
        self._tokens: dict[str, list[int]] = {}
        self._digests: dict[str, bytes] = {}

    @property
    def schema(self) -> Schema:
        """The schema that targets are written in."""
        return self.grammar.schema

    def tokens(self, text: str) -> list[int]:
        """Token ids of a piece of text without special tokens, remembered for some time."""
        found = self._tokens.get(text)
        return self._learn([text])[text] if found is None else found

    def review_tokens(self, reviews: Sequence[str]) -> list[list[int]]:
        """Token ids of many reviews as :meth:`texts` has them; those not remembered are tokenised together, which is faster."""
        texts = [f" review: {review}" for review in reviews]
        remembered = self._tokens
        known = {text: remembered[text] for text in texts if text in remembered}
        known |= self._learn([text for text in dict.fromkeys(texts) if text not in known])
        return [known[text] for text in texts]

    def _learn(self, texts: list[str]) -> dict[str, list[int]]:
        """Tokenises texts and remembers as many as there is room for."""
        new = (
            dict(zip(texts, self.tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True)) if texts else {}
        )
        if len(self._tokens) + len(new) > REMEMBERED:
            self._tokens = {}  # another, not emptied: a second thread may be looking up
        self._tokens |= islice(new.items(), REMEMBERED)
        return new

    def texts(
        self, user: User, view: View, rng: np.random.Generator, wanted: Sequence[int] = ()
    ) -> list[tuple[int, ...]]:
        """Token ids of what a view shows in words: what is ``wanted``, reviews, or the masked profile, then captions.

        At most ``max_tokens``, of all together or, with ``segments``, of each.
        """
        texts = self.arranged(self.pieces(user, view, rng)._replace(wanted=[*wanted]))
        return [(*text, self.grammar.eos) for text in texts]

    def pieces(self, user: User, view: View, rng: np.random.Generator) -> Pieces:
        """The same before anything is cut, without an end; nothing is wanted."""
        reviews = self.review_tokens(user.reviews) if view.reviews else []
        profile: list[int] = []
        if view.profile:
            hidden = hidden_attributes(self.schema.names, self.masking.profile, rng)
            profile = self.tokens(f" profile: {self.schema.mask(user.profile or {}, hidden, self.sentinels)}")
        captions: list[list[int]] = []
        if view.captions != "none":
            for caption in (c for c in user.captions if c is not None):
                ids = self.tokens(f" {caption}")
                if view.captions == "masked":
                    hide = rng.random(len(ids)) < self.masking.caption
                    ids = [self.sentinel_ids[0] if h else i for i, h in zip(ids, hide, strict=True)]
                captions.append(self.tokens(" photo:") + ids)
        return Pieces([], reviews, profile, captions)

    def arranged(self, pieces: Pieces) -> list[list[Any]]:
        """Pieces cut and put together to texts, which have room for an end token; whatever stands for the tokens."""
        wanted, reviews, profile, captions = pieces
        room = self.max_tokens if self.room is None else self.room
        budget = (min(self.max_tokens, room) if self.joint else self.max_tokens) - 1
        if self.joint:
            profile = [*wanted, *profile][:budget]
            spare = (budget - len(profile)) // (2 if reviews else 1)
            captions = _cut(captions, spare)
            reviews = _cut(reviews, budget - len(profile) - sum(map(len, captions)))
            return [[*chain(*reviews), *profile, *chain(*captions)]]
        segments = [wanted, *reviews, profile, [*chain(*_cut(captions, budget))]]
        segments = [segment[:budget] for segment in segments if segment]
        if self.room is not None:
            segments = _cut(segments, self.room - len(segments))
        return segments or [[]]

    def __call__(
        self, users: Sequence[User], views: Sequence[View], epoch: int = 0, drawn: Sequence[int] | None = None
    ) -> Batch:
        """Users -> a batch with every user in every view, or in the one view that ``drawn`` names for it.

        Args:
            users: users; with profile throughout, or without (then there are no labels).
            views: the views, in the order that ``row_view`` refers to.
            epoch: masks differ from epoch to epoch.
            drawn: for the ``sampled`` schedule: an index into ``views`` per user.
        """
        wanted = self.wanted()
        rows = [
            (u, v, a)
            for u in range(len(users))
            for v in range(len(views))
            for a in wanted
            if (drawn is None or drawn[u] == v)
        ]
        texts: dict[tuple[int, ...], int] = {}
        photos: dict[tuple[str, ...], int] = {}
        pixels: list[np.ndarray] = []
        row_texts: list[list[int]] = []
        row_photos = []
        for u, v, a in rows:
            user, view = users[u], views[v]
            rng = user_rng(self.seed, user.user_id, epoch, v)  # what is hidden is the same for all attributes
            seen = self.texts(user, view, rng, wanted[a])
            if self.prompt is not None:
                seen = [self.prompt.before, *seen, self.prompt.after]
            row_texts.append([texts.setdefault(text, len(texts)) for text in seen if text])
            keys = [(photo, user.user_id, view.name) if view.photos == "masked" else (photo,) for photo in user.photos]
            for key in keys if view.photos != "none" else []:
                if key not in photos:
                    pixels.append(self._photo(key, pixels, photos, rng))
                    photos[key] = len(pixels) - 1
            row_photos.append([photos[key] for key in keys] if view.photos != "none" else [])
        labels = legal = weights = label_weights = None
        if users and users[0].profile is not None:
            targets = {(u, a): self._grammar(a).encode(users[u].profile or {}) for u, _, a in rows}
            labels = pad([targets[u, a] for u, _, a in rows], IGNORE)
            pairs = [self._grammar(a).legal(targets[u, a]) for u, _, a in rows]
            row = np.repeat(np.arange(len(rows)), [len(one) for one in pairs])
            legal = torch.from_numpy(np.vstack([row, np.concatenate(pairs).T]))
            if any(user.weights for user in users):
                names = self.schema.names
                weights = torch.tensor([[user.weights.get(name, 1.0) for name in names] for user in users])
                spread = {(u, a): self._label_weights(users[u], a) for u, _, a in rows}
                label_weights = pad_sequence([spread[u, a] for u, _, a in rows], batch_first=True)
        text_ids = pad(list(texts), -1)
        numbers = [np.arange(t * text_ids.shape[1], t * text_ids.shape[1] + len(text)) for text, t in texts.items()]
        row_tokens = [np.concatenate([numbers[t] for t in row]) for row in row_texts]
        return Batch(
            users=[user.user_id for user in users],
            views=tuple(views),
            text_ids=torch.where(text_ids < 0, self.tokenizer.pad_token_id or 0, text_ids),
            text_mask=text_ids >= 0,
            photos=torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0, 3, 0, 0, dtype=torch.uint8),
            photo_keys=[self._digest(key[0], pixels[i]) if len(key) == 1 else None for key, i in photos.items()],
            row_user=torch.tensor([u for u, _, _ in rows]),
            row_view=torch.tensor([v for _, v, _ in rows]),
            row_attribute=torch.tensor([a for _, _, a in rows]),
            row_tokens=pad(row_tokens, -1),
            row_photos=pad(row_photos, -1).clamp_min(0),
            row_photo_mask=pad(row_photos, -1) >= 0,
            labels=labels,
            legal=legal,
            profiles=None if labels is None else [user.profile or {} for user in users],
            syntax=None if self.annotator is None else self.annotator.rows(list(texts), row_texts),
            weights=weights,
            label_weights=label_weights,
        )

    def wanted(self) -> dict[int, list[int]]:
        """The rows of a user in a view: number of the attribute to write (-1: all) -> the tokens that ask for it."""
        if self.target == "attributes":
            return {a: self.tokens(f" attribute: {name}") for a, name in enumerate(self.schema.names)}
        asked = f" attributes: {', '.join(self.schema.names)}" if self.target == "prompted" else ""
        return {-1: self.tokens(asked) if asked else []}

    def _grammar(self, attribute: int) -> Grammar:
        """What writes the target of a row."""
        return self.grammar if attribute < 0 else self.grammar.parts[attribute]

    def _label_weights(self, user: User, attribute: int) -> Tensor:
        """(L,) what each token of a row's target weighs."""
        grammar = self._grammar(attribute)
        lengths = [len(ids) for ids in grammar.encode_attributes(user.profile or {})]
        weights = [user.weights.get(name, 1.0) for name in grammar.schema.names]
        return torch.tensor([*weights, max(weights)]).repeat_interleave(torch.tensor([*lengths, 1]))

    def _digest(self, photo: str, pixels: np.ndarray) -> bytes:
        if photo not in self._digests:
            self._digests[photo] = hashlib.sha256(pixels.tobytes()).digest()
        return self._digests[photo]

    def _photo(
        self,
        key: tuple[str, ...],
        pixels: list[np.ndarray],
        photos: dict[tuple[str, ...], int],
        rng: np.random.Generator,
    ) -> np.ndarray:
        assert self.load_photo is not None, "a view with photos needs load_photo"
        plain = photos.get(key[:1])
        photo = self.load_photo(key[0]) if plain is None else pixels[plain]
        return mask_pixels(photo, self.masking.image, rng) if len(key) > 1 else photo


def sentinels(tokenizer: Any) -> list[str]:
    """The tokens that stand for something hidden: T5's ``<extra_id_0>``, ... in order, else the mask token."""
    known = tokenizer.get_vocab()
    found = [token for token in (f"<extra_id_{i}>" for i in range(100)) if token in known]
    if found:
        return found
    return [tokenizer.mask_token or tokenizer.unk_token]


def _cut(pieces: list[list[Any]], budget: int) -> list[list[Any]]:
    shares = fair_shares([len(piece) for piece in pieces], budget)
    return [piece[:share] for piece, share in zip(pieces, shares, strict=True)]


def mask_pixels(photo: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Turns each pixel black with ``probability``, in steps of 2^-16 (all channels of a pixel together).

    uint8 (3, H, W) both ways.
    """
    size = photo.shape[1:]
    draws = np.frombuffer(rng.bytes(2 * math.prod(size)), np.uint16).reshape(size)  # 4 times as fast as rng.random
    return photo * (draws >= round(probability * 2**16))
