"""Measure the preparation of raw data: ``python benchmarks/prepare.py [--raw DIR] [--large DIR]``.

The work is from raw JSON to selected, labelled tables: read the files of reviews, businesses and photo rows; keep reviews by
length, and users by number of reviews and of reviews of a business with photos; label six attributes; split; write. All photos
are assumed to be readable. ``pandas`` is a script as people write it, for the whole review file and in chunks; its users, splits,
labels and reviews must equal ours. ``orjson`` only parses the review file line by line. The raw files come from the demo
generator, with reviews as long as Yelp's and photos of a quarter of the businesses.
"""

import argparse
import ast
import contextlib
import json
import os
import random
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from PIL import Image, ImageFilter

from datamodules.demo import write_city
from datamodules.demo.drawing import draw_photo
from datamodules.engine import Engine
from datamodules.label_file import GivenLabels
from datamodules.options import Options, PhotoOptions, Split
from datamodules.photos import PhotoStore, process_all, workers
from datamodules.prepare import Preparation
from datamodules.progress import Progress
from datamodules.pseudonyms import Pseudonyms
from datamodules.raw import RawYelp
from datamodules.selection import split_users
from datamodules.users import write_users
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

REVIEWS_PER_USER = 39.04  # of a town, its occasional users counted in
WORDS, PHOTOGRAPHED = (30, 170), 0.28  # Yelp: 764 bytes a review; 36,680 of 150,346 businesses have photos
TOWNS = 7  # of a million reviews each: as many as Yelp has
SPLIT = {"train": 0.7, "validation": 0.1, "test": 0.2, "seed": 0}
SELECTION = {"min_words": 10, "max_words": 300, "min_reviews": 30, "photo_reviews": 3}
SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
FILES = ("yelp_academic_dataset_business.json", "yelp_academic_dataset_review.json", "photos.json")
CHUNK = 100_000


def ours(raw: Path, result: Path) -> None:
    """Take the steps of ``python -m mmprofile.prepare``, except that no photo is opened: all are assumed to be readable."""
    with _fresh(result / "work") as work:
        options = Options.checked({"kind": "yelp", "path": str(raw)}, SELECTION, SPLIT, {}, "duckdb")
        run = Preparation(options, SCHEMA, result, Progress(False))
        source, engine = RawYelp([raw]), Engine(work)
        try:
            tables, reviews = run.select(source, engine, work)
            data = run.label(GivenLabels(), engine, tables, reviews, tables.photos)
            write_users(result, work, engine, data, run.schema, run.names)
        finally:
            engine.close()


def by_pandas(raw: Path, result: Path, chunk: int | None = None) -> None:
    """Prepare as people do in pandas. Only the split is ours: the budget's cut is the median of its training users.

    Args:
        chunk: reviews read and filtered by length at a time; None: all at once.
    """
    columns = ["review_id", "user_id", "business_id", "stars", "text", "date"]
    if chunk is None:
        reviews = _of_length(pd.read_json(raw / FILES[1], lines=True)[columns])
    else:
        with pd.read_json(raw / FILES[1], lines=True, chunksize=chunk) as chunks:
            reviews = pd.concat([_of_length(part[columns]) for part in chunks])
    reviews = reviews.drop_duplicates("review_id")
    photos = pd.read_json(raw / FILES[2], lines=True).drop_duplicates("photo_id")
    reviews = _at_least(reviews, SELECTION["min_reviews"])
    reviews = _at_least(reviews[reviews["business_id"].isin(photos["business_id"])], SELECTION["photo_reviews"])
    businesses = pd.read_json(raw / FILES[0], lines=True).drop_duplicates("business_id")
    profiles, budget = _labels(reviews.merge(_known(businesses), on="business_id", how="left"))
    complete = profiles.dropna().join(budget, how="inner")
    splits = split_users(sorted(complete.index), Split(**SPLIT), Pseudonyms.of("yelp"))
    complete["Budget Range"] = (complete["mean"] > complete.loc[splits["train"], "mean"].median()).map(
        {True: "High", False: "Low"}
    )
    complete["split"] = pd.Series({user: name for name, users in splits.items() for user in users})
    reviews = reviews[reviews["user_id"].isin(complete.index)].sort_values(["user_id", "date", "review_id"])
    photo_ids = photos.sort_values("photo_id").groupby("business_id")["photo_id"].agg(list)
    result.mkdir(parents=True, exist_ok=True)
    reviews.assign(photo_ids=reviews["business_id"].map(photo_ids)).to_parquet(result / "reviews.parquet", index=False)
    complete.drop(columns="mean").to_parquet(result / "profiles.parquet")


def _of_length(reviews: pd.DataFrame) -> pd.DataFrame:
    return reviews[reviews["text"].str.split().str.len().between(SELECTION["min_words"], SELECTION["max_words"])]


