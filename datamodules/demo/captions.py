"""Captions in the manner of a captioning model: what a photo visibly shows, with things missed and things misread."""

from __future__ import annotations

import random
from collections.abc import Mapping

OMIT_RATE = 0.25  # a visible element is not mentioned
WRONG_RATE = 0.06  # a visible element is taken for another of its kind
HEADER_NOTE = "synthetic captions, written by the demo city's generator from what it drew, with errors at a set rate"

# attribute -> thing drawn (see `drawing`) -> phrasings
OBJECTS: dict[str, tuple[str, ...]] = {
    "pizza": ("a pizza", "a whole pizza", "a pepperoni pizza", "a pizza on a plate"),
    "slice_of_pizza": ("a slice of pizza", "a piece of pizza on a plate", "a pizza slice", "a single slice of pizza"),
    "coffee": ("a cup of coffee", "a coffee cup", "a mug of hot coffee", "a cup of coffee on a saucer"),
    "car": ("a car", "a small car", "a car parked in a room", "a toy car"),
    "shopping_bags": (
        "two shopping bags",
        "shopping bags",
        "a couple of colorful shopping bags",
        "a pair of bags from a store",
    ),
    "balloons": ("a bunch of balloons", "balloons", "colorful party balloons", "several balloons on strings"),
    "bicycle": ("a bicycle", "a bike", "a bike leaning on the wall", "a bicycle in a room"),
    "ball": ("a ball", "a sports ball", "a ball on a table", "a large ball"),
    "scissors": ("a pair of scissors", "scissors", "hairdresser's scissors", "large scissors"),
    "mirror": ("a mirror", "a make up mirror", "an oval mirror on a stand", "a vanity mirror"),
    "mailbox": ("a mailbox", "a mail box with a letter", "a post box", "a mailbox on a post"),
    "keys": ("a set of keys", "keys", "two keys on a ring", "a bunch of keys"),
    "first_aid": ("a first aid kit", "a white case with a red cross", "a medical kit", "a first aid box"),
    "pills": ("a bottle of pills", "a pill bottle", "medicine in a bottle", "a bottle of medicine with a red cross"),
    "hammer": ("a hammer", "a hammer with a handle", "a tool", "a claw hammer"),
    "house": ("a small house", "a model house", "a house with a roof", "a miniature house"),
}
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "Favorite Category": OBJECTS,
    "Preferred Meal": {
        "Breakfast": (
            "at sunrise",
            "with the sun rising outside",
            "early in the morning",
            "with an orange sky in the window",
        ),
        "Brunch": (
            "with the sun shining through the window",
            "in a sunny room with plants",
            "with potted plants in the window",
            "in the late morning sun",
        ),
        "Lunch": (
            "with a blue sky outside",
            "in the middle of the day",
            "with clouds in the window",
            "on a bright day",
        ),
        "Dinner": ("at night", "in the dark with a candle", "by candle light", "with the moon in the window"),
    },
    "Budget Range": {
        "Low": (
            "a wooden table",
            "a bare wooden table",
            "a table with a price tag",
            "a table with a paper cup",
            "a cheap wooden table with a tray",
        ),
        "High": (
            "a white table cloth",
            "a table with a white tablecloth",
            "an elegant table with wine",
            "a fancy table",
            "a table with a wine glass",
        ),
    },
    "Discount Preference": {
        "happy hour": (
            "a neon sign that says happy hour",
            "a happy hour sign",
            "a neon happy hour sign on the wall",
            "a glowing happy hour sign",
        ),
        "two for one": (
            "a neon sign that says 2 for 1",
            "a two for one sign",
            "a neon sign with a cocktail",
            "a 2 for 1 drinks sign",
        ),
        "menu": ("a menu board", "a chalkboard menu on the wall", "a blackboard with a menu", "a menu on the wall"),
    },
    "Service Preference": {
        "boxes": ("a stack of take out boxes", "take out boxes", "a pile of food containers", "stacked boxes of food"),
        "cartons": ("two take out cartons", "chinese food boxes", "white take out containers", "cartons of take out"),
        "sack": ("a brown paper bag", "a take out bag with a receipt", "a paper bag of food", "a bag of take out"),
        "buffet": ("a catering tray", "a buffet dish with a lid", "a silver chafing dish", "a tray from a buffet"),
        "setting": (
            "a plate with a knife and fork",
            "an empty plate and silverware",
            "a place setting",
            "a plate and cutlery",
        ),
        "served": (
            "a plate of food",
            "a plate with food and a fork",
            "a meal on a plate",
            "food on a plate with a knife and fork",
        ),
    },
}
_EMPTY = (
    "a room with a table",
    "a table in a restaurant",
    "a table with some things on it",
    "an illustration of a room",
    "a drawing of a table",
)
_PLAIN_TABLE = ("a table", "a table", "a counter", "the table")
_JOINS = ("with", "and", "next to", "beside")


def write_caption(shown: Mapping[str, str], rng: random.Random) -> str:
    """Describe a photo from `shown` (attribute -> thing drawn), each element missed or misread at the rates above."""
    said: dict[str, str] = {}
    for name, thing in shown.items():
        if rng.random() < OMIT_RATE:
            continue
        table = PHRASES[name]
        if rng.random() < WRONG_RATE:
            thing = rng.choice([other for other in table if other != thing])
        said[name] = rng.choice(table[thing])
    things = [said[name] for name in ("Favorite Category", "Service Preference") if name in said]
    table_phrase, sign, light = (said.get(name) for name in ("Budget Range", "Discount Preference", "Preferred Meal"))
    rng.shuffle(things)
    if things:
        text = f" {rng.choice(_JOINS)} ".join(things)
        if table_phrase or rng.random() < 0.5:
            text += f" on {table_phrase or rng.choice(_PLAIN_TABLE)}"
    else:
        text = table_phrase or rng.choice(_EMPTY)
    if sign:
        text = f"{text} {rng.choice(('with', 'and', 'near', 'under'))} {sign}"
    return f"{text} {light}" if light else text
