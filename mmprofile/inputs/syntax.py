"""Nouns and edges between words, for AoM: of a spaCy pipeline, or of a window where there is none.

Parsers read words, models read tokens. Words are put together from tokens, so that nothing needs to be aligned: a word
begins at a tokenizer's blank, punctuation is a word of its own, and a special token (``</s>``, a mask) is of no word.

Dimension letters: R rows (a user in a view), N tokens of the longest row, E edges of all rows.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmprofile.errors import UserError

BLANKS = ("▁", "Ġ")
"""With one of these a token begins that follows a blank."""
UNDECODED = "\ufffd"  # a part of a character
APOSTROPHES = ("'", "\N{RIGHT SINGLE QUOTATION MARK}")
NOUNS = ("NOUN", "PROPN")
REACH = 2
"""Words that the window joins are at most so far apart."""
REMEMBERED = 10_000
"""Texts whose graphs are kept: less than 100 MB, but for the longest."""
PROBE = ["the", "soup", "was", "good"]


class Words(NamedTuple):
    """The words of a text.

    Attributes:
        texts: the words.
        spaces: whether a blank follows.
        spans: of each word its first token and one past its last.
    """

    texts: list[str]
    spaces: list[bool]
    spans: list[tuple[int, int]]


class Parsed(NamedTuple):
    """What a parser says of a text: numbers of the words that are nouns, and pairs of words, lower number first."""

    nouns: list[int]
    pairs: set[tuple[int, int]]


Parser = Callable[[Sequence[Words]], Iterable[Parsed]]


class Graph(NamedTuple):
    """A text's tokens: places of those of nouns (n,), and pairs of places (2, E), lower first."""

    nouns: np.ndarray
    edges: np.ndarray


class Syntax(NamedTuple):
    """The graphs of a batch's rows; places are those of a row's tokens, texts one after another.

    Attributes:
        nouns: (R, N) bool.
        edges: (3, E) long, row and two places; each pair once.
        lengths: (R,) long, tokens of each row.
    """

    nouns: Tensor
    edges: Tensor
    lengths: Tensor

    def of(self, rows: Tensor) -> "Syntax":
        """The same of some rows (r,), which are numbered anew."""
        number = torch.full_like(self.lengths, -1)
        number[rows] = torch.arange(len(rows), device=rows.device)
        row = number[self.edges[0]]
        edges = torch.cat([row[None], self.edges[1:]])
        return Syntax(self.nouns[rows], edges[:, row >= 0], self.lengths[rows])


def window(texts: Sequence[Words]) -> list[Parsed]:
    """A stand-in for a parser that needs nothing: content words for nouns, edges between neighbours (:data:`REACH`)."""
    function_words = import_module("sklearn.feature_extraction.text").ENGLISH_STOP_WORDS
    found = []
    for words in texts:
        nouns = [i for i, word in enumerate(words.texts) if word[0].isalpha() and word.lower() not in function_words]
        count = len(words.texts)
        found.append(Parsed(nouns, {(i, j) for i in range(count) for j in range(i + 1, min(i + 1 + REACH, count))}))
    return found


def spacy_parser(name: str) -> Parser:
    """The pipeline ``name``, a package or a folder.

    Raises:
        UserError: no spaCy, no such pipeline, or one that does not tag and parse.
    """
    key = f"model.fusion.parser=spacy:{name}"
    stand_in = "or take model.fusion.parser=window, a stand-in that needs nothing"
    try:
        spacy = import_module("spacy")
        tokens = import_module("spacy.tokens")
    except ImportError as error:
        raise UserError(f"{key} needs spaCy: pip install 'mmprofile[aom]', {stand_in}") from error
    try:
        pipeline = spacy.load(name, exclude=["ner", "lemmatizer"])
        probe = pipeline(tokens.Doc(pipeline.vocab, words=PROBE))
    except (OSError, ValueError) as error:
        what = f"it cannot be loaded ({str(error).splitlines()[0][:100]})"
        raise UserError(f"{key}: {what}; python -m spacy download en_core_web_sm, {stand_in}") from error
    if not (probe.has_annotation("POS") and probe.has_annotation("DEP")):
        raise UserError(f"{key}: its components ({', '.join(pipeline.pipe_names)}) do not tag and parse; {stand_in}")

    def parse(texts: Sequence[Words]) -> Iterable[Parsed]:
        docs = (tokens.Doc(pipeline.vocab, words=words.texts, spaces=words.spaces) for words in texts)
        return (dependencies(doc) for doc in pipeline.pipe(docs))

    return parse


def dependencies(doc: Any) -> Parsed:
    """Nouns of a spaCy ``Doc``; pairs of a word with its head and with its head's head, as AoM's released code has them."""
    nouns = [word.i for word in doc if word.pos_ in NOUNS]
    links = ((word.i, other.i) for word in doc for other in (word.head, word.head.head) if other.i != word.i)
    return Parsed(nouns, {(min(pair), max(pair)) for pair in links})


