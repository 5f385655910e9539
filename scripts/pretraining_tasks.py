"""What the tiny models are asked in pretraining: the mixture of tasks that is drawn from generated cities.

Beside span corruption (T5) the tasks are of the kinds that Flan's mixture has: topic, sentiment, entailment, multiple choice,
extraction, title to text. No task shows a profile or a rule of its labels, and no target is about a user. The trades of a
business are values of an attribute, too. The sentiment of a review in five steps is its stars in words, as Flan's mixture rates
app reviews. Sentences and captions are natural text: some tell a meal or a price.

Dimension letters as in :mod:`mmprofile.model`.
"""

import random
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from itertools import count as count_from
from typing import Any, NamedTuple

import numpy as np
import torch
from pretraining_cities import City, Review, words_of
from torch import Tensor
from torch.nn import functional as F

from datamodules.demo.cuewords import CUE_SLOTS
from datamodules.demo.smalltalk import SLOTS
from mmprofile.inputs.batch import IGNORE, mask_pixels, pad

SENTINELS = 100
SENTIMENTS = ("very negative", "negative", "neutral", "positive", "very positive")
FACTS = {
    "dish": "dish",
    "companion": "friend",
    "day": "day",
    "minutes": "minutes",
    "colour": "colour",
    "music": "music",
}
"""Facts that reviews tell and no profile has -> the generator's words for them."""
TASKS = {
    "spans": 4, "topic": 3, "caption": 3, "sentiment": 2, "same place": 2, "entailment": 1, "choice": 1, "facts": 3,
    "title": 1,
}  # fmt: skip
"""Task -> its share of the rows."""
OF_ONE_PLACE = ("topic", "caption", "same place")


def corrupt_spans(
    ids: list[int], sentinels: list[int], rng: random.Random, rate: float = 0.2
) -> tuple[list[int], list[int]]:
    """Corrupt spans as T5 does: sentinels replace spans of 3 tokens on average, and stand before them in the target."""
    source, target, i, used = [], [], 0, 0
    while i < len(ids):
        if rng.random() < rate / 3 and used < len(sentinels) - 1:
            length = min(rng.choice((1, 2, 3, 4, 5)), len(ids) - i)
            source.append(sentinels[used])
            target += [sentinels[used], *ids[i : i + length]]
            used, i = used + 1, i + length
        else:
            source.append(ids[i])
            i += 1
    return source, [*target, sentinels[used]]


class TextBatch(NamedTuple):
    """Texts and what is to be learned from them.

    Attributes:
        texts: (T, S) long.
        row_tokens: (R, N) indices of the tokens that a row reads, as in :class:`mmprofile.inputs.batch.Batch`.
        target: (R, L) ids.
        sentiments: (R,) long, the sentiment of a row's review; IGNORE where it has several, whose mean would be near to an
            attribute of users.
        trades: (R, trades) the share of each trade in them.
        words: (R, words) how many photos of the reviewed businesses have each word in their caption, as a share; NaN
            where there are no photos.
    """

    texts: Tensor
    row_tokens: Tensor
    target: Tensor
    sentiments: Tensor
    trades: Tensor
    words: Tensor


class PhotoBatch(NamedTuple):
    """Photos and what is to be learned from them.

    Attributes:
        pixels: uint8 (P, 3, height, width).
        words: (P, words) 1 where a caption has the word, else 0.
        trades: (P, trades) 1 where the business has the trade, else 0.
    """

    pixels: Tensor
    words: Tensor
    trades: Tensor


def _fact_pattern(slot: str) -> re.Pattern[str]:
    """Return the pattern of a fact's words, group 1, but not within words that tell an attribute of the profile."""
    words = "|".join(sorted(SLOTS[slot], key=len, reverse=True))
    of_profile = [phrase for phrase in chain(*CUE_SLOTS.values()) if re.search(rf"\b({words})\b", phrase)]
    unit = " minutes" if slot == "minutes" else ""  # prices and hours are numbers, too
    return re.compile(rf"\b(?:{'|'.join([*(f'(?i:{phrase})' for phrase in of_profile), f'({words}){unit}'])})\b")


_FACTS = {name: _fact_pattern(slot) for name, slot in FACTS.items()}


def fact(name: str, reviews: Sequence[Review]) -> str:
    """Return the answer to a question about a fact: what the reviews say, each thing once; or that it is not said."""
    told = chain(*(_FACTS[name].findall(review.text) for review in reviews))
    return ", ".join(dict.fromkeys(filter(None, told))) or "not said"


