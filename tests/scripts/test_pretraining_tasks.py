"""The mixture of pretraining: span corruption, and what each task asks and answers."""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from datamodules.demo.cuewords import CUE_SLOTS
from datamodules.demo.smalltalk import SLOTS
from mmprofile.inputs.batch import IGNORE
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile.schema import Schema

SENTINELS = list(range(1000, 1040))
TRADES = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")["Favorite Category"].values


@pytest.fixture(scope="module")
def tasks(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("pretraining_tasks")


@pytest.fixture(scope="module")
def city_data(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("pretraining_cities")


@pytest.fixture(scope="module")
def mixture(tasks: ModuleType, city_data: ModuleType, cities: Sequence[str | Path]) -> Any:
    city = city_data.read_city(Path(cities[1]), 60, city_data.HELD_OUT, TRADES, pixels=False)
    return tasks.Mixture(city, TRADES, ["a", "sign"], AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text"), 0)


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(0, 2**32))
def test_spans_put_back_give_the_text(tasks: ModuleType, ids: list[int], seed: int) -> None:
    source, target = tasks.corrupt_spans(ids, SENTINELS, random.Random(seed))
    hidden: dict[int, list[int]] = {}
    for token in target:
        if token >= 1000:
            hidden[token] = span = []
        else:
            span.append(token)
    restored = [t for token in source for t in (hidden[token] if token >= 1000 else [token])]
    assert restored == ids
    assert [token for token in target if token >= 1000] == SENTINELS[: len(hidden)]  # in order, one more at the end
    assert target[-1] == SENTINELS[len(hidden) - 1]


def test_words_of_a_caption_and_its_business(city_data: ModuleType) -> None:
    assert city_data.words_of("A stack of take-out boxes, and a 2nd box's lid") == {
        "a", "stack", "of", "take", "out", "boxes", "and", "2nd", "box's", "lid",
    }  # fmt: skip


def draw(mixture: Any, tasks: ModuleType, task: str, count: int) -> tuple[list[Any], list[str], str]:
    """Some reviews, what a row reads of them, and what it writes."""
    if task in tasks.OF_ONE_PLACE:
        drawn = mixture.of_place(mixture.rng.choice(mixture.visited), count)
    else:
        drawn = mixture.rng.sample(mixture.reviews, count)
    read, answer = mixture.example(task, drawn)
    return drawn, read, answer


def test_answers_are_true(mixture: Any, tasks: ModuleType) -> None:
    answers: dict[str, list[str]] = {task: [] for task in tasks.TASKS if task != "spans"}
    for task, given_answers in answers.items():
        for i in range(150):
            drawn, read, answer = draw(mixture, tasks, task, 1 + i % 3)
            question, told = read[0], [f"review: {review.text}" for review in drawn]
            sentences = [sentence for review in drawn for sentence in review.sentences]
            given_answers.append(answer)
            match task:
                case "topic":
                    assert answer == (", ".join(drawn[0].trades) or "none")
                    assert set(answer.split(", ")) <= {*TRADES, "none"}
                case "caption":
                    assert answer in mixture.captions[drawn[0].business]
                case "sentiment":
                    stars = [tasks.SENTIMENTS.index(word) + 1 for word in answer.split(", ")]
                    assert stars == sorted((review.stars for review in drawn), reverse=True)
                case "same place":
                    other = question.removeprefix("is this about the same place? ")
                    of = {review.business for review in mixture.reviews if review.text == other}
                    assert (drawn[0].business in of) == (answer == "yes")
                    assert other not in [review.text for review in drawn]
                case "entailment":
                    statement = question.removeprefix("is it true that it says: ")
                    assert answer == "yes" if statement in sentences else answer == "no"
                case "choice":
                    pair = dict(re.findall(r"\((a|b)\) (.*?)(?= \(b\) |$)", question, re.S))
                    assert pair[answer] in sentences
                case "facts":
                    for name, value in (part.split(": ") for part in answer.split("; ")):
                        assert name in question
                        found = set(value.split(", ")) - {"not said"}
                        assert found <= set(SLOTS[tasks.FACTS[name]])
                        assert all(any(word in text for text in told) for word in found)
                case "title":
                    assert answer in drawn[0].sentences
                    assert read == [question]
            if task not in ("topic", "caption", "title"):
                assert read[1:] == told
    assert {*answers["same place"]} == {*answers["entailment"]} == {"yes", "no"}
    assert {*answers["choice"]} == {"a", "b"}
    assert any("not said" in answer for answer in answers["facts"])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("dish", "We shared the lentil soup.", "lentil soup"),
        ("dish", "The soup, the stew, and more soup.", "soup, stew"),
        ("companion", "My sister and I tried it.", "sister"),
        ("minutes", "We waited twenty five minutes.", "twenty five"),
        ("minutes", "It was under ten dollars.", "not said"),
        ("minutes", "We rolled in at half past ten.", "not said"),
        ("minutes", "Between five and seven beers cost half.", "not said"),
        ("colour", "A hundred chairs.", "not said"),
    ],
)
def test_facts_of_a_review(tasks: ModuleType, city_data: ModuleType, name: str, text: str, told: str) -> None:
    assert tasks.fact(name, [city_data.Review(text, 3, [], "b")]) == told