def _at_least(reviews: pd.DataFrame, least: int) -> pd.DataFrame:
    return reviews[reviews["user_id"].map(reviews["user_id"].value_counts()) >= least]


def _known(businesses: pd.DataFrame) -> pd.DataFrame:
    """Return what the labels need of each business; None where it is not known."""

    def value(row: Any, key: str) -> Any:
        try:
            return ast.literal_eval(row[key]) if isinstance(row, dict) and row.get(key) is not None else None
        except (ValueError, SyntaxError):
            return None

    known = businesses[["business_id", "categories"]].copy()
    for key in ("GoodForMeal", "RestaurantsPriceRange2", "HappyHour", "Caters"):
        known[key] = [value(row, key) for row in businesses["attributes"]]
    return known


def _labels(visits: pd.DataFrame) -> tuple[pd.DataFrame, "pd.Series[float]"]:
    """Return profiles without the budget, and the mean price of the businesses that each user visits."""
    users = visits.groupby("user_id")
    profiles = pd.DataFrame({"Stars": (users["stars"].mean() + 0.5).astype(int).astype(str)})
    categories = visits.assign(value=visits["categories"].str.split(", ")).explode("value")
    top = _most_frequent(categories, SCHEMA["Favorite Category"].values)
    top = top[top.groupby("user_id")["value"].transform("size") >= 2].groupby("user_id").head(2)
    profiles["Favorite Category"] = top.sort_values(["user_id", "place"]).groupby("user_id")["value"].agg(list)
    flags = visits["GoodForMeal"].map(
        lambda meals: [meal for meal, good in meals.items() if good is True] if isinstance(meals, dict) else []
    )
    meals = _most_frequent(visits.assign(value=flags).explode("value"), SCHEMA["Preferred Meal"].values)
    profiles["Preferred Meal"] = meals.groupby("user_id")["value"].first()
    for name, key in (("Discount Preference", "HappyHour"), ("Service Preference", "Caters")):
        share = visits.dropna(subset=[key]).astype({key: float}).groupby("user_id")[key].mean()
        profiles[name] = (share >= 0.5).map({True: "True", False: "False"})
    prices = visits.dropna(subset=["RestaurantsPriceRange2"]).astype({"RestaurantsPriceRange2": float})
    return profiles, prices.groupby("user_id")["RestaurantsPriceRange2"].mean().rename("mean")


def _most_frequent(visits: pd.DataFrame, values: tuple[str, ...]) -> pd.DataFrame:
    """Return user_id and value, the most frequent first, ties by the order of ``values``."""
    spelled = {value.lower(): place for place, value in enumerate(values)}
    visits = visits.assign(place=visits["value"].str.lower().map(spelled)).dropna(subset=["place"])
    counts = visits.groupby(["user_id", "place"]).size().rename("n").reset_index()
    counts = counts.sort_values(["user_id", "n", "place"], ascending=[True, False, True])
    return counts.assign(value=[values[int(place)] for place in counts["place"]])


def floor(raw: Path) -> None:
    """Parse every line of the review file: no preparation in Python can do less."""
    import orjson  # only this side needs it

    with (raw / FILES[1]).open("rb") as file:
        for line in file:
            orjson.loads(line)


def differences(mine: Path, theirs: Path) -> list[str]:
    """Return how two results differ in users, splits, labels or reviews; empty when they are equal."""
    pseudonyms = Pseudonyms.of("yelp")
    profiles = pd.read_parquet(theirs / "profiles.parquet")
    reviews = pd.read_parquet(theirs / "reviews.parquet")
    reviews["date"] = reviews["date"].astype(str)
    fields = ["review_id", "business_id", "stars", "text", "date"]
    expected: dict[str, Any] = {}
    for row in profiles.reset_index().to_dict("records"):
        labels = {name: [row[name]] if isinstance(row[name], str) else list(row[name]) for name in SCHEMA.names}
        expected[pseudonyms.user(row["user_id"])] = (row["split"], labels, [])
    names = {user: pseudonyms.user(user) for user in profiles.index}
    reviews["review_id"] = reviews["review_id"].map(pseudonyms.review)
    for user, photo_ids, *values in reviews[["user_id", "photo_ids", *fields]].itertuples(index=False):
        expected[names[user]][2].append((*values, list(photo_ids)))
    prepared: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        for path in sorted((mine / split).glob("*.arrow")):
            for row in pa.ipc.open_stream(path).read_all().to_pylist():
                written = [(*(review[name] for name in fields), review["photo_ids"]) for review in row["reviews"]]
                prepared[row["user_id"]] = (split, row["profile"], written)
    if not prepared or prepared.keys() != expected.keys():
        both = len(prepared.keys() & expected.keys())
        return [f"{len(prepared)} users here, {len(expected)} there, {both} in both"]
    return [
        f"user {user}: {part} is {here!r:.300} here, {there!r:.300} there"
        for user in prepared
        for part, here, there in zip(("split", "profile", "reviews"), prepared[user], expected[user], strict=True)
        if here != there
    ]


