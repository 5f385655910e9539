"""A hand-made raw data set in Yelp's layout, small enough to work its labels out by hand. All text is made up."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

TEXT = "the soup was warm and the bread was good so we stayed for a long while"  # 16 words
SMALL = {"min_words": 10, "max_words": 30, "min_reviews": 4, "photo_reviews": 3}
SPLIT = {"train": 4, "validation": 1, "test": 1, "seed": 0}


def yelp_schema() -> Schema:
    return Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")


def jpeg(colour: tuple[int, int, int] = (200, 80, 40), size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG", **options)
    return out.getvalue()


def business(business_id: str, attributes: dict[str, Any] | None, categories: str | None) -> dict[str, Any]:
    return {
        "business_id": business_id,
        "name": business_id,
        "stars": 4.0,
        "review_count": 9,
        "attributes": attributes,
        "categories": categories,
    }


def review(
    review_id: str, user_id: str, business_id: str, stars: float, text: str = TEXT, date: str = "2020-01-02 03:04:05"
) -> dict[str, Any]:
    return {
        "review_id": review_id,
        "user_id": user_id,
        "business_id": business_id,
        "stars": stars,
        "text": text,
        "date": date,
        "useful": 0,
    }


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )


BUSINESSES = [
    business(
        "-pizza",
        {
            "GoodForMeal": "{'lunch': True, 'dinner': True, 'dessert': None, u'breakfast': False}",
            "RestaurantsPriceRange2": "1",
            "HappyHour": "True",
            "Caters": "False",
            "WiFi": "u'free'",
        },
        "Restaurants, Pizza, Italian",
    ),
    business(
        "cafe",
        {
            "GoodForMeal": "{'breakfast': True, 'lunch': True}",
            "RestaurantsPriceRange2": "'2'",
            "HappyHour": "False",
            "Caters": "True",
            "WiFi": "'no'",
        },
        "Coffee & Tea, Food",
    ),
    business(
        "garage",
        {"RestaurantsPriceRange2": "4", "HappyHour": "None", "GoodForMeal": "{'lunch': False}", "Caters": "oops("},
        "automotive",
    ),
    business("nothing", None, None),
]
VISITS = ["-pizza", "-pizza", "cafe", "cafe", "garage"]


def city(
    folder: Path, users: int = 6, prefix: str = "yelp_academic_dataset_", photos: dict[str, bytes] | None = None
) -> Path:
    """``users`` users u0, u1, ... with five reviews each: stars 3, 4, 3, 4, and 4 (odd) or 5 (even) for the garage."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "photos").mkdir(exist_ok=True)
    reviews = [
        review(f"r{u}-{n}", f"u{u}", place, [3, 4, 3, 4, 4 + (u + 1) % 2][n], TEXT, f"2020-01-0{5 - n} 00:00:00")
        for u in range(users)
        for n, place in enumerate(VISITS)
    ]
    write_lines(folder / f"{prefix}business.json", BUSINESSES)
    write_lines(folder / f"{prefix}review.json", reviews)
    write_lines(folder / f"{prefix}user.json", [{"user_id": f"u{u}"} for u in range(users)])
    photos = (
        {"-p1": jpeg((200, 60, 40)), "p2": jpeg((90, 60, 40)), "p3": jpeg((10, 60, 200))} if photos is None else photos
    )
    rows = [
        {"photo_id": name, "business_id": VISITS[2 * i % 5], "caption": "", "label": "food"}
        for i, name in enumerate(photos)
    ]
    write_lines(folder / "photos.json", rows)
    for name, content in photos.items():
        (folder / "photos" / f"{name}.jpg").write_bytes(content)
    return folder


def as_tar(folder: Path, target: Path, mode: str, names: list[str], top: str = "") -> Path:
    with tarfile.open(target, mode) as tar:
        for name in names:
            tar.add(folder / name, arcname=top + name)
    return target


def as_zip(target: Path, files: dict[str, Path]) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in files.items():
            archive.write(path, name)
            archive.writestr("__MACOSX/._" + name.rsplit("/", 1)[-1], b"junk")
    return target
