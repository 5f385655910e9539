"""What a model reads of a user, token by token, and the words that the tokens make."""

from itertools import groupby
from typing import NamedTuple

from mmprofile.inputs.batch import Collator, Pieces
from mmprofile.inputs.syntax import Annotator, window
from mmprofile.inputs.views import User, View, user_rng

MARKERS = {"review": " review:", "caption": " photo:"}
"""What stands before a text and is no word of it."""


class Token(NamedTuple):
    """A token of what the model reads.

    Attributes:
        id: in the tokenizer's vocabulary.
        source: ``review``, ``caption``, ``profile``, ``wanted`` (see :class:`mmprofile.inputs.batch.Pieces`) or ``end``.
        number: of the review, or of the photo that the caption is of; 0 elsewhere.
    """

    id: int
    source: str
    number: int


class Word(NamedTuple):
    """A word as a reader sees it; a punctuation mark is a word of its own.

    Attributes:
        text: as written.
        source, number: as of its tokens.
        span: its first token and one past its last, of the N.
        space: whether a blank follows.
    """

    text: str
    source: str
    number: int
    span: tuple[int, int]
    space: bool


class Reader:
    """Users as a model reads them in a view.

    Args:
        collator: of the model.
        view: without anything hidden.
    """

    def __init__(self, collator: Collator, view: View) -> None:
        self.collator, self.view = collator, view
        self.annotator = Annotator(collator.tokenizer, window)

    def __call__(self, user: User, attribute: int = -1) -> tuple[list[Token], list[Word]]:
        """The tokens of a row of a batch, one text after another, and the words of reviews and captions.

        Args:
            user: who is read.
            attribute: what the row asks for, see :class:`mmprofile.inputs.batch.Batch`.
        """
        pieces = self.collator.pieces(user, self.view, user_rng(self.collator.seed, user.user_id, 0, 0))
        captioned = [i for i, caption in enumerate(user.captions) if caption is not None]
        traced = Pieces(
            [Token(i, "wanted", 0) for i in self.collator.wanted()[attribute]],
            [[Token(i, "review", number) for i in ids] for number, ids in enumerate(pieces.reviews)],
            [Token(i, "profile", 0) for i in pieces.profile],
            [[Token(i, "caption", n) for i in ids] for n, ids in zip(captioned, pieces.captions, strict=False)],
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
        skipped = len(self.annotator.words(self.collator.tokens(MARKERS[source])).texts)
        found = zip(*self.annotator.words(ids), strict=True)
        words = [Word(text, source, number, (first + i, first + j), space) for text, space, (i, j) in found]
        return words[skipped:]
