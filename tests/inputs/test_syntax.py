"""Words out of tokens, nouns and edges: by hand, by a window, and by a spaCy pipeline trained here on a few sentences."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmprofile.errors import UserError
from mmprofile.inputs import syntax
from mmprofile.inputs.syntax import Annotator, ParsedText, Syntax, Words, build_parser, dependencies, window

pytestmark = pytest.mark.fast

# words, heads, parts of speech
SENTENCES = [
    ("the soup was warm", [1, 2, 2, 2], "DET NOUN AUX ADJ"),
    ("bread was good so we stayed", [1, 1, 1, 5, 5, 1], "NOUN AUX ADJ ADV PRON VERB"),
    ("the car wash was nice", [2, 2, 3, 3, 3], "DET NOUN NOUN AUX ADJ"),
    ("we stayed long", [1, 1, 1], "PRON VERB ADV"),
    ("dinner was cheap", [1, 1, 1], "NOUN AUX ADJ"),
]


def annotated(vocab: Any, text: str, heads: list[int], parts: str) -> Doc:
    deps = ["ROOT" if head == i else "dep" for i, head in enumerate(heads)]
    return Doc(vocab, words=text.split(), heads=heads, deps=deps, pos=parts.split())


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pipeline that has learnt :data:`SENTENCES`, in a folder."""
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    nlp.add_pipe("morphologizer")
    nlp.add_pipe("parser", config={"min_action_freq": 1})
    examples = [
        Example(Doc(nlp.vocab, words=text.split()), annotated(nlp.vocab, text, heads, parts))
        for text, heads, parts in SENTENCES
    ]
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(30):
        nlp.update(examples, sgd=optimizer)
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return make_tokenizer([text for text, _, _ in SENTENCES] + ["it's good, so (we) stayed!"])


