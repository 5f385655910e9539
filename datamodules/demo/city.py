"""The demo city: a seeded small town that writes the raw files of the Yelp Open Dataset, quirks included.

Labels are not planted. Businesses have attributes, users have tastes and visit by taste, and reviews and photos show
an attribute of the business visited with the probabilities of `EVIDENCE`. Every entity is drawn from its own random
stream, so the same seed gives the same bytes whatever the number of processes, and files are written as streams.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from datamodules.demo.captions import HEADER_NOTE, write_caption
from datamodules.demo.drawing import draw_photo
from datamodules.demo.hints import HINTS
from datamodules.demo.language import WORDS, write_review
from datamodules.demo.people import TEXT_ONLY, leak_phrases, make_person
from datamodules.demo.records import business_row, missing_photo_id, photo_row, review_row, user_row
from datamodules.demo.town import (
    DUPLICATE_PHOTO_ROWS,
    FORCED_PHOTOS,
    MISSING_PHOTO_ROWS,
    TRUNCATED_PHOTOS,
    Business,
    Town,
    User,
    business_count,
    make_business,
    make_id,
    resident_count,
    stream,
)
from mmprofile.errors import UserError

# attribute -> probability that (one review's text, one photo) shows the true value (a review's own stars).
EVIDENCE: dict[str, tuple[float, float]] = {
    "Stars": (0.95, 0.0),
    "Favorite Category": (0.45, 0.45),
    "Preferred Meal": (0.08, 0.75),
    "Budget Range": (0.10, 0.65),
    "Discount Preference": (0.30, 0.45),
    "Service Preference": (0.10, 0.70),
}
STARS_CENTRE, STARS_NOISE = 3.4, 0.5
LEAK_RATE = 0.12  # reviews that give away one text-only attribute of their writer
SHORT_RATE, LONG_RATE, ODD_PER_USER = 0.015, 0.008, 2  # regular users keep 30 reviews of ordinary length
USERS_WITHOUT_ROW = 2  # user ids seen in reviews only
_CHUNK = 25  # users or businesses per task
_FILES = {
    "business": "yelp_academic_dataset_business.json",
    "review": "yelp_academic_dataset_review.json",
    "user": "yelp_academic_dataset_user.json",
    "photo": "photos.json",
    "caption": "captions.jsonl",
    "cue": "cues.jsonl",
    "gold": "gold_text_only.jsonl",
}
Lines = dict[str, list[str]]  # file key -> JSON lines
_town = lru_cache(maxsize=1)(Town)  # once per process: the columns are costly to make for every task


def write_city(
    folder: Path,
    users: int = 1500,
    seed: int = 0,
    progress: bool = True,
    workers: int = 2,
    words: tuple[int, int] = WORDS,
    photographed: float = 1.0,
    indirect: float = 0.0,
) -> None:
    """Write a city into `folder` (files of the same names are replaced).

    Args:
        folder: made if need be; afterwards holds the raw Yelp layout plus captions.jsonl, cues.jsonl (the evidence the
            generator put in, for computing a ceiling) and gold_text_only.jsonl (for evaluation).
        users: regular users, each with at least 30 reviews of ordinary length; 8 % occasional ones come on top.
        seed: same seed and users, same bytes.
        progress: show a bar on stderr.
        workers: processes; 1 works in this one. The result does not depend on it.
        words: least and most words of an ordinary review; Yelp's own have about (30, 180).
        photographed: share of the businesses with photos that are photographed at all, some photos of every kind
            of quirk always among them; 0.24 of Yelp's are.
        indirect: share of the sentences that give away who the writer is which only hint at it (:mod:`datamodules.demo.hints`).

    Raises:
        UserError: `users` or `workers` is below 1, `words`, `photographed` or `indirect` make no sense, or `folder` is a file.
    """
    folder = Path(folder)
    if users < 1 or workers < 1:
        raise UserError(f"demo city: users and workers must be at least 1, got users={users}, workers={workers}")
    if not 1 <= words[0] <= words[1] or not 0 <= photographed <= 1:
        raise UserError(f"demo city: words={words} must be (least, most) and photographed={photographed} a share")
    if not 0 <= indirect <= 1:
        raise UserError(f"demo city: indirect={indirect} is not a share (0 to 1)")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"demo city: {folder} is a file; name a folder to write into")
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    businesses, residents = business_count(users), resident_count(users)
    photos: Callable[..., Lines] = partial(business_lines, photographed=photographed)
    texts: Callable[..., Lines] = partial(user_lines, words=words, indirect=indirect)
    tasks = [(photos, start, min(start + _CHUNK, businesses)) for start in range(0, businesses, _CHUNK)]
    reviews = ((texts, start, min(start + _CHUNK, residents)) for start in range(0, residents, _CHUNK))
    total = businesses + residents
    header = {"synthetic": True, "backend": "demo-city", "note": HEADER_NOTE}
    with _Files(folder) as files, tqdm(total=total, desc="demo city", unit="entity", disable=not progress) as bar:
        files.write({"caption": [json.dumps(header)]})
        calls = ((call, (str(folder), users, seed, start, stop)) for call, start, stop in (*tasks, *reviews))
        for lines in _in_order(calls, workers):
            files.write(lines)
            bar.update(len(lines.get("business", ())) or len(lines["gold"]))


def business_lines(folder: str, users: int, seed: int, start: int, stop: int, photographed: float = 1.0) -> Lines:
    """Businesses `start` to `stop`: their rows, and their photos, drawn into `folder`/photos."""
    lines: Lines = {key: [] for key in ("business", "photo", "caption", "cue")}
    last = business_count(users) - 1
    for index in range(start, stop):
        business = make_business(seed, index)
        lines["business"].append(json.dumps(business_row(seed, business, last)))
        for number in range(business.photos if _is_photographed(seed, index, photographed) else 0):
            _photo(Path(folder), seed, business, number, lines)
        if index in MISSING_PHOTO_ROWS:
            row = photo_row(seed, missing_photo_id(seed, index), business.id, "inside")
            lines["photo"].append(json.dumps(row))
    return lines


def _is_photographed(seed: int, index: int, share: float) -> bool:
    return index in FORCED_PHOTOS or share >= 1 or stream(seed, "photographed", index).random() < share


def _photo(folder: Path, seed: int, business: Business, number: int, lines: Lines) -> None:
    photo_id = make_id(
        seed, "photo", 3 if (business.index, number) == (TRUNCATED_PHOTOS[0], 0) else f"{business.index}-{number}"
    )
    rng = stream(seed, "photo", f"{business.index}-{number}")
    truth = business.truth(rng)
    cues = {name: truth[name] for name, (_, rate) in EVIDENCE.items() if name in truth and rng.random() < rate}
    jpeg, shown = draw_photo(cues, rng)
    truncated = business.index in TRUNCATED_PHOTOS and number == business.photos - 1
    (folder / "photos" / f"{photo_id}.jpg").write_bytes(jpeg[: len(jpeg) // 2] if truncated else jpeg)
    row = json.dumps(photo_row(seed, photo_id, business.id, _label(shown, rng)))
    lines["photo"] += [row] * (2 if business.index in DUPLICATE_PHOTO_ROWS and number == 0 else 1)
    if truncated:  # no one can see what it shows
        return
    caption = write_caption(shown, stream(seed, "caption", photo_id))
    lines["caption"].append(json.dumps({"photo_id": photo_id, "caption": caption}))
    lines["cue"].append(json.dumps({"kind": "photo", "id": photo_id, "cues": cues}))


def _label(shown: dict[str, str], rng: random.Random) -> str:
    """Yelp's coarse photo label."""
    if shown.get("Favorite Category") == "coffee":
        return "drink"
    if shown.get("Discount Preference") == "menu" and rng.random() < 0.4:
        return "menu"
    if "Service Preference" in shown or "pizza" in shown.get("Favorite Category", ""):
        return rng.choice(("food", "food", "inside"))
    return rng.choice(("inside", "inside", "outside"))


