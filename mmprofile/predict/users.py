"""Users of an input file: read, checked, and reduced to what a model is shown of each.

A line holds one user: ``{"user_id": "ann", "reviews": ["...", "..."], "photos": ["photos/1.jpg"], "captions": ["..."]}``.
``photos`` (relative to the input file) and ``captions`` (parallel to them) may be left out.
"""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from mmprofile.errors import UserError
from mmprofile.files import read_numbered_lines
from mmprofile.inputs.views import User, View, user_rng

T = TypeVar("T")


@dataclass(frozen=True)
class InputUser:
    """A user of an input file; ``captions`` is empty or parallel to ``photos``, None where a photo has none."""

    user_id: str
    reviews: list[str]
    photos: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)


def read_users(path: Path) -> list[InputUser]:
    """Return the users of an input file, checked.

    Raises:
        UserError: the file cannot be read, a line is no user, or two users have one id; names the line.
    """
    users: dict[str, InputUser] = {}
    for number, place, row in read_numbered_lines(path, "input", "user"):
        user = _checked(row, place, default_id=str(number))
        if user.user_id in users:
            raise UserError(f"{place}: user_id {user.user_id!r} stands there a second time")
        users[user.user_id] = user
    if not users:
        raise UserError(f"input={path}: no users in it")
    return list(users.values())


def _checked(row: Any, where: str, default_id: str) -> InputUser:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with reviews, photos")
    lists = {key: row.get(key) or [] for key in ("reviews", "photos", "captions")}
    for key, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) or value is None for value in values):
            raise UserError(f"{where}: {key!r} must be a list of strings")
    user = InputUser(
        user_id=str(row.get("user_id", default_id)),
        reviews=[text for text in lists["reviews"] if text and text.strip()],
        photos=lists["photos"],
        captions=lists["captions"],
    )
    if not user.reviews and not user.photos:
        raise UserError(f"{where}: user {user.user_id!r} has neither reviews nor photos")
    if user.captions and len(user.captions) != len(user.photos):
        raise UserError(
            f"{where}: {len(user.captions)} captions for {len(user.photos)} photos; give one for each, or null"
        )
    return user


class ProcessedPhoto(Protocol):
    """A photo as a JPEG, or the reason why it cannot be used (:class:`datamodules.photos.Processed`)."""

    @property
    def jpeg(self) -> bytes | None:
        """Return the file; None where there is a reason."""

    @property
    def reason(self) -> str | None:
        """Return why the photo cannot be used; None where it can."""


class UserPhotos:
    """The photos of an input file as pixels, uint8 (3, H, W), by path; unusable ones are counted by reason.

    Args:
        root: the folder that paths are relative to.
        process: the file -> the photo as preparation would store it.
        transform: the photo -> pixels for the model; None: the model sees no photos, and none is opened.
    """

    def __init__(
        self,
        root: Path,
        process: Callable[[Path], ProcessedPhoto],
        transform: Callable[[Image.Image], np.ndarray] | None,
    ) -> None:
        self.root, self.process, self.transform = root, process, transform
        self.reasons: Counter[str] = Counter()
        self._pixels: dict[str, np.ndarray] = {}

    def problem(self, path: str) -> str | None:
        """Decode a photo and keep its pixels; return the reason where that is impossible."""
        if self.transform is None or path in self._pixels:
            return None
        photo = self.process(self.root / path)
        if photo.jpeg is None or photo.reason is not None:
            reason = str(photo.reason)
            self.reasons[reason] += 1
            return reason
        self._pixels[path] = np.asarray(self.transform(Image.open(io.BytesIO(photo.jpeg))))
        return None

    def __call__(self, path: str) -> np.ndarray:
        return self._pixels[path]

    def forget(self) -> None:
        """Drop all pixels; users who are done need them no more."""
        self._pixels.clear()


class Selection(NamedTuple):
    """What a model is shown of a user; ``used``: the numbers of it, as the output file has them."""

    user: User
    used: dict[str, Any]


def select(row: InputUser, inputs: Mapping[str, Any], view: View, photos: UserPhotos) -> Selection:
    """Draw the reviews and photos that the model is shown of a user: as many as in training, by the user's id.

    Args:
        row: the user.
        inputs: the model's, as :class:`mmprofile.config.settings.InputsConfig` has them; ``photos`` may be absent.
        view: the model's for prediction.
        photos: says which photos can be used.
    """
    rng = user_rng(inputs["sample_seed"], row.user_id)
    reviews = _draw(row.reviews, inputs["reviews"], rng)
    unusable: dict[str, str] = {}
    usable: list[tuple[str, str | None]] = []
    for path, caption in zip(row.photos, row.captions or [None] * len(row.photos), strict=True):
        reason = photos.problem(path)
        if reason is None:
            usable.append((path, caption))
        else:
            unusable[path] = reason
    most = inputs["reviews"] * inputs["photos_per_review"]
    drawn = _draw(usable, most if inputs.get("photos") is None else min(most, inputs["photos"]), rng)
    user = User(
        user_id=row.user_id,
        reviews=tuple(reviews),
        photos=tuple(path for path, _ in drawn),
        captions=tuple(caption for _, caption in drawn),
    )
    used = {
        "reviews": len(reviews) if view.reviews else 0,
        "photos": len(drawn) if view.photos != "none" else 0,
        "captions": sum(caption is not None for caption in user.captions) if view.captions != "none" else 0,
        "unusable_photos": unusable,
    }
    return Selection(user=user, used=used)


def _draw(items: Sequence[T], count: int, rng: np.random.Generator) -> Sequence[T]:
    if len(items) <= count:
        return items
    return [items[i] for i in sorted(rng.choice(len(items), size=count, replace=False).tolist())]
