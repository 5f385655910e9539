"""Profiles for anybody: ``python -m mmprofile.predict run=outputs/both input=users.jsonl``.

Input, a user a line: ``{"user_id": "ann", "reviews": ["...", "..."], "photos": ["photos/1.jpg"], "captions": ["..."]}``;
``photos`` (relative to the input file) and ``captions`` (parallel to them) may be left out. Output, a user a line:
``{"user_id", "profile", "text", "faults", "used", "confidence"}``; confidence is the probability that the model gives each
attribute's values, not calibrated, and left out with ``beams=``.
"""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image
from tqdm import tqdm

from mmprofile.errors import UserError
from mmprofile.evaluate.runs import load_run
from mmprofile.inputs.views import Masking, User, View, paradigm_views, user_rng
from mmprofile.model.model import ProfileModel


def read_users(path: Path) -> list[dict[str, Any]]:
    """The users of an input file, checked.

    Raises:
        UserError: the file cannot be read, a line is no user, or two users have one id; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"input={path}: cannot be read ({error})") from error
    users: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: no JSON ({error}); expected one user a line") from error
        user = _checked(row, f"{path}, line {number}", str(number))
        if user["user_id"] in users:
            raise UserError(f"{path}, line {number}: user_id {user['user_id']!r} stands there a second time")
        users[user["user_id"]] = user
    if not users:
        raise UserError(f"input={path}: no users in it")
    return list(users.values())


def _checked(row: Any, where: str, default_id: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with reviews, photos")
    user: dict[str, Any] = {"user_id": str(row.get("user_id", default_id))}
    for key in ("reviews", "photos", "captions"):
        values = row.get(key) or []
        if not isinstance(values, list) or not all(isinstance(value, str) or value is None for value in values):
            raise UserError(f"{where}: {key!r} must be a list of strings")
        user[key] = values
    user["reviews"] = [text for text in user["reviews"] if text and text.strip()]
    if not user["reviews"] and not user["photos"]:
        raise UserError(f"{where}: user {user['user_id']!r} has neither reviews nor photos")
    if user["captions"] and len(user["captions"]) != len(user["photos"]):
        raise UserError(
            f"{where}: {len(user['captions'])} captions for {len(user['photos'])} photos; give one for each, or null"
        )
    return user


class Photos:
    """Photo path -> pixels for the model; what cannot be used is counted by reason."""

    def __init__(
        self, root: Path, process: Callable[[Path], Any], transform: Callable[[Image.Image], np.ndarray] | None
    ) -> None:
        self.root, self.process, self.transform = root, process, transform
        self.reasons: Counter[str] = Counter()
        self._pixels: dict[str, np.ndarray] = {}

    def problem(self, path: str) -> str | None:
        """Decodes a photo and keeps its pixels; the reason where that is impossible."""
        if self.transform is None or path in self._pixels:
            return None
        photo = self.process(self.root / path)
        if photo.reason is not None:
            self.reasons[photo.reason] += 1
            return str(photo.reason)
        self._pixels[path] = np.asarray(self.transform(Image.open(io.BytesIO(photo.jpeg))))
        return None

    def __call__(self, path: str) -> np.ndarray:
        return self._pixels[path]

    def forget(self) -> None:
        """Lets go of the pixels of users that are done."""
        self._pixels.clear()


def select(row: dict[str, Any], inputs: dict[str, Any], view: View, photos: Photos) -> tuple[User, dict[str, Any]]:
    """The reviews and photos that the model is shown of a user: as many as in training, drawn by the user's id.

    Returns:
        The user, and the numbers of what the model's view really shows.
    """
    rng = user_rng(inputs["sample_seed"], row["user_id"])
    reviews = _draw(row["reviews"], inputs["reviews"], rng)
    unusable: dict[str, str] = {}
    usable = []
    for path, caption in zip(row["photos"], row["captions"] or [None] * len(row["photos"]), strict=True):
        reason = photos.problem(path)
        if reason is None:
            usable.append((path, caption))
        else:
            unusable[path] = reason
    most = inputs["reviews"] * inputs["photos_per_review"]
    drawn = _draw(usable, most if inputs.get("photos") is None else min(most, inputs["photos"]), rng)
    user = User(
        row["user_id"], tuple(reviews), tuple(path for path, _ in drawn), tuple(caption for _, caption in drawn)
    )
    used = {
        "reviews": len(reviews) if view.reviews else 0,
        "photos": len(drawn) if view.photos != "none" else 0,
        "captions": sum(caption is not None for caption in user.captions) if view.captions != "none" else 0,
        "unusable_photos": unusable,
    }
    return user, used


def _draw(items: list[Any], count: int, rng: np.random.Generator) -> list[Any]:
    if len(items) <= count:
        return items
    return [items[i] for i in sorted(rng.choice(len(items), size=count, replace=False).tolist())]


def prediction_view(model: ProfileModel) -> View:
    """What the model is shown when it predicts."""
    modality = model.settings["inputs"]["modality"]
    return paradigm_views(modality, ["text" if modality == "text" else "fusion"])[0]


def predict(
    model: ProfileModel, rows: list[dict[str, Any]], photos: Photos, beams: int | None, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Profiles of users, in order, as rows of the output file."""
    inputs, view = model.settings["inputs"], prediction_view(model)
    collator = model.collator(inputs, photos, Masking(), 0)
    todo = iter(rows)
    while chunk := list(islice(todo, batch_size)):
        users, used = zip(*(select(row, inputs, view, photos) for row in chunk), strict=True)
        batch = collator(users, (view,))
        decoded = model.decode(batch) if beams is None else None
        texts = model.generate(batch, beams) if decoded is None else [found.text for found in decoded]
        photos.forget()
        for i, (user, shown, text) in enumerate(zip(users, used, texts, strict=True)):
            parsed = model.schema.parse(text)
            profile = {
                name: list(values) if model.schema[name].kind != "single" else (values[0] if values else None)
                for name, values in parsed.profile.items()
            }
            row = {"user_id": user.user_id, "profile": profile, "text": text, "faults": parsed.faults, "used": shown}
            if decoded is not None:
                row["confidence"] = {name: round(share, 3) for name, share in decoded[i].confidence.items()}
            yield row


