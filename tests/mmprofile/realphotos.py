"""A prepared folder of thirteen real photos."""

import json
from pathlib import Path

import skimage
from PIL import Image

from datamodules.prepare import prepare
from mmprofile.profile import Schema

PICTURES = (
    "astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "retina.jpg",
    "hubble_deep_field.jpg", "coins.png", "brick.png", "grass.png", "gravel.png", "moon.png",
)  # fmt: skip


def prepare_photos(folder: Path, schema: Schema) -> Path:
    """A user's own data: three users with reviews and photos."""
    raw = folder / "raw"
    raw.mkdir()
    for name in PICTURES:
        image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        image.save(raw / f"{Path(name).stem}.jpg", "JPEG", quality=95)
    photos = [f"{Path(name).stem}.jpg" for name in PICTURES]
    users = [{"user_id": f"u{i}", "text": "we liked it", "photos": photos[i::3]} for i in range(3)]
    (raw / "reviews.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))
    source = {"kind": "custom", "reviews": str(raw / "reviews.jsonl")}
    selection = {"min_words": 1, "max_words": 300, "min_reviews": 1, "photo_reviews": 0}
    split = {"train": 1, "validation": 1, "test": 1}
    done = folder / "prepared"
    prepare(source, selection, split, schema=schema, progress=False, folder=str(done))
    return done
