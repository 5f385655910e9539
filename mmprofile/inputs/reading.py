"""What a model reads of a user, token by token, and the words that the tokens make.

Dimension letters as in :mod:`mmprofile.model`.
"""

from itertools import groupby
from typing import NamedTuple

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.syntax import Annotator, window
from mmprofile.inputs.texts import Pieces
from mmprofile.inputs.views import User, View, user_rng

MARKERS = {"review": " review:", "caption": " photo:"}
"""Tokens in front of a text that are no words of it."""


class Token(NamedTuple):
    """A token that the model reads.

    Attributes:
        id: in the tokenizer's vocabulary.
        source: ``review``, ``caption``, ``profile``, ``wanted`` (see :class:`mmprofile.inputs.texts.Pieces`) or ``end``.
        number: of the review, or of the photo of the caption; 0 elsewhere.
    """

    id: int
    source: str
    number: int


class Word(NamedTuple):
    """A word as a reader sees it; a punctuation mark is a word of its own.

    Attributes:
        text: as written.
        source, number: those of its tokens.
        span: its first token and one past its last, of the N tokens of a row.
        space: whether a blank follows.
    """

    text: str
    source: str
    number: int
    span: tuple[int, int]
    space: bool


class Reader:
    """Reads users as a model does in a view.

    Args:
        collator: of the model.
        view: one that hides nothing.
    """

    def __init__(self, collator: Collator, view: View) -> None:
        self.collator, self.view = collator, view
        self.annotator = Annotator(collator.tokenizer, window)

    def __call__(self, user: User, attribute: int = -1) -> tuple[list[Token], list[Word]]:
        """Return the N tokens of a row, one text after another, and the words of reviews and captions.

        Args:
            user: who is read.
            attribute: that the row asks for, see :class:`mmprofile.inputs.batch.Batch`.
        """
        pieces = self.collator.pieces(user, self.view, user_rng(self.collator.seed, user.user_id, 0, 0))
        captioned = [i for i, caption in enumerate(user.captions) if caption is not None]
        traced = Pieces(
            wanted=[Token(i, "wanted", 0) for i in self.collator.wanted()[attribute]],
            reviews=[[Token(i, "review", number) for i in ids] for number, ids in enumerate(pieces.reviews)],
            profile=[Token(i, "profile", 0) for i in pieces.profile],
            captions=[
                [Token(i, "caption", photo) for i in ids]
                for photo, ids in zip(captioned, pieces.captions, strict=False)
            ],
        )
        tokens: list[Token] = []
        for text in self.collator.arranged(traced):
            tokens += [*text, Token(self.collator.grammar.eos, "end", 0)]
        words: list[Word] = []
        first = 0
        for (source, number), group in groupby(tokens, lambda token: token[1:]):
            ids = [token.id for token in group]
            if source in MARKERS:
                words += self._words(ids, source, number, first)
            first += len(ids)
        return tokens, words

    def _words(self, ids: list[int], source: str, number: int, first: int) -> list[Word]:
        """Return the words of a text whose tokens ``ids`` begin at token ``first`` of the row, without its marker."""
        skipped = len(self.annotator.words(self.collator.tokens(MARKERS[source])).texts)
        parts = zip(*self.annotator.words(ids), strict=True)
        words = [
            Word(text=text, source=source, number=number, span=(first + start, first + end), space=space)
            for text, space, (start, end) in parts
        ]
        return words[skipped:]
