"""The demo town: its businesses, its people, and who visits what.

Everything is a pure function of (seed, kind, index), so that any business or user can be made again by any process,
in any order, and nothing needs to be kept in memory but a few columns of numbers per business.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CATEGORIES = (
    "Automotive",
    "Shopping",
    "Event Planning & Services",
    "Pizza",
    "Coffee & Tea",
    "Active Life",
    "Beauty & Spas",
    "Local Services",
    "Health & Medical",
    "Home Services",
)
MEALS = ("Breakfast", "Brunch", "Lunch", "Dinner")
FILLER_CATEGORIES = ("Restaurants", "Food", "Nightlife", "Bars", "Sandwiches", "Desserts", "American (New)", "Salad")

# How much likelier a user is to visit a business that suits a taste than one that does not.
CATEGORY_PULL, MEAL_PULL, BUDGET_PULL, HAPPY_PULL, CATERS_PULL = 22.0, 22.0, 7.5, 7.5, 7.5
NEARBY = 1_500  # a user chooses among this many neighbouring businesses: keeps the work per user constant
REGULAR_REVIEWS = (32, 44)
OCCASIONAL_REVIEWS = (2, 24)
PRICE_WEIGHTS = (0.20, 0.31, 0.30, 0.19)
MISSING_PHOTO_ROWS, DUPLICATE_PHOTO_ROWS, TRUNCATED_PHOTOS = (11, 23), (5, 17), (29,)  # business indices
FORCED_PHOTOS = frozenset((*MISSING_PHOTO_ROWS, *DUPLICATE_PHOTO_ROWS, *TRUNCATED_PHOTOS))


def stream(seed: int, kind: str, index: int | str) -> random.Random:
    """An independent random stream for one entity (seeded through SHA-512 of the string, never `hash`)."""
    return random.Random(f"{seed}/{kind}/{index}")


def make_id(seed: int, kind: str, index: int | str) -> str:
    """A 22-character base64url id like Yelp's; index 3 of each kind always begins with a dash, as 1 in 64 do."""
    text = base64.urlsafe_b64encode(hashlib.sha256(f"{seed}/{kind}-id/{index}".encode()).digest()).decode()[:22]
    return f"-{text[1:]}" if index == 3 else text


@dataclass(frozen=True)
class Business:
    """The truth about one business; `categories[0]` is its main trade."""

    index: int
    id: str
    categories: tuple[str, ...]
    price: int
    meals: tuple[str, ...]
    happy_hour: bool
    caters: bool
    quality: float
    photos: int

    def truth(self, rng: random.Random) -> dict[str, str]:
        """What one review or photo of this business could show; one category of several, mostly the main one."""
        category = self.categories[0]
        if len(self.categories) > 1 and rng.random() < 0.3:
            category = rng.choice(self.categories[1:])
        return {
            "Favorite Category": category,
            "Preferred Meal": self.meals[0],
            "Budget Range": "High" if self.price >= 3 else "Low",
            "Discount Preference": str(self.happy_hour),
            "Service Preference": str(self.caters),
        }


@dataclass(frozen=True)
class User:
    """One resident: tastes that steer the visits, and a rating bias. `reviews` is the number written."""

    index: int
    id: str
    favourites: tuple[str, str]
    meal: str
    dear: bool
    happy_hour: bool
    caters: bool
    bias: float
    reviews: int


@lru_cache(maxsize=4096)  # users visit the same ones over and over
def make_business(seed: int, index: int) -> Business:
    """Business number `index` of the town with this seed."""
    rng = stream(seed, "business", index)
    count = rng.choices((1, 2, 3), (0.55, 0.35, 0.10))[0]
    meals = rng.sample(MEALS, 2 if rng.random() < 0.3 else 1)
    photos = 0 if rng.random() < 0.12 else rng.choices((1, 2, 3, 4, 5), (0.12, 0.24, 0.30, 0.22, 0.12))[0]
    if index in FORCED_PHOTOS:
        photos = max(photos, 2)
    return Business(
        index=index,
        id=make_id(seed, "business", index),
        categories=tuple(rng.sample(CATEGORIES, count)),
        price=rng.choices((1, 2, 3, 4), PRICE_WEIGHTS)[0],
        meals=tuple(meals),
        happy_hour=rng.random() < 0.52,
        caters=rng.random() < 0.52,
        quality=rng.gauss(0.0, 0.25),
        photos=photos,
    )


def make_user(seed: int, index: int, regular: bool) -> User:
    """User number `index`; regular users write 32-44 reviews, occasional ones fewer than 30."""
    rng = stream(seed, "user", index)
    first, second = rng.sample(CATEGORIES, 2)
    return User(
        index=index,
        id=make_id(seed, "user", index),
        favourites=(first, second),
        meal=rng.choice(MEALS),
        dear=rng.random() < 0.5,
        happy_hour=rng.random() < 0.55,
        caters=rng.random() < 0.55,
        bias=rng.gauss(0.0, 0.95),
        reviews=rng.randint(*(REGULAR_REVIEWS if regular else OCCASIONAL_REVIEWS)),
    )


class Town:
    """Columns of all businesses, for choosing visits; about 20 bytes a business."""

    def __init__(self, seed: int, users: int) -> None:
        self.seed = seed
        self.regular = users
        self.users = resident_count(users)
        self.businesses = business_count(users)
        shape = self.businesses
        self._category = np.zeros((shape, len(CATEGORIES)), dtype=bool)
        self._meal = np.zeros(shape, dtype=np.int8)
        self._high, self._happy, self._caters = (np.zeros(shape, dtype=bool) for _ in range(3))
        for index in range(shape):
            business = make_business(seed, index)
            self._category[index, [CATEGORIES.index(name) for name in business.categories]] = True
            self._meal[index] = MEALS.index(business.meals[0])
            self._high[index] = business.price >= 3
            self._happy[index] = business.happy_hour
            self._caters[index] = business.caters

    def user(self, index: int) -> User:
        return make_user(self.seed, index, regular=index < self.regular)

    def visits(self, user: User) -> Sequence[int]:
        """Business indices visited, one per review (repeats allowed), drawn with odds that follow the user's tastes."""
        rng = stream(self.seed, "visits", user.index)
        rows = (rng.randrange(self.businesses) + np.arange(min(self.businesses, NEARBY))) % self.businesses
        liked = self._category[rows][:, [CATEGORIES.index(name) for name in user.favourites]].any(axis=1)
        odds = np.where(liked, CATEGORY_PULL, 1.0)
        odds *= np.where(self._meal[rows] == MEALS.index(user.meal), MEAL_PULL, 1.0)
        odds *= np.where(self._high[rows] == user.dear, BUDGET_PULL, 1.0)
        odds *= np.where(self._happy[rows] == user.happy_hour, HAPPY_PULL, 1.0)
        odds *= np.where(self._caters[rows] == user.caters, CATERS_PULL, 1.0)
        ladder = np.cumsum(odds)
        draws = np.array([rng.random() for _ in range(user.reviews)]) * ladder[-1]
        return [int(rows[i]) for i in np.searchsorted(ladder, draws, side="right")]


def business_count(users: int) -> int:
    """0.6 a user in a small town, growing more slowly in a large one (900 for 1,500 users, 314,000 for a million)."""
    return max(60, round(min(0.6 * users, 1.25 * math.pow(users, 0.9))))


def resident_count(users: int) -> int:
    """Regular users, then 8 % occasional ones."""
    return users + max(4, round(0.08 * users))