def pieces(*names: str) -> PreTrainedTokenizerFast:
    """A tokenizer of these pieces, as a unigram model has them; ``</s>`` is special."""
    vocabulary = {name: i for i, name in enumerate(["</s>", "<unk>", *names])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def words_of(names: Sequence[str], tokenizer: PreTrainedTokenizerFast | None = None) -> Words:
    tokenizer = tokenizer or pieces(*dict.fromkeys(names))
    return Annotator(tokenizer, window).words(tuple(tokenizer.convert_tokens_to_ids(list(names))))


def test_words_begin_at_blanks_and_punctuation() -> None:
    found = words_of(["▁good", "▁no", "od", "les", ",", "▁it", "'", "s", "▁", "ok", ".", "</s>", "▁the", "</s>", "x"])
    assert found.texts == ["good", "noodles", ",", "it", "'s", "ok", ".", "the", "x"]
    assert found.spans == [(0, 1), (1, 4), (4, 5), (5, 6), (6, 8), (8, 10), (10, 11), (12, 13), (14, 15)]
    assert found.spaces == [True, False, True, False, True, False, True, False, True]
    assert words_of(["(", "we", ")", "▁we", "ll", "-", "done", "!!"]).texts == [
        "(",
        "we",
        ")",
        "well",
        "-",
        "done",
        "!!",
    ]
    assert words_of(["▁", "</s>", "▁", ",", "</s>"]).texts == [","]
    assert words_of([]).texts == []


def test_words_of_a_byte_level_tokenizer() -> None:
    """Characters that are split among tokens are put together before anything is said of them."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw = "so Ã© caf© good\n😀 end."
    text = "café 😀 ok\nthe end."
    characters = sorted({c for piece, _ in splitter.pre_tokenize_str(raw + text) for c in piece})
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(characters)}, []))
    backend.pre_tokenizer, backend.decoder = splitter, decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    found = Annotator(tokenizer, window).words(tuple(ids))
    assert found.texts == ["café", "😀", "ok", "the", "end", "."]
    assert "".join(word + " " * space for word, space in zip(found.texts, found.spaces, strict=True)).strip() == (
        "café 😀 ok the end."
    )
    assert found.spans[1] == (5, 10)  # the blank and four bytes


def test_the_window() -> None:
    words = Words(["the", "soup", "was", "Warm", ",", "5", "'s"], [True] * 7, [(i, i + 1) for i in range(7)])
    (found,) = window([words])
    assert found.nouns == [1, 3]
    assert found.pairs == {(i, j) for i in range(7) for j in range(7) if 0 < j - i <= 2}
    assert window([Words([], [], [])]) == [ParsedText([], set())]


def test_dependencies_of_a_document_made_by_hand() -> None:
    """``The big Smiths ate noodles``: every word with its head and its head's head."""
    vocab = spacy.blank("en").vocab
    doc = annotated(vocab, "The big Smiths ate noodles", [2, 2, 3, 3, 3], "DET ADJ PROPN VERB NOUN")
    found = dependencies(doc)
    assert found.nouns == [2, 4]
    assert found.pairs == {(0, 2), (1, 2), (2, 3), (3, 4), (0, 3), (1, 3)}


def test_words_of_several_tokens() -> None:
    """Edges join first tokens, and a word's other tokens to its first; all tokens of a noun are nouns."""
    names = ["▁good", "▁no", "od", "les", "▁so", "up", "</s>"]
    tokenizer = pieces(*names[:-1])
    ids = tuple(tokenizer.convert_tokens_to_ids(names))

    def parser(texts: Sequence[Words]) -> list[ParsedText]:
        return [ParsedText([1, 2], {(0, 1), (1, 2)}) for _ in texts]

    (graph,) = Annotator(tokenizer, parser).graphs([ids])
    assert graph.nouns.tolist() == [1, 2, 3, 4, 5]
    assert graph.edges.T.tolist() == [[0, 1], [1, 2], [1, 3], [1, 4], [4, 5]]


def test_a_spacy_pipeline_parses_words_of_tokens(pipeline: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [(*tokenizer(text)["input_ids"], tokenizer.eos_token_id) for text, _, _ in SENTENCES]
    annotator = Annotator(tokenizer, build_parser(f"spacy:{pipeline}"))
    graphs = annotator.graphs([*texts, (tokenizer.eos_token_id,)])
    for graph, (_, heads, parts) in zip(graphs, SENTENCES, strict=False):
        assert graph.nouns.tolist() == [i for i, part in enumerate(parts.split()) if part == "NOUN"]
        pairs = {tuple(sorted((i, j))) for i, head in enumerate(heads) for j in (head, heads[head]) if i != j}
        assert graph.edges.T.tolist() == sorted(map(list, pairs))
    assert graphs[-1].nouns.size == graphs[-1].edges.size == 0


def test_rows_have_the_graphs_of_their_texts_one_after_another(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (tuple(tokenizer(text)["input_ids"]) for text in ("soup was warm", "we stayed"))
    annotator = Annotator(tokenizer, window)
    graphs = annotator.graphs([first, second])
    found = annotator.rows([first, second], [[0, 1, 0], [1], []])
    assert found.lengths.tolist() == [8, 2, 0]
    assert found.nouns.shape == (3, 8)
    assert [row.nonzero().squeeze(1).tolist() for row in found.nouns] == [[0, 2, 4, 5, 7], [1], []]
    assert graphs[0].edges.T.tolist() == [[0, 1], [0, 2], [1, 2]]
    by_row = [found.edges[1:, found.edges[0] == r].T.tolist() for r in range(3)]
    assert by_row == [[[0, 1], [0, 2], [1, 2], [3, 4], [5, 6], [5, 7], [6, 7]], [[0, 1]], []]

    some = found.of(torch.tensor([1, 0]))
    assert some.lengths.tolist() == [2, 8]
    assert torch.equal(some.nouns, found.nouns[[1, 0]])
    assert some.edges[1:, some.edges[0] == 0].T.tolist() == by_row[1]
    assert some.edges[1:, some.edges[0] == 1].T.tolist() == by_row[0]
    assert found.of(torch.tensor([2])).edges.shape == (3, 0)
    nothing = annotator.rows([], [])
    assert isinstance(nothing, Syntax)
    assert nothing.edges.shape == (3, 0)


def test_a_text_is_parsed_once_and_only_so_many_are_kept(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def counting(texts: Sequence[Words]) -> list[ParsedText]:
        seen.extend(" ".join(words.texts) for words in texts)
        return window(texts)

    annotator = Annotator(tokenizer, counting)
    one, two = (tuple(tokenizer(text)["input_ids"]) for text in ("soup was warm", "we stayed"))
    before = annotator.graphs([one, one])
    after = annotator.graphs([two, one])
    assert seen == ["soup was warm", "we stayed"]
    assert np.array_equal(before[0].edges, after[1].edges)
    monkeypatch.setattr(syntax, "REMEMBERED", 3)
    annotator.graphs([(token,) for token in range(1, 6)])
    assert len(annotator._graphs) == 3
    annotator.graphs([two, one])
    assert sorted(annotator._graphs) == sorted([one, two])


def test_parsers_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tree", "spacy", "spacy:"):
        with pytest.raises(UserError, match="is neither window nor spacy:<pipeline>"):
            build_parser(name)
    with pytest.raises(UserError) as error:
        build_parser("spacy:en_core_web_none")
    assert "python -m spacy download en_core_web_sm, or take model.fusion.parser=window" in str(error.value)
    assert "\n" not in str(error.value)
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError, match="do not tag and parse"):
        build_parser(f"spacy:{tmp_path / 'blank'}")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"needs spaCy: pip install 'mmprofile\[aom\]'"):
        build_parser("spacy:en_core_web_sm")
