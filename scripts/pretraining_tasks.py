"""The data of pretraining for the tiny models: generated cities, and tasks drawn from them.

The seeds of the cities are not the demo's, so no user, business, review or photo of the demo is seen. No task shows a
profile. Dimension letters as in :mod:`mmprofile.model`.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from itertools import count as count_from
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from datamodules.demo import write_city
from mmprofile.inputs.batch import IGNORE, mask_pixels, pad
from mmprofile.model.vision import photo_transform

SEEDS = (9001, 9002, 9003, 9004)  # the demo's is 0, tests use small numbers
SENTINELS = 40
INPUT = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
CROP = {"crop_pct": 1.0, "crop_mode": "squash"}
HELD_OUT = 0.03
TASKS = ("spans", "trades", "other photo", "stars", "trades", "other photo")
MAX_WORDS = 60  # a single review of 300 words would make its whole batch ten times as wide


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a newline-delimited JSON file."""
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


class Review(NamedTuple):
    """A review and what is known of it."""

    text: str
    stars: int
    trades: list[str]
    business: str


class Photo(NamedTuple):
    """A photo, uint8 (3, height, width), and what is known of it."""

    pixels: np.ndarray
    caption: str
    trades: list[str]
    business: str


def read_cities(
    folder: Path, users: int, seeds: tuple[int, ...], trades: tuple[str, ...]
) -> tuple[list[Review], list[Photo]]:
    """Generate the cities, and read their reviews and photos."""
    transform = photo_transform({**INPUT, **CROP, "input_size": tuple(INPUT["input_size"])})
    reviews, photos = [], []
    for seed in seeds:
        city = folder / f"city-{seed}"
        if not city.exists():
            write_city(city, users=users, seed=seed)
        known = {
            row["business_id"]: [t for t in trades if t in (row["categories"] or "").split(", ")]
            for row in rows(city / "yelp_academic_dataset_business.json")
        }
        for row in rows(city / "yelp_academic_dataset_review.json"):
            if 10 <= len(row["text"].split()) <= MAX_WORDS:
                business = row["business_id"]
                reviews.append(
                    Review(text=row["text"], stars=int(row["stars"]), trades=known[business], business=business)
                )
        captions = {row["photo_id"]: row["caption"] for row in rows(city / "captions.jsonl") if "photo_id" in row}
        of = {row["photo_id"]: row["business_id"] for row in rows(city / "photos.json")}
        for photo, caption in captions.items():
            pixels = transform(Image.open(city / "photos" / f"{photo}.jpg").convert("RGB"))
            photos.append(
                Photo(pixels=np.asarray(pixels), caption=caption, trades=known[of[photo]], business=of[photo])
            )
    return reviews, photos


