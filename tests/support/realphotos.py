"""A prepared folder of thirteen real photos."""

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import skimage
from PIL import Image

from datamodules.prepare import prepare
from mmprofile.profile.schema import Schema

PHOTOS = (
    "astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "retina.jpg",
    "hubble_deep_field.jpg", "coins.png", "brick.png", "grass.png", "gravel.png", "moon.png",
)  # fmt: skip


def prepare_photos(folder: Path, schema: Schema) -> Path:
    """Prepare a user's own data: three users with reviews and photos. Return the prepared folder."""
    raw = folder / "raw"
    raw.mkdir()
    for name in PHOTOS:
        image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        image.save(raw / f"{Path(name).stem}.jpg", "JPEG", quality=95)
    photos = [f"{Path(name).stem}.jpg" for name in PHOTOS]
    users = [{"user_id": f"u{i}", "text": "we liked it", "photos": photos[i::3]} for i in range(3)]
    (raw / "reviews.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))
    source = {"kind": "custom", "reviews": str(raw / "reviews.jsonl")}
    selection = {"min_words": 1, "max_words": 300, "min_reviews": 1, "photo_reviews": 0}
    split = {"train": 1, "validation": 1, "test": 1}
    done = folder / "prepared"
    prepare(source, selection, split, schema=schema, progress=False, folder=str(done))
    return done


def kill_after_a_shard(command: Sequence[str], prepared: Path) -> int:
    """Start to caption these photos, kill the process once something is written, and return the number of captions."""
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = prepared / "captions.partial"
    while not list(parts.glob("*.parquet")):
        assert started.poll() is None
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    started.wait()
    done = sum(pq.read_metadata(path).num_rows for path in parts.glob("*.parquet"))
    assert 0 < done < len(PHOTOS)
    return done