def test_facts_are_no_words_that_tell_an_attribute(tasks: ModuleType, city_data: ModuleType) -> None:
    for phrases in CUE_SLOTS.values():
        for phrase in phrases:
            review = city_data.Review(f"It was {phrase}, they said.", 3, [], "b")
            assert {tasks.fact(name, [review]) for name in tasks.FACTS} == {"not said"}, phrase


def test_an_altered_sentence_has_another_fact_and_the_same_prices(mixture: Any) -> None:
    for _ in range(20):
        altered = mixture.altered("We waited ten minutes and paid under ten dollars.")
        match = re.fullmatch(r"We waited (.+) minutes and paid under ten dollars\.", altered)
        assert match
        assert match[1] in set(SLOTS["minutes"]) - {"ten"}
    assert mixture.altered("It was under ten dollars.") is None


@given(st.lists(st.lists(st.integers(0, 99), max_size=30), min_size=1, max_size=4))
def test_spans_of_several_pieces_have_one_target(mixture: Any, pieces: list[list[int]]) -> None:
    sources, target = mixture.corrupt([[100 + token for token in piece] for piece in pieces])
    sentinels = mixture.sentinels
    used = [token for source in sources for token in source if token in sentinels]
    assert used == sentinels[: len(used)]
    assert [token for token in target if token in sentinels] == sentinels[: len(used) + 1]
    assert target[-1] == sentinels[len(used)]
    spans = {token: [] for token in used}
    for token in target[:-1]:
        if token in spans:
            span = spans[token]
        else:
            span.append(token)
    restored = [[t for token in source for t in spans.get(token, [token])] for source in sources]
    assert restored == [[100 + token for token in piece] for piece in pieces]


def test_pretraining_never_sees_the_city_that_judges_it(city_data: ModuleType) -> None:
    assert len({0, *city_data.SEEDS, city_data.HELD_OUT}) == len(city_data.SEEDS) + 2


def test_reviews_of_ordinary_length_are_read_and_a_city_is_made_once(
    city_data: ModuleType, cities: Sequence[str | Path]
) -> None:
    folder = Path(cities[1])
    city = city_data.read_city(folder, 60, city_data.HELD_OUT, TRADES, pixels=False)
    path = folder / f"city-{city_data.HELD_OUT}-60"
    lengths = [len(row["text"].split()) for row in city_data.rows(path / "yelp_academic_dataset_review.json")]
    assert len(city.reviews) == sum(10 <= length <= 60 for length in lengths) < len(lengths)
    made = path.stat().st_mtime_ns
    city_data.read_city(folder, 60, city_data.HELD_OUT, TRADES, pixels=False)
    assert path.stat().st_mtime_ns == made
    assert not [other for other in folder.iterdir() if not other.name.startswith("city-")]  # nothing half-written