def split_held_out(
    reviews: list[Review], photos: list[Photo]
) -> tuple[tuple[list[Review], list[Photo]], tuple[list[Review], list[Photo]]]:
    """Return what is learned from, and what the last losses are measured on; shuffle both lists."""
    for rows in (reviews, photos):
        random.Random(0).shuffle(rows)  # type: ignore[arg-type]
    r, p = int(len(reviews) * HELD_OUT), int(len(photos) * HELD_OUT)
    return (reviews[r:], photos[p:]), (reviews[:r], photos[:p])


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
        stars: (R, 5) the share of each number of stars in the reviews of a row.
        trades: (R, trades) the share of each trade in them.
        words: (R, words) how many photos of the reviewed businesses have each word in their caption, as a share; NaN
            where there are no photos.
    """

    texts: Tensor
    row_tokens: Tensor
    target: Tensor
    stars: Tensor
    trades: Tensor
    words: Tensor


class PhotoBatch(NamedTuple):
    """Photos and what is to be learned from them.

    Attributes:
        pixels: uint8 (P, 3, height, width).
        target: (P, L) ids of their captions or trades.
        words: (P, words) 1 where a caption has the word, else 0.
    """

    pixels: Tensor
    target: Tensor
    words: Tensor


def words_of(caption: str) -> set[str]:
    """Return the words of a caption."""
    return set(re.findall(r"[a-z0-9']+", caption.lower()))


def frequent_words(photos: list[Photo]) -> list[str]:
    """Return the words that at least 20 captions have."""
    counts = Counter(word for photo in photos for word in words_of(photo.caption))
    return sorted(word for word, count in counts.items() if count >= 20)


class Mixture:
    """Draws batches of the pretraining tasks.

    Args:
        reviews, photos: of the cities.
        trades, words: the classes of the linear heads.
        tokenizer: of the model.
        seed: of the draws.
    """

    def __init__(
        self,
        reviews: list[Review],
        photos: list[Photo],
        trades: Sequence[str],
        words: Sequence[str],
        tokenizer: Any,
        seed: int,
    ) -> None:
        self.reviews, self.photos, self.trades, self.words = reviews, photos, trades, words
        self.tokenizer = tokenizer
        self.rng, self.pixel_rng = random.Random(seed), np.random.default_rng(seed)
        self.sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(SENTINELS)])
        self.eos = tokenizer.eos_token_id
        self.captions: dict[str, list[str]] = {}
        for photo in photos:
            self.captions.setdefault(photo.business, []).append(photo.caption)
        self.shown = {
            business: np.mean([self.has(caption) for caption in captions], 0)
            for business, captions in self.captions.items()
        }
        self.visits: dict[str, list[Review]] = {}
        for review in reviews:
            if len(self.captions.get(review.business, ())) > 1:
                self.visits.setdefault(review.business, []).append(review)
        self.visited = sorted(self.visits)

    def ids(self, text: str) -> list[int]:
        """Return token ids without end-of-sequence."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def has(self, caption: str) -> list[float]:
        """Return 1 for each of the words that a caption has, else 0."""
        present = words_of(caption)
        return [float(word in present) for word in self.words]

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
        sources, targets, groups = [], [], []
        count = self.rng.choice((1, 1, 1, 2, 3))  # the same throughout a batch: little padding
        apart = self.rng.random() < 0.5
        for i in range(size // count):
            task = TASKS[i % len(TASKS)]
            drawn = self.rng.sample(self.reviews, count)
            if task in ("trades", "other photo"):
                visits = self.visits[self.rng.choice(self.visited)]
                drawn = self.rng.sample(visits, min(count, len(visits)))
            pieces = [f"review: {review.text}" for review in drawn]
            if task in ("spans", "stars") and self.rng.random() < 0.5:
                of = [captions for review in drawn if (captions := self.captions.get(review.business))]
                pieces += [" ".join(f"photo: {self.rng.choice(captions)}" for captions in of)] if of else []
            if task == "stars":
                stars = sorted((review.stars for review in drawn), reverse=True)
                target = self.ids(", ".join(map(str, stars)))
            elif task != "spans":
                other, *shown = self.rng.sample(captions := self.captions[drawn[0].business], min(3, len(captions)))
                photos = [" ".join(f"photo: {caption}" for caption in shown)]
                pieces = self.rng.choice((pieces, photos, pieces + photos, pieces + photos))
                target = self.ids(other if task == "other photo" else ", ".join(drawn[0].trades) or "none")
            source = [self.ids(piece) for piece in pieces]
            if task == "spans":
                source, target = self.corrupt(source)
            head = self.ids(f"{task}:") if task != "spans" else []
            whole = source if apart else [[*chain(*source)]]
            sources.append([[*head, *ids, self.eos] for ids in whole])
            targets.append([*target, self.eos])
            groups.append(drawn)
        stars = [[np.mean([review.stars == n for review in group]) for n in range(1, 6)] for group in groups]
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
            target=pad(targets, IGNORE),
            stars=torch.from_numpy(np.stack(stars)).float(),
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
        trade_texts = [f"trade: {', '.join(photo.trades) or 'none'}" for photo in drawn]
        texts = [p.caption if self.rng.random() < 0.75 else name for p, name in zip(drawn, trade_texts, strict=True)]
        target = pad([[*self.ids(text), self.eos] for text in texts], IGNORE)
        return PhotoBatch(
            pixels=torch.from_numpy(np.stack(pixels)),
            target=target,
            words=torch.tensor([self.has(p.caption) for p in drawn]),
        )


def mixtures(
    reviews: list[Review], photos: list[Photo], *, trades: Sequence[str], words: Sequence[str], tokenizer: Any
) -> tuple[Mixture, Mixture]:
    """Return the tasks that are learned from, and those that are held out; shuffle both lists."""
    learned, held_out = split_held_out(reviews, photos)
    return (
        Mixture(*learned, trades=trades, words=words, tokenizer=tokenizer, seed=1),
        Mixture(*held_out, trades=trades, words=words, tokenizer=tokenizer, seed=2),
    )


def name_loss(logits: Tensor, share: Tensor) -> Tensor:
    """Return the binary cross-entropy of names, summed over names, mean over rows.

    Args:
        logits: (R, names).
        share: (R, names) in 0..1, how much each name holds.
    """
    return F.binary_cross_entropy_with_logits(logits, share, reduction="sum") / max(len(logits), 1)