def build_parser(name: str) -> Parser:
    """``window``, or ``spacy:`` and the name of a pipeline.

    Raises:
        UserError: neither, or as :func:`spacy_parser`.
    """
    if name == "window":
        return window
    kind, _, pipeline = name.partition(":")
    if kind != "spacy" or not pipeline:
        raise UserError(f"model.fusion.parser={name!r} is neither window nor spacy:<pipeline>")
    return spacy_parser(pipeline)


class Annotator:
    """Texts as token ids -> their graphs, each parsed once as long as it is remembered."""

    def __init__(self, tokenizer: Any, parser: Parser) -> None:
        self.tokenizer, self.parser = tokenizer, parser
        self._special = set(tokenizer.all_special_ids)
        self._pieces: dict[int, tuple[bool, str] | None] = {}
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def rows(self, texts: Sequence[tuple[int, ...]], row_texts: Sequence[Sequence[int]]) -> Syntax:
        """The graphs of rows.

        Args:
            texts: the distinct texts, as token ids.
            row_texts: per row the numbers of its texts, in order; one may be there twice.
        """
        graphs = self.graphs(texts)
        lengths = [sum(len(texts[t]) for t in row) for row in row_texts]
        nouns = np.zeros((len(lengths), max(lengths, default=0)), dtype=bool)
        edges = [np.empty((3, 0), dtype=np.int64)]
        for number, row in enumerate(row_texts):
            first = 0
            for t in row:
                nouns[number, first + graphs[t].nouns] = True
                pairs = first + graphs[t].edges.astype(np.int64)
                edges.append(np.vstack([np.full_like(pairs[:1], number), pairs]))
                first += len(texts[t])
        return Syntax(torch.from_numpy(nouns), torch.from_numpy(np.hstack(edges)), torch.tensor(lengths))

    def graphs(self, texts: Sequence[tuple[int, ...]]) -> list[Graph]:
        """The graphs of texts; those not remembered are parsed together, which is faster."""
        remembered = self._graphs
        known = {text: remembered[text] for text in texts if text in remembered}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        words = [self.words(text) for text in new]
        learnt = {text: _graph(one, found) for text, one, found in zip(new, words, self.parser(words), strict=True)}
        if len(remembered) + len(learnt) > REMEMBERED:
            self._graphs = {}  # another, not emptied: a second thread may be looking up
        self._graphs |= islice(learnt.items(), REMEMBERED)
        known |= learnt
        return [known[text] for text in texts]

    def words(self, ids: Sequence[int]) -> Words:
        """The words of a text."""
        spans: list[tuple[int, int]] = []
        texts: list[str] = []
        blanks: list[bool] = []  # in front of each
        going = False
        for place, piece in enumerate(map(self._piece, ids)):
            if piece is not None:
                blank, text = piece
                if going and not blank and _joined(texts[-1], text):
                    spans[-1] = spans[-1][0], place + 1
                    texts[-1] += text
                else:
                    spans.append((place, place + 1))
                    texts.append(text)
                    blanks.append(blank)
            going = piece is not None
        kept = [i for i, text in enumerate(texts) if text]
        whole = [self._whole(texts[i], ids[slice(*spans[i])]) for i in kept]
        spaces = [after == len(texts) or blanks[after] for after in (i + 1 for i in kept)]
        return Words(whole, spaces, [spans[i] for i in kept])

    def _whole(self, text: str, ids: Sequence[int]) -> str:
        """A word; one whose characters are split among its tokens is decoded from all of them."""
        return str(self.tokenizer.decode(ids)).strip() if UNDECODED in text else text

    def _piece(self, token: int) -> tuple[bool, str] | None:
        """Whether a token follows a blank, and its characters; None for a special one."""
        if token not in self._pieces:
            raw = self.tokenizer.convert_ids_to_tokens(int(token))
            text = self.tokenizer.convert_tokens_to_string([raw])
            known = raw.startswith(BLANKS) or text[:1].isspace(), text.strip()
            self._pieces[token] = None if token in self._special else known
        return self._pieces[token]


def _joined(word: str, piece: str) -> bool:
    """Whether a word goes on with a piece that no blank divides it from; ``'s`` is a word, as spaCy has it."""
    if not word or not piece:
        return True
    return _wordy(piece[0]) and (_wordy(word[-1]) or word in APOSTROPHES)


def _wordy(character: str) -> bool:
    return character == UNDECODED or unicodedata.category(character)[0] in "LMN"


def _graph(words: Words, parsed: Parsed) -> Graph:
    """All tokens of a noun are nouns; edges join the first tokens of words, and the others of a word to its first."""
    nouns = [place for i in parsed.nouns for place in range(*words.spans[i])]
    edges = {(words.spans[i][0], words.spans[j][0]) for i, j in parsed.pairs}
    edges |= {(first, place) for first, end in words.spans for place in range(first + 1, end)}
    pairs = np.array(sorted(edges), dtype=np.int32).reshape(-1, 2).T
    return Graph(np.array(nouns, dtype=np.int64), pairs)