SIDES: dict[str, Callable[[Path, Path], None]] = {
    "ours": ours,
    "pandas": by_pandas,
    "pandas in chunks": lambda raw, result: by_pandas(raw, result, CHUNK),
    "orjson": lambda raw, _: floor(raw),
}


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """Make an empty folder and remove it afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# It runs between this process and a command; else the kernel would count this process's peak as the command's.
LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6]))
"""


def measured(command: list[str]) -> dict[str, float]:
    """Return the seconds of a command and the peak resident memory (MB) of its largest process, imports included.

    No side of this benchmark and no preparation has worker processes, so this is all the memory that they use.
    """
    done = subprocess.run([sys.executable, "-IS", "-c", LAUNCHER, *command], stdout=subprocess.PIPE, check=True)
    status, seconds, peak = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    return {"seconds": round(seconds, 2), "peak_mb": round(peak)}


def alone(side: str, raw: Path, result: Path) -> dict[str, float]:
    """Return seconds and peak memory of one side in a process of its own."""
    return measured([sys.executable, __file__, "--side", side, "--raw", str(raw), "--out", str(result)])


def command(raw: Path, folder: Path) -> list[str]:
    """Return the whole command, photos included."""
    options = [f"data.prepare.source.path={raw}", f"data.prepare.folder={folder}"]
    split = [f"data.prepare.split.{name}={size}" for name, size in SPLIT.items()]
    return [sys.executable, "-m", "mmprofile.prepare", "data=yelp", *options, *split]


def photos_per_second(work: Path, count: int, repeats: int) -> list[float]:
    """Return photos per second and core, of 600 x 400 pixels: read, decoded, scaled, encoded, hashed, written."""
    paths = []
    for number in range(count):
        rng = random.Random(number)
        drawn, _ = draw_photo({}, rng)
        (work / "small.jpg").write_bytes(drawn)
        with Image.open(work / "small.jpg") as image:
            large = image.resize((600, 400), Image.Resampling.BICUBIC)
        grain = Image.effect_noise((600, 400), 24).convert("RGB")
        paths.append(work / f"{number}.jpg")
        Image.blend(large, grain, 0.15).filter(ImageFilter.SHARPEN).save(paths[-1], "JPEG", quality=88)
    rates, items = [], [(path.stem, path) for path in paths]
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with PhotoStore(work / "photos.bin") as store:
            counts = process_all(items, {name for name, _ in items}, store, PhotoOptions(), Progress(False))
        rates.append(count / (time.perf_counter() - start) / workers())
        assert counts["usable"] == count
    return rates[1:]


def city(folder: Path, reviews: int, seed: int = 0) -> None:
    """Write a town of about so many reviews, unless it is there already."""
    if (folder / "done").exists():
        return
    users = max(1, round(reviews / REVIEWS_PER_USER))
    write_city(folder, users=users, seed=seed, words=WORDS, photographed=PHOTOGRAPHED, workers=workers())
    (folder / "done").touch()


def cities(folder: Path, reviews: int, count: int) -> None:
    """Write towns of different seeds as one; no two towns share an id."""
    if (folder / "done").exists():
        return
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in FILES}
        for seed in range(count):
            city(folder / "one", reviews, seed)
            for name, file in files.items():
                with (folder / "one" / name).open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 23)
            for photo in (folder / "one" / "photos").iterdir():
                photo.rename(folder / "photos" / photo.name)
            shutil.rmtree(folder / "one")
    (folder / "done").touch()


def second_runs(raw: Path, work: Path, repeats: int) -> tuple[dict[str, float], list[float]]:
    """Return figures of the whole command's first run, and the seconds of runs that find everything done."""
    line = command(raw, work / "prepared")
    first = measured(line)
    return first, [measured(line)["seconds"] for _ in range(repeats)]


def main() -> None:
    """Run one side, as this script tells itself to, or compare all sides."""
    side_parser = argparse.ArgumentParser(add_help=False)
    for name in ("--side", "--raw", "--out"):
        side_parser.add_argument(name, default=None)
    arguments, _ = side_parser.parse_known_args()
    if arguments.side:
        SIDES[arguments.side](Path(arguments.raw), Path(arguments.out))
    else:
        compare()


