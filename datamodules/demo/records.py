"""The raw Yelp rows of the demo city, quirks included: string literals of both Pythons, "None" values, null objects."""

from __future__ import annotations

import random
from typing import Any

from datamodules.demo.town import FILLER_CATEGORIES, MEALS, Business, User, make_id, stream

NULL_ATTRIBUTES, NULL_CATEGORIES, UNKNOWN_VALUE = 0.04, 0.004, 0.05
RARE_KEY = "RestaurantsCounterService"  # one late business has it: an engine that guesses a schema early loses it

_SURNAMES = (
    "Alder",
    "Baxter",
    "Calloway",
    "Dunmore",
    "Eastwick",
    "Fennimore",
    "Garrow",
    "Hartley",
    "Ingram",
    "Jessup",
    "Kettering",
    "Lomax",
    "Marlowe",
    "Norcross",
    "Oakes",
    "Pennington",
    "Quill",
    "Rowntree",
    "Sutter",
    "Thackeray",
    "Underhill",
    "Vance",
    "Whitlock",
    "Yardley",
)
_NOUNS = {
    "Automotive": ("Garage", "Motors", "Tyre House"),
    "Shopping": ("Emporium", "Outfitters", "Department Store"),
    "Event Planning & Services": ("Events", "Party House", "Ballroom"),
    "Pizza": ("Pizzeria", "Slice Shop", "Pizza Oven"),
    "Coffee & Tea": ("Roasters", "Tea Room", "Espresso"),
    "Active Life": ("Sports Club", "Bike Barn", "Climbing Hall"),
    "Beauty & Spas": ("Salon", "Barbers", "Day Spa"),
    "Local Services": ("Locksmiths", "Laundry", "Post & Parcel"),
    "Health & Medical": ("Pharmacy", "Dental Practice", "Clinic"),
    "Home Services": ("Plumbing", "Roofing", "Hardware"),
}
_TAILS = ("& Kitchen", "& Counter", "& Diner", "& Canteen", "& Table")
_STREETS = (
    "Mill Lane",
    "Bridge Street",
    "Orchard Road",
    "Weir Street",
    "Station Road",
    "Chapel Row",
    "Market Square",
    "Quarry Hill",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FIRST_NAMES = (
    "Ada",
    "Ben",
    "Cleo",
    "Dara",
    "Eli",
    "Fay",
    "Gus",
    "Hana",
    "Ira",
    "June",
    "Kit",
    "Lou",
    "Mina",
    "Ned",
    "Oona",
    "Pia",
    "Quin",
    "Rae",
    "Sam",
    "Tove",
    "Uma",
    "Vic",
    "Wren",
    "Yan",
)


def business_row(seed: int, business: Business, last: int) -> dict[str, Any]:
    """The business.json row; `last` is the highest business index in town."""
    rng = stream(seed, "business-row", business.index)
    forced = {4: "null attributes", 9: "null categories", last - 1: "rare key"}.get(business.index)
    attributes: dict[str, str] | None = _attributes(business, rng)
    if forced == "rare key" and attributes is not None:
        attributes[RARE_KEY] = "True"
    elif forced == "null attributes" or rng.random() < NULL_ATTRIBUTES:
        attributes = None
    categories = [*business.categories, *rng.sample(FILLER_CATEGORIES, rng.randint(1, 3))]
    rng.shuffle(categories)
    unknown_categories = forced == "null categories" or rng.random() < NULL_CATEGORIES
    hours = {day: f"{rng.randint(6, 11)}:0-{rng.randint(17, 23)}:30" for day in _DAYS if rng.random() < 0.9}
    return {
        "business_id": business.id,
        "name": f"{rng.choice(_SURNAMES)}'s {rng.choice(_NOUNS[business.categories[0]])} {rng.choice(_TAILS)}",
        "address": f"{rng.randint(1, 240)} {rng.choice(_STREETS)}",
        "city": "Tiverbrook",
        "state": "ZZ",
        "postal_code": f"{rng.randint(0, 99):05d}",
        "latitude": round(45.0 + rng.uniform(-0.05, 0.05), 7),
        "longitude": round(-30.0 + rng.uniform(-0.05, 0.05), 7),
        "stars": min(5.0, max(1.0, round(2 * (3.4 + business.quality)) / 2)),
        "review_count": rng.randint(5, 120),
        "is_open": int(rng.random() < 0.85),
        "attributes": attributes,
        "categories": None if unknown_categories else ", ".join(categories),
        "hours": hours or None,
    }


def review_row(
    review_id: str, user: User, business_id: str, stars: int, text: str, rng: random.Random
) -> dict[str, Any]:
    """The review.json row; stars are a float and the votes mostly zero, as in Yelp's file."""
    date = f"{rng.randint(2015, 2023)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
    useful, funny, cool = (rng.choices((0, 1, 2, 5), (0.7, 0.18, 0.08, 0.04))[0] for _ in range(3))
    return {
        "review_id": review_id,
        "user_id": user.id,
        "business_id": business_id,
        "stars": float(stars),
        "useful": useful,
        "funny": funny,
        "cool": cool,
        "text": text,
        "date": f"{date} {clock}",
    }


def user_row(seed: int, user: User, mean_stars: float) -> dict[str, Any]:
    """The user.json row (nothing downstream needs it; friends and compliments are left empty)."""
    rng = stream(seed, "user-row", user.index)
    return {
        "user_id": user.id,
        "name": rng.choice(_FIRST_NAMES),
        "review_count": user.reviews,
        "yelping_since": f"{rng.randint(2008, 2014)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d} 12:00:00",
        "useful": rng.randint(0, 60),
        "funny": rng.randint(0, 30),
        "cool": rng.randint(0, 30),
        "elite": "",
        "friends": "None",
        "fans": rng.randint(0, 9),
        "average_stars": round(mean_stars, 2),
    }


def photo_row(seed: int, photo_id: str, business_id: str, label: str) -> dict[str, str]:
    """The photos.json row; most guests write no caption, the rest nothing of substance."""
    rng = stream(seed, "photo-row", photo_id)
    caption = rng.choice(("Yum!", "Our table", "Here again", "Saturday", "Look at this")) if rng.random() < 0.2 else ""
    return {"photo_id": photo_id, "business_id": business_id, "caption": caption, "label": label}


def missing_photo_id(seed: int, business_index: int) -> str:
    """The id of a photo row that has no file."""
    return make_id(seed, "missing-photo", business_index)


def _literal(rng: random.Random, text: str) -> str:
    """A string value as Yelp writes it, sometimes as Python 2 did."""
    return f"u'{text}'" if rng.random() < 0.4 else f"'{text}'"


def _attributes(business: Business, rng: random.Random) -> dict[str, str]:
    """Attribute key -> Python literal; each of those the labels need is known for about 95 % of businesses."""
    meals = {
        "dessert": rng.random() < 0.1,
        "latenight": rng.random() < 0.1,
        **{name.lower(): name in business.meals for name in MEALS},
    }
    mark = "u" if rng.random() < 0.3 else ""
    flags = [f"{mark}'{name}': {flag if flag or rng.random() < 0.8 else None}" for name, flag in meals.items()]
    rng.shuffle(flags)
    parking = ", ".join(f"'{name}': {rng.random() < 0.4}" for name in ("garage", "street", "validated", "lot", "valet"))
    ambience = ", ".join(
        f"{mark}'{name}': {rng.choice((True, False, None))}" for name in ("casual", "romantic", "trendy", "touristy")
    )
    values = {
        "GoodForMeal": "{" + ", ".join(flags) + "}",
        "RestaurantsPriceRange2": str(business.price),
        "HappyHour": str(business.happy_hour),
        "Caters": str(business.caters),
        "RestaurantsTakeOut": str(rng.random() < 0.96),
        "RestaurantsDelivery": str(rng.random() < 0.62),
        "RestaurantsReservations": str(rng.random() < 0.33),
        "RestaurantsGoodForGroups": str(rng.random() < 0.86),
        "BusinessAcceptsCreditCards": str(rng.random() < 0.95),
        "BikeParking": str(rng.random() < 0.7),
        "OutdoorSeating": str(rng.random() < 0.5),
        "HasTV": str(rng.random() < 0.6),
        "WiFi": _literal(rng, rng.choice(("free", "no", "paid"))),
        "NoiseLevel": _literal(rng, rng.choice(("quiet", "average", "loud"))),
        "Alcohol": _literal(rng, rng.choice(("none", "beer_and_wine", "full_bar"))),
        "RestaurantsAttire": _literal(rng, "casual"),
        "BusinessParking": "{" + parking + "}",
        "Ambience": "{" + ambience + "}",
    }
    needed = ("GoodForMeal", "RestaurantsPriceRange2", "HappyHour", "Caters")
    kept = {}
    for name, value in values.items():
        luck = rng.random()
        if luck < UNKNOWN_VALUE * (0.4 if name in needed else 2.0):
            continue
        kept[name] = "None" if luck < UNKNOWN_VALUE * (0.9 if name in needed else 3.0) else value
    return kept
