"""Nouns and edges between words, for AoM: from a spaCy pipeline, or from a window of words where there is none.

Parsers read words and models read tokens. Words are put together from tokens, so nothing has to be aligned: a word
begins at a tokenizer's blank, punctuation is a word of its own, and a special token (``</s>``, a mask) is in no word.

Dimension letters as in :mod:`mmprofile.model`.
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
"""A token that follows a blank begins with one of these."""
UNDECODED = "\ufffd"  # a part of a character
APOSTROPHES = ("'", "\N{RIGHT SINGLE QUOTATION MARK}")
NOUNS = ("NOUN", "PROPN")
REACH = 2
"""The window joins words that are at most so far apart."""
REMEMBERED = 10_000
"""Texts whose graphs are kept: less than 100 MB unless they are very long."""
PROBE = ["the", "soup", "was", "good"]


class Words(NamedTuple):
    """The words of a text.

    Attributes:
        texts: the words.
        spaces: whether a blank follows.
        spans: first token of each word, and one past its last.
    """

    texts: list[str]
    spaces: list[bool]
    spans: list[tuple[int, int]]


class ParsedText(NamedTuple):
    """A parsed text.

    Attributes:
        nouns: numbers of the words that are nouns.
        pairs: pairs of words that are joined, the lower number first.
    """

    nouns: list[int]
    pairs: set[tuple[int, int]]


Parser = Callable[[Sequence[Words]], Iterable[ParsedText]]


class Graph(NamedTuple):
    """The graph of a text's tokens.

    Attributes:
        nouns: (n,) places of the tokens of nouns.
        edges: (2, n) pairs of places, the lower one first.
    """

    nouns: np.ndarray
    edges: np.ndarray


class Syntax(NamedTuple):
    """The graphs of a batch's rows; places count a row's tokens, its texts one after another.

    Attributes:
        nouns: (R, N) bool.
        edges: (3, E) long, row and two places; each pair is there once.
        lengths: (R,) long, tokens of each row.
    """

    nouns: Tensor
    edges: Tensor
    lengths: Tensor

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Syntax":
        """Return the same with ``function`` applied to each tensor."""
        return Syntax(nouns=function(self.nouns), edges=function(self.edges), lengths=function(self.lengths))

    def of(self, rows: Tensor) -> "Syntax":
        """Return the graphs of some rows (r,), numbered anew from 0."""
        number = torch.full_like(self.lengths, -1)
        number[rows] = torch.arange(len(rows), device=rows.device)
        row = number[self.edges[0]]
        edges = torch.cat([row[None], self.edges[1:]])
        return Syntax(nouns=self.nouns[rows], edges=edges[:, row >= 0], lengths=self.lengths[rows])


def window(texts: Sequence[Words]) -> list[ParsedText]:
    """Stand in for a parser without any model: content words are nouns, neighbours (:data:`REACH`) are joined."""
    function_words = import_module("sklearn.feature_extraction.text").ENGLISH_STOP_WORDS
    parsed = []
    for words in texts:
        nouns = [i for i, word in enumerate(words.texts) if word[0].isalpha() and word.lower() not in function_words]
        count = len(words.texts)
        pairs = {(i, j) for i in range(count) for j in range(i + 1, min(i + 1 + REACH, count))}
        parsed.append(ParsedText(nouns=nouns, pairs=pairs))
    return parsed


def spacy_parser(name: str) -> Parser:
    """Return a parser that uses the spaCy pipeline ``name``, a package or a folder.

    Raises:
        UserError: spaCy or the pipeline is not installed, or the pipeline does not tag and parse.
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
        reason = f"it cannot be loaded ({str(error).splitlines()[0][:100]})"
        raise UserError(f"{key}: {reason}; python -m spacy download en_core_web_sm, {stand_in}") from error
    if not (probe.has_annotation("POS") and probe.has_annotation("DEP")):
        raise UserError(f"{key}: its components ({', '.join(pipeline.pipe_names)}) do not tag and parse; {stand_in}")

    def parse(texts: Sequence[Words]) -> Iterable[ParsedText]:
        docs = (tokens.Doc(pipeline.vocab, words=words.texts, spaces=words.spaces) for words in texts)
        return (dependencies(doc) for doc in pipeline.pipe(docs))

    return parse


def dependencies(doc: Any) -> ParsedText:
    """Return the nouns of a spaCy ``Doc``, and pairs of a word with its head and with its head's head, as in AoM's code."""
    nouns = [word.i for word in doc if word.pos_ in NOUNS]
    links = ((word.i, other.i) for word in doc for other in (word.head, word.head.head) if other.i != word.i)
    return ParsedText(nouns=nouns, pairs={(min(pair), max(pair)) for pair in links})


