"""The data of pretraining for the tiny models: generated cities, whose seeds are not the demo's.

So no user, business, review or photo of the demo is seen.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.demo import write_city
from mmprofile.model.vision import photo_transform

SEEDS = (9001, 9002, 9003, 9004, 9005, 9006)  # the demo's is 0, tests use small numbers
HELD_OUT = 9011  # the city of the held-out losses
INPUT = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
CROP = {"crop_pct": 1.0, "crop_mode": "squash"}
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

    @property
    def trade(self) -> str:
        """Return the first trade of its business, or nothing."""
        return "".join(self.trades[:1])

    @property
    def sentences(self) -> list[str]:
        """Return its sentences."""
        return re.split(r"(?<=[.!?])\s+", self.text.strip())


class Photo(NamedTuple):
    """A photo, uint8 (3, height, width), and what is known of it."""

    pixels: np.ndarray
    caption: str
    trades: list[str]
    business: str


class City(NamedTuple):
    """What pretraining reads of one or more cities."""

    reviews: list[Review]
    photos: list[Photo]


def read_city(folder: Path, users: int, seed: int, trades: tuple[str, ...], pixels: bool = True) -> City:
    """Generate a city unless it is there, and read its reviews and photos; without ``pixels`` the photos are black."""
    transform = photo_transform({**INPUT, **CROP, "input_size": tuple(INPUT["input_size"])})
    black = np.zeros((3, 1, 1), np.uint8)
    city = folder / f"city-{seed}-{users}"
    if not city.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:  # so that a city is whole, or is not there
            write_city(Path(temporary) / city.name, users=users, seed=seed)
            (Path(temporary) / city.name).rename(city)
    known = {
        row["business_id"]: [t for t in trades if t in (row["categories"] or "").split(", ")]
        for row in rows(city / "yelp_academic_dataset_business.json")
    }
    reviews = [
        Review(text=row["text"], stars=int(row["stars"]), trades=known[row["business_id"]], business=row["business_id"])
        for row in rows(city / "yelp_academic_dataset_review.json")
        if 10 <= len(row["text"].split()) <= MAX_WORDS
    ]
    of = {row["photo_id"]: row["business_id"] for row in rows(city / "photos.json")}
    photos = [
        Photo(
            pixels=np.asarray(transform(Image.open(city / "photos" / f"{row['photo_id']}.jpg").convert("RGB")))
            if pixels
            else black,
            caption=row["caption"],
            trades=known[of[row["photo_id"]]],
            business=of[row["photo_id"]],
        )
        for row in rows(city / "captions.jsonl")
        if "photo_id" in row
    ]
    return City(reviews=reviews, photos=photos)


def read_cities(folder: Path, users: int, seeds: Sequence[int], trades: tuple[str, ...], pixels: bool = True) -> City:
    """Return the reviews and photos of several cities, see :func:`read_city`."""
    cities = [read_city(folder, users, seed, trades, pixels) for seed in seeds]
    return City(*(list(chain(*(city[i] for city in cities))) for i in range(2)))


def words_of(caption: str) -> set[str]:
    """Return the words of a caption."""
    return set(re.findall(r"[a-z0-9']+", caption.lower()))


def frequent_words(photos: list[Photo]) -> list[str]:
    """Return the words that at least 20 captions have."""
    counts = Counter(word for photo in photos for word in words_of(photo.caption))
    return sorted(word for word, count in counts.items() if count >= 20)