class Mixture:
    """Draws batches of the pretraining tasks.

    Args:
        city: reviews and photos.
        trades, words: the classes of the linear heads.
        tokenizer: of the model; None draws photos only.
        seed: of the draws.
        behind: whether the question stands behind the texts in half of the rows, for a causal model: otherwise it would
            always know what is asked when it reads.
    """

    def __init__(
        self, city: City, trades: Sequence[str], words: Sequence[str], tokenizer: Any, seed: int, behind: bool = False
    ) -> None:
        self.reviews, self.photos = city
        self.behind, self.order_rng = behind, random.Random(seed)
        self.trades, self.words, self.tokenizer = trades, words, tokenizer
        self.rng, self.pixel_rng = random.Random(seed), np.random.default_rng(seed)
        self.captions: dict[str, list[str]] = {}
        for photo in self.photos:
            self.captions.setdefault(photo.business, []).append(photo.caption)
        self.visits: dict[str, list[Review]] = {}
        self.by_trade: dict[str, list[str]] = {}  # first trade -> businesses
        for review in self.reviews:
            if len(self.captions.get(review.business, ())) > 1:
                self.visits.setdefault(review.business, []).append(review)
        self.visits = {business: visits for business, visits in self.visits.items() if len(visits) > 3}
        for business, visits in self.visits.items():
            self.by_trade.setdefault(visits[0].trade, []).append(business)
        self.visited = sorted(self.visits)
        self.tasks = [*chain(*([name] * share for name, share in TASKS.items()))]

    @cached_property
    def shown(self) -> dict[str, np.ndarray]:
        """Return business -> the share of its photos that have each word in their caption."""
        return {business: np.mean([self.has(c) for c in captions], 0) for business, captions in self.captions.items()}

    @cached_property
    def sentinels(self) -> list[int]:
        """Return the ids of the sentinels."""
        ids: list[int] = self.tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(SENTINELS)])
        return ids

    def has(self, caption: str) -> list[float]:
        """Return 1 for each of the words that a caption has, else 0."""
        present = words_of(caption)
        return [float(word in present) for word in self.words]

    def of_place(self, business: str, count: int) -> list[Review]:
        """Draw reviews of a business."""
        return self.rng.sample(self.visits[business], count)

    def photo_text(self, captions: Sequence[str]) -> str:
        """Write captions as views have them."""
        return " ".join(f"photo: {caption}" for caption in captions)

    def example(self, task: str, drawn: list[Review]) -> tuple[list[str], str]:
        """Return the texts that a row reads, the question first, and what it writes (of all tasks but ``spans``)."""
        rng, told = self.rng, [f"review: {review.text}" for review in drawn]
        here, sentences = drawn[0].business, [sentence for review in drawn for sentence in review.sentences]
        match task:
            case "topic" | "caption":
                other, *shown = rng.sample(captions := self.captions[here], min(3, len(captions)))
                photos = [self.photo_text(shown)]
                read = rng.choice([told, photos, told + photos, told + photos])
                if task == "topic":
                    return ["which trades does this place have?", *read], ", ".join(drawn[0].trades) or "none"
                return ["what does another photo of this place show?", *read], other
            case "sentiment":
                answer = ", ".join(SENTIMENTS[n - 1] for n in sorted((review.stars for review in drawn), reverse=True))
                return [rng.choice(("what is the sentiment?", "is it positive or negative?")), *told], answer
            case "same place":
                rivals = self.by_trade[drawn[0].trade] if rng.random() < 0.7 else self.visited
                there = here if rng.random() < 0.5 else rng.choice(rivals)
                other = rng.choice([review for review in self.visits[there] if review not in drawn])
                question = f"is this about the same place? {other.text}"
                return [question, *told], "yes" if there == here else "no"
            case "entailment":
                statement = rng.choice(sentences)
                if rng.random() < 0.5:
                    statement = self.altered(statement) or rng.choice(rng.choice(self.reviews).sentences)
                return [f"is it true that it says: {statement}", *told], "yes" if statement in sentences else "no"
            case "choice":
                pair = [rng.choice(sentences), rng.choice(rng.choice(self.reviews).sentences)]
                while pair[1] in sentences:
                    pair[1] = rng.choice(rng.choice(self.reviews).sentences)
                order = rng.sample(pair, 2)
                question = f"which of these does it say? (a) {order[0]} (b) {order[1]}"
                return [question, *told], "ab"[order.index(pair[0])]
            case "facts":
                known = [name for name in FACTS if fact(name, drawn) != "not said"]
                names = rng.sample(known, min(len(known), 2))
                names += rng.sample([name for name in FACTS if name not in names], 1)
                rng.shuffle(names)
                answers = {name: fact(name, drawn) for name in names}
                given = rng.random() < 0.3
                is_shown = [given and rng.random() < 0.5 for _ in names]
                asked = "; ".join(
                    f"{name}: {answers[name]}" if shown else f"{name}: <extra_id_{i}>" if given else name
                    for i, (name, shown) in enumerate(zip(names, is_shown, strict=True))
                )
                return [f"facts: {asked}", *told], "; ".join(f"{name}: {value}" for name, value in answers.items())
            case "title":
                review = drawn[0]
                sentence = rng.choice(review.sentences)
                keys = [review.trade or "none", SENTIMENTS[review.stars - 1]]
                keys += [
                    value for name in FACTS if (value := fact(name, [review._replace(text=sentence)])) != "not said"
                ]
                return [f"write a sentence of a review: {', '.join(keys)}"], sentence
            case _:
                raise ValueError(f"no such task: {task}")

    def altered(self, sentence: str) -> str | None:
        """Return a sentence with one of its facts replaced by another; None if it has none."""
        for name in self.rng.sample([*FACTS], len(FACTS)):
            if match := next((match for match in _FACTS[name].finditer(sentence) if match[1]), None):
                others = [word for word in SLOTS[FACTS[name]] if word != match[1]]
                return sentence[: match.start(1)] + self.rng.choice(others) + sentence[match.end(1) :]
        return None

    def corrupt(self, pieces: list[list[int]]) -> tuple[list[list[int]], list[int]]:
        """:func:`corrupt_spans` of all pieces of a text, with one target."""
        sources: list[list[int]] = []
        target: list[int] = []
        used = 0
        for piece in pieces:
            source, spans = corrupt_spans(piece, self.sentinels[used:], self.rng)
            sources.append(source)
            target = target[:-1] + spans  # what ends a piece's spans begins those of the next
            used += sum(token in self.sentinels for token in source)
        return sources, target

    def text(self, size: int) -> TextBatch:
        """Draw the tasks on text, by ``TASKS``, from ``size`` reviews, one to three at a time.

        In half of the batches the pieces of a source, its reviews and its captions, are encoded apart and read together.
        """
        count = self.rng.choice((1, 1, 1, 2, 3))  # the same throughout a batch: little padding
        apart = self.rng.random() < 0.5
        groups, pieces, targets = [], [], []
        for _ in range(size // count):
            task = self.rng.choice(self.tasks)
            if task in OF_ONE_PLACE:
                drawn = self.of_place(self.rng.choice(self.visited), count)
            else:
                drawn = self.rng.sample(self.reviews, count)
            groups.append(drawn)
            if task == "spans":
                read, answer = [f"review: {review.text}" for review in drawn], None
                if self.rng.random() < 0.5:
                    of = [captions for review in drawn if (captions := self.captions.get(review.business))]
                    read += [self.photo_text([self.rng.choice(captions) for captions in of])] if of else []
            else:
                (question, *told), answer = self.example(task, drawn)
                last = self.behind and self.order_rng.random() < 0.5
                read = [*told, question] if last else [question, *told]
            pieces.append(read)
            targets.append(answer)
        flat = [*chain(*pieces), *(answer for answer in targets if answer is not None)]
        tokens = iter(self.tokenizer(flat, add_special_tokens=False)["input_ids"])
        eos = self.tokenizer.eos_token_id
        sources = [[next(tokens) for _ in read] for read in pieces]
        for i, (source, answer) in enumerate(zip(sources, targets, strict=True)):
            if answer is None:
                sources[i], targets[i] = self.corrupt(source)
            else:
                targets[i] = next(tokens)
        if not apart:
            sources = [[[*chain(*source)]] for source in sources]
        sources = [[[*ids, eos] for ids in source] for source in sources]
        sentiments = [group[0].stars - 1 if len(group) == 1 else IGNORE for group in groups]
        trades = [[np.mean([name in review.trades for review in group]) for name in self.trades] for group in groups]
        unknown = np.full(len(self.words), np.nan)
        shares = [[self.shown[r.business] for r in group if r.business in self.shown] for group in groups]
        words = [np.mean(group_shares or [unknown], 0) for group_shares in shares]
        texts = pad([ids for source in sources for ids in source], 0)
        width, numbers = texts.shape[1], count_from()
        rows = [
            [number * width + place for ids, number in zip(source, numbers, strict=False) for place in range(len(ids))]
            for source in sources
        ]
        return TextBatch(
            texts=texts,
            row_tokens=pad(rows, -1),
            target=pad([[*ids, eos] for ids in targets], IGNORE),
            sentiments=torch.tensor(sentiments),
            trades=torch.from_numpy(np.stack(trades)).float(),
            words=torch.from_numpy(np.stack(words)).float(),
        )

    def images(self, size: int, augment: bool = True) -> PhotoBatch:
        """Draw photos and what they show; ``augment`` mirrors some and masks some in part."""
        drawn = self.rng.sample(self.photos, min(size, len(self.photos)))
        pixels = [photo.pixels for photo in drawn]
        if augment:
            pixels = [p[:, :, ::-1].copy() if self.rng.random() < 0.5 else p for p in pixels]
            pixels = [mask_pixels(p, 0.3, self.pixel_rng) if self.rng.random() < 0.25 else p for p in pixels]
        return PhotoBatch(
            pixels=torch.from_numpy(np.stack(pixels)),
            words=torch.tensor([self.has(p.caption) for p in drawn]),
            trades=torch.tensor([[float(name in p.trades) for name in self.trades] for p in drawn]),
        )


def name_loss(logits: Tensor, share: Tensor) -> Tensor:
    """Return the binary cross-entropy of names, summed over names, mean over rows.

    Args:
        logits: (R, names).
        share: (R, names) in 0..1, how much each name holds.
    """
    return F.binary_cross_entropy_with_logits(logits, share, reduction="sum") / max(len(logits), 1)
