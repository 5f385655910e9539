"""People and photos that are given as objects of Python."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mmprofile.errors import UserError
from mmprofile.predict.rows import InputUser
from mmprofile.predict.users import DecodedPhotos, ProcessedPhoto

PhotoLike = str | Path | bytes | Image.Image | np.ndarray
"""A file's path or content, an image, or pixels: uint8 (H, W) or (H, W, 3)."""


class GivenPhotos:
    """Photos that were given as objects. A key is the number of the person, whatever their id, and the place among theirs."""

    def __init__(
        self,
        process: Callable[[bytes | Path], ProcessedPhoto],
        transform: Callable[[Image.Image], np.ndarray] | None,
        keep_images: bool,
    ) -> None:
        self.process, self._decoded = process, DecodedPhotos(transform, keep_images)
        self.images = self._decoded.images
        self._people = 0
        self._given: dict[str, tuple[PhotoLike, str]] = {}

    def take(self, person: Mapping[str, Any], name: str) -> InputUser:
        """Return a person as a row of an input, and remember the photos.

        Raises:
            UserError: there is nothing to read, or the captions are not as many as the photos.
        """
        lists = {key: person.get(key) for key in ("reviews", "photos", "captions")}
        for key, given in lists.items():
            if isinstance(given, str | bytes):
                raise UserError(f"person {name}: {key} is a text: give a list")
        reviews, photos, captions = ([] if given is None else [*given] for given in lists.values())
        if not all(isinstance(review, str) for review in reviews):
            raise UserError(f"person {name}: reviews must be texts")
        if not photos and not any(review.strip() for review in reviews):
            raise UserError(f"person {name}: there are neither reviews nor photos")
        if captions and len(captions) != len(photos):
            raise UserError(
                f"person {name}: {len(captions)} captions for {len(photos)} photos; give one for each, or None"
            )
        self._people += 1
        keys = [f"{self._people}/{place}" for place in range(len(photos))]
        what = [f"photo {place} of person {name}" for place in range(len(photos))]
        self._given |= dict(zip(keys, zip(photos, what, strict=True), strict=True))
        return InputUser(name, [review for review in reviews if review.strip()], keys, captions)

    def problem(self, path: str) -> str | None:
        """Decode a photo and keep its pixels.

        Raises:
            UserError: it cannot be used.
        """
        if path in self._decoded:
            return None
        given, what = self._given[path]
        photo = self.process(photo_content(given, what))
        if photo.jpeg is None or photo.reason is not None:
            raise UserError(f"{what}: {photo.reason}")
        self._decoded.add(path, photo.jpeg)
        return None

    def __call__(self, path: str) -> np.ndarray:
        return self._decoded.pixels[path]

    def forget(self) -> None:
        """Drop all photos."""
        self._given.clear()
        self._decoded.clear()


def photo_content(photo: PhotoLike, what: str) -> bytes | Path:
    """Return a photo as a file's content, or as its path.

    Raises:
        UserError: it is no photo.
    """
    if isinstance(photo, bytes):
        return photo
    try:
        if isinstance(photo, str | Path):
            if "\0" in str(photo):
                raise ValueError("no file has such a name")
            return Path(photo).expanduser()
        image = ImageOps.exif_transpose(Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo)
        file = io.BytesIO()
        (image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "LAB", "HSV") else image).save(file, format="PNG")
    except (AttributeError, OSError, TypeError, ValueError) as error:
        kind = f"an array of {photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else repr(photo)[:60]
        raise UserError(
            f"{what}: {kind} is no photo; give a path, bytes, a PIL image or uint8 (height, width, 3)"
        ) from error
    return file.getvalue()