def user_lines(
    folder: str,
    users: int,
    seed: int,
    start: int,
    stop: int,
    words: tuple[int, int] = WORDS,
    indirect: float = 0.0,
) -> Lines:
    """Users `start` to `stop`: their reviews, the evidence in them, and who the writers are."""
    town = _town(seed, users)
    lines: Lines = {key: [] for key in ("review", "user", "cue", "gold")}
    for index in range(start, stop):
        user = town.user(index)
        person = make_person(seed, index)
        stars = _reviews(town, user, person, lines, words, indirect)
        if index < town.users - USERS_WITHOUT_ROW:
            lines["user"].append(json.dumps(user_row(seed, user, sum(stars) / len(stars))))
        lines["gold"].append(json.dumps({"user_id": user.id, **{name: person[name] for name in TEXT_ONLY}}))
    return lines


def _reviews(
    town: Town, user: User, person: dict[str, str], lines: Lines, words: tuple[int, int], indirect: float
) -> list[int]:
    """Append one user's reviews and their cues; returns the stars given."""
    leaks = leak_phrases(person)
    odd, given = 0, []
    for number, place in enumerate(town.visits(user)):
        rng = stream(town.seed, "review", f"{user.index}-{number}")
        business = make_business(town.seed, place)
        stars = min(5, max(1, round(STARS_CENTRE + user.bias + business.quality + rng.gauss(0.0, STARS_NOISE))))
        given.append(stars)
        length, luck = "usual", rng.random()
        if luck < SHORT_RATE + LONG_RATE and odd < ODD_PER_USER:
            length, odd = "short" if luck < SHORT_RATE else "long", odd + 1
        truth = {"Stars": str(stars), **business.truth(rng)}
        cues = {name: truth[name] for name, (rate, _) in EVIDENCE.items() if rng.random() < rate}
        if length == "short":
            cues = {name: value for name, value in cues.items() if name == "Stars"}
        leak: list[str] = []
        if leaks and length != "short" and rng.random() < LEAK_RATE:
            pool = rng.choice(leaks)
            leak = [rng.choice(pool)]
            aside = stream(
                town.seed, "indirect", f"{user.index}-{number}"
            )  # its own: the rest of the city stays as it is
            if aside.random() < indirect:
                leak = [aside.choice(HINTS[pool])]
        review_id = make_id(town.seed, "review", 3 if (user.index, number) == (0, 0) else f"{user.index}-{number}")
        row = review_row(review_id, user, business.id, stars, write_review(cues, leak, rng, length, words), rng)
        lines["review"].append(json.dumps(row))
        lines["cue"].append(json.dumps({"kind": "review", "id": review_id, "cues": cues}))
    return given


class _Files:
    """The city's text files, open for as long as it is being written."""

    def __init__(self, folder: Path) -> None:
        self._handles = {key: (folder / name).open("w", encoding="utf-8", newline="\n") for key, name in _FILES.items()}

    def __enter__(self) -> _Files:
        return self

    def write(self, lines: Lines) -> None:
        for key, rows in lines.items():
            self._handles[key].writelines(f"{row}\n" for row in rows)

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            handle.close()


def _in_order(calls: Iterator[tuple[Callable[..., Lines], tuple[Any, ...]]], workers: int) -> Iterator[Lines]:
    """Results of `calls` in their order, a few under way at a time: memory does not grow with the city."""
    # Not multiprocessing's own pool: its workers would import the main module again, in training all of torch.
    run = Parallel(workers, return_as="generator", pre_dispatch="4 * n_jobs")
    yield from run(delayed(call)(*args) for call, args in calls)
    if workers > 1:
        get_reusable_executor().shutdown()