def main(cfg: Any) -> None:
    """Entry point."""
    torch.set_flush_denormal(True)  # as in training
    path = Path(cfg.input).expanduser()
    rows = read_users(path)
    _, train_cfg, model = load_run(cfg.run)
    photos = Photos(path.parent, instantiate(cfg.photos), model.transform)
    done = tqdm(
        predict(model, rows, photos, cfg.beams or train_cfg.evaluation.beams, cfg.batch_size),
        total=len(rows), unit="user", disable=None, leave=False,
    )  # fmt: skip
    if cfg.output is None:
        _write(done, sys.stdout)
    else:
        target = Path(cfg.output).expanduser()
        try:
            with target.open("w", encoding="utf-8") as file:
                _write(done, file)
        except OSError as error:
            raise UserError(f"output={cfg.output}: cannot be written ({error.strerror})") from error
        print(f"{len(rows)} profiles in {target}")
    if (
        prediction_view(model).captions != "none"
        and any(r["photos"] for r in rows)
        and not any(r["captions"] for r in rows)
    ):
        print(
            "this model was trained with captions of the photos, and the input has none: expect worse", file=sys.stderr
        )
    if "purpose" in model.settings:
        print(f"this model was trained for the purpose: {model.settings['purpose']}", file=sys.stderr)
    if photos.reasons:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(photos.reasons.items()))
        print(f"photos left out: {counts} (named in each user's `used.unusable_photos`)", file=sys.stderr)


def _write(rows: Iterable[dict[str, Any]], file: TextIO) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
