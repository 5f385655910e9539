"""What a view shows of a user in words -> token ids, cut to the length that a model can read."""

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from mmprofile.errors import UserError
from mmprofile.inputs.views import Masking, User, View, hidden_attributes
from mmprofile.profile.grammar import Grammar, continuation_ids
from mmprofile.profile.schema import Schema

ENCODINGS = ("joint", "segments")
TARGETS = ("profile", "prompted", "attributes")
MASK, HIDDEN = "[MASK]", "_"
REMEMBERED = 20_000
"""Texts whose tokens are kept: more than an epoch of most data sets, less than 100 MB."""


class Prompt(NamedTuple):
    """What a causal model reads around a user's texts.

    Attributes:
        before, after: token ids in front of the texts and behind them.
        at: how many of ``before`` stand before the photos.
        start: the last token of the prompt; the profile is written behind it.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    at: int
    start: int


class Pieces(NamedTuple):
    """What a view shows of a user in words, piece by piece: token ids, or one object for each token.

    Attributes:
        wanted: the tokens that ask for attributes.
        reviews: of each review.
        profile: of the masked profile.
        captions: of each caption.
    """

    wanted: list[Any]
    reviews: list[list[Any]]
    profile: list[Any]
    captions: list[list[Any]]


def check_encoding(encoding: str, target: str = "profile") -> None:
    """Refuse an unknown encoding of texts or an unknown target.

    Raises:
        UserError: not one of :data:`ENCODINGS`, or of :data:`TARGETS`.
    """
    if encoding not in ENCODINGS:
        raise UserError(f"text.encoding={encoding!r} is not one of {', '.join(ENCODINGS)}")
    if target not in TARGETS:
        raise UserError(f"model.target={target!r} is not one of {', '.join(TARGETS)}")


class TextReader:
    """Reads views of users as token ids.

    Args:
        tokenizer: a transformers tokenizer; its sentinels (or mask token) stand for what is hidden.
        grammar: writes the targets.
        masking: probabilities of hiding.
        max_tokens: of the longest text. Reviews are cut before captions and profile, the longest review first.
        encoding: one of :data:`ENCODINGS`. ``joint``: all that a view shows in words is one text, as in the paper.
            ``segments``: each review, the masked profile and the captions are separate texts. The encoder reads them
            apart and the decoder together (Fusion-in-Decoder, Izacard and Grave 2021), so views can share them.
        target: one of :data:`TARGETS`: the whole ``profile``; the same, ``prompted`` by the names of its attributes; or
            ``attributes``, each in a row of its own that its name prompts (OD-TUP, Wen et al. 2023).
        room: tokens that all texts of a row may have together; None: ``max_tokens`` is the only limit.

    Raises:
        UserError: an unknown encoding or target.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        grammar: Grammar,
        masking: Masking,
        max_tokens: int,
        encoding: str = "joint",
        target: str = "profile",
        room: int | None = None,
    ) -> None:
        check_encoding(encoding, target)
        self.tokenizer, self.grammar, self.masking = tokenizer, grammar, masking
        self.max_tokens, self.joint, self.target, self.room = max_tokens, encoding == "joint", target, room
        hidden = sentinels(tokenizer)
        self.sentinels, self.sentinel_ids = [*hidden], [*hidden.values()]
        self._tokens: dict[str, list[int]] = {}

    @property
    def schema(self) -> Schema:
        """The schema that targets are written in."""
        return self.grammar.schema

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a piece of text, without special tokens; they are remembered for some time."""
        ids = self._tokens.get(text)
        return self._tokenize([text])[text] if ids is None else ids

    def forget(self) -> None:
        """Forget all tokens: the texts of people who will not come again would only take memory."""
        self._tokens = {}

    def review_tokens(self, reviews: Sequence[str]) -> list[list[int]]:
        """Return the token ids of reviews as :meth:`texts` has them; new ones are tokenised together, which is faster."""
        texts = [f" review: {review}" for review in reviews]
        remembered = self._tokens
        ids = {text: remembered[text] for text in texts if text in remembered}
        ids |= self._tokenize([text for text in dict.fromkeys(texts) if text not in ids])
        return [ids[text] for text in texts]

    def _tokenize(self, texts: list[str]) -> dict[str, list[int]]:
        """Tokenise texts and remember as many as there is room for."""
        new = dict(zip(texts, continuation_ids(self.tokenizer, texts), strict=True))
        if len(self._tokens) + len(new) > REMEMBERED:
            self._tokens = {}  # a new dict, since a second thread may be reading the old one
        self._tokens |= islice(new.items(), REMEMBERED)
        return new

    def texts(
        self, user: User, view: View, rng: np.random.Generator, wanted: Sequence[int] = ()
    ) -> list[tuple[int, ...]]:
        """Return the token ids of what a view shows in words: ``wanted``, reviews or the masked profile, captions.

        They are at most ``max_tokens``: all together or, with ``segments``, in each text.

        Args:
            user: who is read.
            view: what is shown.
            rng: draws what is hidden.
            wanted: the tokens that ask for attributes.
        """
        texts = self.arranged(self.pieces(user, view, rng)._replace(wanted=[*wanted]))
        return [(*text, self.grammar.eos) for text in texts]

    def pieces(self, user: User, view: View, rng: np.random.Generator) -> Pieces:
        """Return the same in pieces before anything is cut, without end tokens and with ``wanted`` empty."""
        reviews = self.review_tokens(user.reviews) if view.reviews else []
        profile: list[int] = []
        if view.profile:
            known = user.profile or {}
            hidden = hidden_attributes(self.schema.names, self.masking.profile, rng)
            hidden += [name for name in self.schema.names if name not in known]
            profile = self.tokens(f" profile: {self.schema.mask(known, hidden, self.sentinels)}")
        captions: list[list[int]] = []
        if view.captions != "none":
            for caption in (c for c in user.captions if c is not None):
                ids = self.tokens(f" {caption}")
                if view.captions == "masked":
                    hide = rng.random(len(ids)) < self.masking.caption
                    ids = [self.sentinel_ids[0] if h else i for i, h in zip(ids, hide, strict=True)]
                captions.append(self.tokens(" photo:") + ids)
        return Pieces(wanted=[], reviews=reviews, profile=profile, captions=captions)

    def arranged(self, pieces: Pieces) -> list[list[Any]]:
        """Return the texts that pieces make, cut so that each has room for an end token."""
        room = self.max_tokens if self.room is None else self.room
        budget = (min(self.max_tokens, room) if self.joint else self.max_tokens) - 1
        if self.joint:
            head = [*pieces.wanted, *pieces.profile][:budget]
            spare = (budget - len(head)) // (2 if pieces.reviews else 1)
            captions = _cut(pieces.captions, spare)
            reviews = _cut(pieces.reviews, budget - len(head) - sum(map(len, captions)))
            return [[*chain(*reviews), *head, *chain(*captions)]]
        segments = [pieces.wanted, *pieces.reviews, pieces.profile, [*chain(*_cut(pieces.captions, budget))]]
        segments = [segment[:budget] for segment in segments if segment]
        if self.room is not None:
            segments = _cut(segments, self.room - len(segments))
        return segments or [[]]

    def wanted(self) -> dict[int, list[int]]:
        """Return the rows of a user in a view: number of the attribute to write (-1: all) -> the tokens that ask for it."""
        if self.target == "attributes":
            return {a: self.tokens(f" attribute: {name}") for a, name in enumerate(self.schema.names)}
        prompt = f" attributes: {', '.join(self.schema.names)}" if self.target == "prompted" else ""
        return {-1: self.tokens(prompt) if prompt else []}

    def grammar_of(self, attribute: int) -> Grammar:
        """Return the grammar that writes the target of a row: of one attribute, or of all (-1)."""
        return self.grammar if attribute < 0 else self.grammar.parts[attribute]


def sentinels(tokenizer: Any) -> dict[str, int]:
    """Return what stands for something hidden, in order: how it is written -> its token id.

    T5's ``<extra_id_0>``, ... (mT5's are pieces that begin a word); else the mask token (GLM's is one by name only) or the
    unknown token. Llama 3 and Qwen have none of these: a plain :data:`HIDDEN` stands there.
    """
    vocabulary = tokenizer.get_vocab()
    tokens: dict[str, int] = {}
    for name in (f"<extra_id_{i}>" for i in range(100)):
        token = vocabulary.get(name, vocabulary.get(f"▁{name}"))
        if token is not None and tokenizer(name, add_special_tokens=False)["input_ids"] == [token]:
            tokens[name] = token
    named = tokenizer.mask_token or (MASK if MASK in vocabulary else None) or tokenizer.unk_token or HIDDEN
    return tokens or {named: vocabulary[named]}


def fair_shares(lengths: Sequence[int], budget: int) -> list[int]:
    """Cut ``lengths`` so that they add up to at most ``budget``: short ones stay whole, long ones share the rest alike."""
    shares, left = list(lengths), max(budget, 0)
    for rank, i in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        shares[i] = min(lengths[i], left // (len(lengths) - rank))
        left -= shares[i]
    return shares


def _cut(pieces: list[list[Any]], budget: int) -> list[list[Any]]:
    """Cut pieces to :func:`fair_shares` of a budget."""
    shares = fair_shares([len(piece) for piece in pieces], budget)
    return [piece[:share] for piece, share in zip(pieces, shares, strict=True)]
