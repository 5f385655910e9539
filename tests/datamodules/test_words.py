"""Words against plain Python: with blanks they are what blanks divide, without them characters count."""

import re

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.words import count_words, word_count

pytestmark = pytest.mark.fast


@settings(max_examples=100)
@given(st.lists(st.text("ab é\n\t\r  \x0b\u00a0🍕", max_size=9), max_size=40), st.integers(0, 3), st.booleans())
def test_words_are_what_blanks_and_line_breaks_divide(texts: list[str], start: int, large: bool) -> None:
    given_texts = pa.array(texts, pa.large_string() if large else pa.string())[start:]
    expected = [len([word for word in re.split("[ \n\t\r]", text) if word]) for text in texts[start:]]
    assert count_words(given_texts).to_pylist() == expected
    assert count_words(pa.chunked_array([given_texts, given_texts])).to_pylist() == 2 * expected


def test_words_are_null_where_the_text_is() -> None:
    texts = [None, "a b", "", None, " c\n", None]
    for some, expected in ((texts, [None, 2, 0, None, 1, None]), ([None, None], [None, None]), ([], [])):
        table = ibis.memtable(pa.table({"text": pa.array(some, pa.string())}))
        counted = ibis.duckdb.connect().to_pyarrow(table.select(words=word_count(table.text)))
        assert counted["words"].to_pylist() == expected


HALVES = [(0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x33FFF)]
QUARTERS = [(0x0E00, 0x0FFF), (0x1000, 0x107F), (0x1780, 0x17FF)]


def quarters(character: str) -> int:
    def among(ranges: list[tuple[int, int]]) -> bool:
        return any(first <= ord(character) <= last for first, last in ranges)

    return 2 if among(HALVES) else int(among(QUARTERS))


EDGES = [edge + step for ranges in (HALVES, QUARTERS) for pair in ranges for edge in pair for step in (-1, 0, 1)]


@settings(max_examples=300)
@given(st.lists(st.text(st.one_of(st.sampled_from([*map(chr, EDGES), " ", "\n"]), st.characters(codec="utf-8")))))
def test_characters_of_scripts_without_blanks_are_parts_of_words(texts: list[str]) -> None:
    pieces = [[piece for piece in re.split("[ \n\t\r]", text) if piece] for text in texts]
    expected = [sum(max(1, sum(map(quarters, piece)) // 4) for piece in of_text) for of_text in pieces]
    assert count_words(pa.array(texts, pa.string())).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("这家餐厅的菜很好吃,服务也很周到。", 7),  # 15 characters
        ("ラーメンがとても美味しかった!", 7),
        ("อาหารอร่อยมาก บริการดี", 3 + 2),  # 13 and 9, vowel signs and tone marks included
        ("الطعام لذيذ جدا 😀", 4),
        ("음식이 정말 맛있어요", 3),  # Korean has blanks
        ("Great coffee 👍🏽👍🏽", 3),
        ("so what ¯\\_(ツ)_/¯", 3),
        ("我喜欢pizza", 1),
    ],
)
def test_reviews_in_many_scripts(text: str, words: int) -> None:
    assert count_words(pa.array([text])).to_pylist() == [words]