def compare() -> None:
    """Compare all sides: their times in this process, their memory in a process of each."""
    # Not at the top: it imports torch, which would count as memory of the sides that run in processes of their own.
    from common import alternate, parser, ratio, report

    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--reviews", type=int, default=1_000_000, help="reviews of the town, about")
    options.add_argument("--raw", type=Path, help="the town's folder, filled if it is empty; else a temporary one")
    options.add_argument("--large", type=Path, help=f"also {TOWNS} towns at once, in this folder")
    options.add_argument("--photos", type=int, default=1_000, help="photos of 600 x 400 pixels to process")
    arguments = options.parse_args()
    os.environ.setdefault("MMPROFILE_USER_KEY", secrets.token_hex(32))  # both sides hash user ids with it
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        raw = arguments.raw or work / "raw"
        city(raw, arguments.reviews)
        timed = ("ours", "pandas", "orjson")
        peak = {name: alone(name, raw, work / name) for name in SIDES}
        for name in ("pandas", "pandas in chunks"):
            if wrong := differences(work / "ours", work / name):
                raise SystemExit(f"{len(wrong)} differences to {name}, the first: {wrong[0]}")
        seconds = alternate({name: partial(SIDES[name], raw, work / name) for name in timed}, arguments.repeats)
        rates = photos_per_second(work, arguments.photos, arguments.repeats)
        first, again = second_runs(raw, work, arguments.repeats)
        figures: dict[str, Any] = {
            "vs_pandas": round(ratio(seconds, "pandas", "ours"), 2),
            "memory_vs_pandas": round(peak["ours"]["peak_mb"] / peak["pandas"]["peak_mb"], 3),
            "memory_vs_pandas_in_chunks": round(peak["ours"]["peak_mb"] / peak["pandas in chunks"]["peak_mb"], 3),
            "vs_orjson_floor": round(ratio(seconds, "ours", "orjson"), 2),
            "photos_per_s_per_core": round(statistics.median(rates)),
            "second_run_s": statistics.median(again),
            "seconds": {name: round(statistics.median(times), 2) for name, times in seconds.items()},
            "alone": peak,
            "command": first,
        }
        if arguments.large:
            cities(arguments.large, arguments.reviews, TOWNS)
            figures["seven_million"] = alone("ours", arguments.large, work / "large")
            figures["seven_million_command"] = measured(command(arguments.large, work / "prepared-large"))
        text = page(figures, seconds=seconds, rates=rates, again=again, raw=raw, arguments=arguments)
        report("prepare", text, figures, arguments)


def page(
    figures: dict[str, Any], *, seconds: dict[str, list[float]], rates: list[float], again: list[float], raw: Path,
    arguments: argparse.Namespace,
) -> str:  # fmt: skip
    """Return the section of docs/benchmarks.md."""
    from common import machine, spread, table

    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("duckdb", "ibis-framework", "pandas", "orjson", "pillow")
    )
    size = (raw / FILES[1]).stat().st_size
    with (raw / FILES[1]).open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b""))
    photos = len(list((raw / "photos").iterdir()))
    rows = []
    for name in SIDES:
        measured_alone = [f"{figures['alone'][name][key]:,}" for key in ("seconds", "peak_mb")]
        rows.append([name, spread(seconds[name]) if name in seconds else "", *measured_alone])
    head = ["side", "seconds", "alone, imports included, once, s", "peak memory alone, MB"]
    text = f"## Preparation\n\n`python benchmarks/prepare.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += (
        f"{lines:,} reviews ({size / 1e9:.2f} GB of JSON). {machine()}, {libraries}; "
        f"median (least to most) of {arguments.repeats}.\n\n{table(head, rows)}\n\n"
        f"Users, splits, labels and reviews are equal. Ours is {figures['vs_pandas']:.1f} times as fast as pandas at "
        f"{figures['memory_vs_pandas']:.2f} of its memory ({figures['memory_vs_pandas_in_chunks']:.2f} of that in chunks), "
        f"and takes {figures['vs_orjson_floor']:.1f} times as long as orjson.\n\n"
        f"- `python -m mmprofile.prepare` on the same files, {photos:,} photos of 160 x 120 pixels included: "
        f"{figures['command']['seconds']:.1f} s, {figures['command']['peak_mb']:,} MB; "
        f"run again, when it finds everything done: {spread(again)} s.\n"
        f"- Photos of 600 x 400 pixels, read, decoded in full, scaled, encoded, hashed and written: "
        f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) a second per core, on {workers()} cores.\n"
    )
    if "seven_million" in figures:
        tables, whole = figures["seven_million"], figures["seven_million_command"]
        text += (
            f"- Once, on {TOWNS} times as many reviews ({(arguments.large / FILES[1]).stat().st_size / 1e9:.1f} GB of JSON): "
            f"to tables in {tables['seconds']:.0f} s at {tables['peak_mb']:,} MB; the whole command, photos included, in "
            f"{whole['seconds']:.0f} s at {whole['peak_mb']:,} MB.\n"
        )
    return text.rstrip()


if __name__ == "__main__":
    main()