def test_one_seed_draws_the_same_batches(mixture: Any, tasks: ModuleType) -> None:
    city = tasks.City(mixture.reviews, mixture.photos)
    first, second, other = (
        tasks.Mixture(city, TRADES, ["a", "sign"], mixture.tokenizer, seed).text(24) for seed in (3, 3, 4)
    )
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.texts, other.texts)


def test_what_the_heads_learn(tasks: ModuleType, city_data: ModuleType) -> None:
    """One business with photos, one without; rows of one review."""
    text = "We waited ten minutes and then the soup was good."
    reviews = [city_data.Review(text, 5, [TRADES[0]], "with") for _ in range(5)]
    reviews += [city_data.Review(text, 1, [], "without")]
    black = np.zeros((3, 2, 2), np.uint8)
    black[:, :, 0] = 9
    captions = ("a happy sign", "a table", "a plate")
    photos = [city_data.Photo(black, caption, [TRADES[0]], "with") for caption in captions]
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    made = tasks.Mixture(city_data.City(reviews, photos), TRADES, ["a", "sign"], tokenizer, 0)
    made.tasks = ["spans"]
    rows: set[tuple[float, ...]] = set()
    for batch in (made.text(3) for _ in range(40)):
        assert (batch.trades[:, 1:] == 0).all()
        if len(batch.target) < 3:  # rows of several reviews
            assert (batch.sentiments == IGNORE).all()
            continue
        rows |= {(s.item(), t[0].item(), *w.nan_to_num(-1).tolist()) for s, t, w in zip(*batch[3:], strict=True)}
    third = torch.tensor(1 / 3).item()
    assert rows == {(4, 1, 1, third), (0, 0, -1, -1)}
    drawn = made.images(3, augment=False)
    assert torch.equal(drawn.pixels, torch.from_numpy(np.stack([black] * 3)))
    assert sorted(drawn.words.tolist()) == [[1, 0], [1, 0], [1, 1]]
    assert (drawn.trades == torch.tensor([1.0] + [0.0] * (len(TRADES) - 1))).all()


def test_a_batch_reads_whole_sources_and_ends_its_targets(mixture: Any) -> None:
    for _ in range(20):
        batch = mixture.text(12)
        eos, texts = mixture.tokenizer.eos_token_id, batch.texts.flatten()
        rows = [texts[row[row >= 0]] for row in batch.row_tokens]
        assert sum(map(len, rows)) == (batch.texts != 0).sum()
        assert torch.equal(torch.cat([row[row >= 0] for row in batch.row_tokens]), (texts != 0).nonzero().squeeze(1))
        assert all(row[-1] == eos for row in rows)
        for target in batch.target:
            written = target[target != IGNORE]
            assert written[-1] == eos
            assert (written != eos).sum() == len(written) - 1
        assert len(batch.sentiments) == len(batch.trades) == len(batch.words) == len(rows)


def test_for_a_causal_model_half_of_the_questions_stand_behind_the_texts(mixture: Any, tasks: ModuleType) -> None:
    city = tasks.City(mixture.reviews, mixture.photos)
    ahead, behind = (
        tasks.Mixture(city, TRADES, ["a", "sign"], mixture.tokenizer, 3, behind=behind) for behind in (False, True)
    )
    moved = asked = 0
    for _ in range(20):
        first, second = ahead.text(24), behind.text(24)
        assert torch.equal(first.target, second.target)
        for row, other in zip(row_texts(first), row_texts(second), strict=True):
            assert sorted(row) == sorted(other)  # the same pieces
            read = mixture.tokenizer.decode(row, skip_special_tokens=True)
            if not read.startswith(("review:", "write")) and len(row) > 1:
                asked += 1
                moved += row != other
    assert 0.35 < moved / asked < 0.65


def row_texts(batch: Any) -> list[list[int]]:
    """The tokens that each row reads, without those that end a piece."""
    flat = batch.texts.flatten().tolist()
    return [[flat[i] for i in row if i >= 0 and flat[i] != 1] for row in batch.row_tokens.tolist()]