def build_parser(name: str) -> Parser:
    """Return the parser of a name: ``window``, or ``spacy:`` and the name of a pipeline.

    Raises:
        UserError: an unknown name, or as :func:`spacy_parser`.
    """
    if name == "window":
        return window
    kind, _, pipeline = name.partition(":")
    if kind != "spacy" or not pipeline:
        raise UserError(f"model.fusion.parser={name!r} is neither window nor spacy:<pipeline>")
    return spacy_parser(pipeline)


class Annotator:
    """Makes graphs of texts that are given as token ids; each is parsed once as long as it is remembered."""

    def __init__(self, tokenizer: Any, parser: Parser) -> None:
        self.tokenizer, self.parser = tokenizer, parser
        self._special = set(tokenizer.all_special_ids)
        self._pieces: dict[int, tuple[bool, str] | None] = {}
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def rows(self, texts: Sequence[tuple[int, ...]], row_texts: Sequence[Sequence[int]]) -> Syntax:
        """Return the graphs of rows.

        Args:
            texts: the distinct texts, as token ids.
            row_texts: the numbers of each row's texts, in order; a text may occur twice.
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
        return Syntax(
            nouns=torch.from_numpy(nouns), edges=torch.from_numpy(np.hstack(edges)), lengths=torch.tensor(lengths)
        )

    def graphs(self, texts: Sequence[tuple[int, ...]]) -> list[Graph]:
        """Return the graphs of texts; new texts are parsed together, which is faster."""
        remembered = self._graphs
        known = {text: remembered[text] for text in texts if text in remembered}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        words = [self.words(text) for text in new]
        graphs = (_graph(text_words, parsed) for text_words, parsed in zip(words, self.parser(words), strict=True))
        added = dict(zip(new, graphs, strict=True))
        if len(remembered) + len(added) > REMEMBERED:
            self._graphs = {}  # a new dict, since a second thread may be reading the old one
        self._graphs |= islice(added.items(), REMEMBERED)
        known |= added
        return [known[text] for text in texts]

    def words(self, ids: Sequence[int]) -> Words:
        """Return the words of a text."""
        spans: list[tuple[int, int]] = []
        texts: list[str] = []
        blanks: list[bool] = []  # in front of each
        inside = False  # a word
        for place, piece in enumerate(map(self._piece, ids)):
            if piece is not None:
                blank, text = piece
                if inside and not blank and _joined(texts[-1], text):
                    spans[-1] = spans[-1][0], place + 1
                    texts[-1] += text
                else:
                    spans.append((place, place + 1))
                    texts.append(text)
                    blanks.append(blank)
            inside = piece is not None
        filled = [i for i, text in enumerate(texts) if text]
        return Words(
            texts=[self._whole(texts[i], ids[slice(*spans[i])]) for i in filled],
            spaces=[after == len(texts) or blanks[after] for after in (i + 1 for i in filled)],
            spans=[spans[i] for i in filled],
        )

    def _whole(self, text: str, ids: Sequence[int]) -> str:
        """Return a word; one whose characters are split among its tokens is decoded from all of them."""
        return str(self.tokenizer.decode(ids)).strip() if UNDECODED in text else text

    def _piece(self, token: int) -> tuple[bool, str] | None:
        """Tell whether a token follows a blank, and return its characters; None for a special token."""
        if token not in self._pieces:
            raw = self.tokenizer.convert_ids_to_tokens(int(token))
            text = self.tokenizer.convert_tokens_to_string([raw])
            piece = raw.startswith(BLANKS) or text[:1].isspace(), text.strip()
            self._pieces[token] = None if token in self._special else piece
        return self._pieces[token]


def _joined(word: str, piece: str) -> bool:
    """Tell whether a word goes on with a piece that no blank precedes; ``'s`` is a word, as in spaCy."""
    if not word or not piece:
        return True
    return _wordy(piece[0]) and (_wordy(word[-1]) or word in APOSTROPHES)


def _wordy(character: str) -> bool:
    """Tell whether a character is a letter, a mark or a digit."""
    return character == UNDECODED or unicodedata.category(character)[0] in "LMN"


def _graph(words: Words, parsed: ParsedText) -> Graph:
    """Return the graph of a text. Edges join the first tokens of words, and the first token of a word with its others."""
    nouns = [place for i in parsed.nouns for place in range(*words.spans[i])]
    edges = {(words.spans[i][0], words.spans[j][0]) for i, j in parsed.pairs}
    edges |= {(first, place) for first, end in words.spans for place in range(first + 1, end)}
    pairs = np.array(sorted(edges), dtype=np.int32).reshape(-1, 2).T
    return Graph(nouns=np.array(nouns, dtype=np.int64), edges=pairs)
