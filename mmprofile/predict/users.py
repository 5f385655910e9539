"""Users of an input, reduced to what a model is shown of each, and their photos."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL import Image

from mmprofile.inputs.batch import Batch
from mmprofile.inputs.evidence import EvidenceSelector
from mmprofile.inputs.views import Masking, User, View, paradigm_views, user_rng
from mmprofile.model.model import ProfileModel
from mmprofile.predict.rows import InputUser
from mmprofile.profile.schema import Attribute
from mmprofile.remote import RemoteFile, is_url

T = TypeVar("T")
OUTSIDE, NO_FILE, MISSING = "outside", "no_regular_file", "missing"


class ProcessedPhoto(Protocol):
    """A photo as a JPEG, or the reason why it cannot be used (:class:`datamodules.photos.Processed`)."""

    @property
    def jpeg(self) -> bytes | None:
        """Return the file; None where there is a reason."""

    @property
    def reason(self) -> str | None:
        """Return why the photo cannot be used; None where it can."""


@runtime_checkable
class Forgetful(Protocol):
    """What remembers something of the users it has seen."""

    def forget(self) -> None:
        """Drop it."""


class Photos(Protocol):
    """The photos of users, by path or another key.

    Attributes:
        images: by path, those without a problem; None: they are not kept.
    """

    images: dict[str, Image.Image] | None

    def problem(self, path: str) -> str | None:
        """Decode a photo and keep its pixels; return the reason where that is impossible."""

    def __call__(self, path: str) -> np.ndarray:
        """Return the pixels of a photo without a problem, uint8 (3, H, W)."""

    def forget(self) -> None:
        """Drop all pixels."""


class DecodedPhotos:
    """Photos as the model and a captioner take them, by path.

    Args:
        transform: the photo -> pixels for the model; None: the model sees no photos.
        keep_images: whether a captioner sees them.
    """

    def __init__(self, transform: Callable[[Image.Image], np.ndarray] | None, keep_images: bool) -> None:
        self.transform = transform
        self.pixels: dict[str, np.ndarray] = {}
        self.images: dict[str, Image.Image] | None = {} if keep_images else None

    def __contains__(self, path: str) -> bool:
        """Whether a photo is decoded, or nobody wants it."""
        return (self.transform is None or path in self.pixels) and (self.images is None or path in self.images)

    def add(self, path: str, jpeg: bytes) -> None:
        """Decode a photo."""
        image = Image.open(io.BytesIO(jpeg))
        if self.transform is not None:
            self.pixels[path] = np.asarray(self.transform(image))
        if self.images is not None:
            self.images[path] = image

    def clear(self) -> None:
        """Drop all of them."""
        self.pixels.clear()
        if self.images is not None:
            self.images.clear()


class UserPhotos:
    """The photos of an input as pixels, uint8 (3, H, W), by path.

    A path may come from anybody: only regular files in ``root`` are opened, no device, no pipe, and no link to elsewhere.

    Args:
        root: the folder that paths are relative to, and which they must not leave.
        process: the file -> the photo as preparation would store it.
        transform: the photo -> pixels for the model; None: the model sees no photos.
        keep_images: whether to keep ``images``, too, for a captioner. If nobody wants a photo, none is opened.
    """

    def __init__(
        self,
        root: Path,
        process: Callable[[Path | RemoteFile], ProcessedPhoto],
        transform: Callable[[Image.Image], np.ndarray] | None,
        keep_images: bool = False,
    ) -> None:
        self.root, self.process = root.resolve(), process
        self._decoded = DecodedPhotos(transform, keep_images)
        self.images = self._decoded.images

    def problem(self, path: str) -> str | None:
        """Decode a photo and keep its pixels; return the reason where that is impossible."""
        if path in self._decoded:
            return None
        try:
            place = Path(os.path.realpath(self.root / path))  # a loop of links outside is outside, too
            if not place.is_relative_to(self.root):
                return OUTSIDE
            if not stat.S_ISREG(place.stat().st_mode):
                return NO_FILE
        except (OSError, ValueError):  # not there, a link to itself, a name that is too long, a NUL
            return MISSING
        return self._keep(path, place)

    def _keep(self, path: str, place: Path | RemoteFile) -> str | None:
        photo = self.process(place)
        if photo.jpeg is None or photo.reason is not None:
            return str(photo.reason)
        self._decoded.add(path, photo.jpeg)
        return None

    def __call__(self, path: str) -> np.ndarray:
        return self._decoded.pixels[path]

    def forget(self) -> None:
        """Drop all pixels; users who are done need them no more."""
        self._decoded.clear()


class StoredPhotos(UserPhotos):
    """The same of photos on an object store, read where they lie.

    Args:
        url: of the folder that paths are relative to, and which they must not leave.
        process, transform, keep_images: see :class:`UserPhotos`.
    """

    def __init__(self, url: str, *more: Any) -> None:
        super().__init__(Path(), *more)
        self._url = url

    def problem(self, path: str) -> str | None:
        """See :meth:`UserPhotos.problem`."""
        if path in self._decoded:
            return None
        if is_url(path) or path.startswith("/") or ".." in path.split("/"):
            return OUTSIDE
        return self._keep(path, RemoteFile(f"{self._url}/{path}"))


class Selection(NamedTuple):
    """What a model is shown of a user; ``used``: the numbers of it, as the output file has them."""

    user: User
    used: dict[str, Any]


def prediction_view(model: ProfileModel) -> View:
    """Return the view that a model predicts from."""
    modality = model.settings["inputs"]["modality"]
    return paradigm_views(modality, ["text" if modality == "text" else "fusion"])[0]


Captioner = Callable[[Sequence[Image.Image]], list[str]]
"""Photos -> a caption for each; empty where there is none."""


def batches(
    model: ProfileModel,
    users: Iterable[InputUser],
    photos: Photos,
    batch_size: int,
    captioner: Captioner | None = None,
) -> Iterator[tuple[list[Selection], Batch]]:
    """Yield what a model is shown of users, some at a time, as selections and as a batch; pixels are kept until the next.

    Args:
        model: whose settings say what is shown.
        users: in order.
        photos: of these users; with a captioner it keeps images.
        batch_size: users at a time.
        captioner: captions the photos that have no caption; None: they stay without.
    """
    inputs, view = model.settings["inputs"], prediction_view(model)
    collator = model.collator(inputs, photos, Masking(), 0)
    remaining = iter(users)
    while chunk := list(islice(remaining, batch_size)):
        selections = [select(user, inputs, view, photos, model.selector) for user in chunk]
        if captioner is not None and photos.images is not None and view.captions != "none":
            selections = captioned(selections, photos.images, captioner)
        yield selections, collator([selection.user for selection in selections], (view,))
        for memory in (photos, collator, model.vision):  # these people do not come again
            if isinstance(memory, Forgetful):
                memory.forget()


def select(
    row: InputUser,
    inputs: Mapping[str, Any],
    view: View,
    photos: Photos,
    selector: EvidenceSelector | None = None,
) -> Selection:
    """Draw the reviews and photos that the model is shown of a user: as many as in training, by the user's id.

    Photos are opened in the order in which they are drawn, until there are enough.

    Args:
        row: the user.
        inputs: the model's, as :class:`mmprofile.config.settings.InputsConfig` has them; ``photos`` may be absent.
        view: the model's for prediction.
        photos: says which photos can be used.
        selector: the model's, of sentences from reviews that are not drawn; they are not counted in ``used``.
    """
    rng = user_rng(inputs["sample_seed"], row.user_id)
    places = _draw(range(len(row.reviews)), inputs["reviews"], rng)
    reviews = [row.reviews[place] for place in places]
    most = inputs["reviews"] * inputs["photos_per_review"]
    if inputs.get("photos") is not None:
        most = min(most, inputs["photos"])
    unusable: dict[str, str] = {}
    drawn: list[int] = []
    for place in rng.permutation(len(row.photos)).tolist():
        if len(drawn) == most:
            break
        reason = photos.problem(row.photos[place])
        if reason is None:
            drawn.append(place)
        else:
            unusable[row.photos[place]] = reason
    drawn.sort()
    user = User(
        user_id=row.user_id,
        reviews=tuple(reviews),
        photos=tuple(row.photos[place] for place in drawn),
        captions=tuple(row.captions[place] if row.captions else None for place in drawn),
    )
    if selector is not None:
        user = selector.shown(user, [text for place, text in enumerate(row.reviews) if place not in places])
    used = {
        "reviews": len(reviews) if view.reviews else 0,
        "photos": len(drawn) if view.photos != "none" else 0,
        "captions": sum(caption is not None for caption in user.captions) if view.captions != "none" else 0,
        "unusable_photos": unusable,
    }
    return Selection(user=user, used=used)


def captioned(
    selections: Sequence[Selection], images: Mapping[str, Image.Image], captioner: Captioner
) -> list[Selection]:
    """Return the selections with a caption for each photo that had none; equal photos are captioned once."""
    shown = [
        (photo, caption) for s in selections for photo, caption in zip(s.user.photos, s.user.captions, strict=True)
    ]
    bare = [*dict.fromkeys(photo for photo, caption in shown if caption is None)]
    written = dict(zip(bare, captioner([images[photo] for photo in bare]), strict=True)) if bare else {}
    result = []
    for selection in selections:
        user = selection.user
        captions = tuple(
            caption if caption is not None else written[photo] or None
            for photo, caption in zip(user.photos, user.captions, strict=True)
        )
        used = selection.used | {"captions": sum(caption is not None for caption in captions)}
        result.append(Selection(replace(user, captions=captions), used))
    return result


def plain(attribute: Attribute, values: Sequence[str]) -> Any:
    """Return values as JSON has them: a value or None where an attribute has a single one, else a list.

    An empty set is an empty list, and an Unknown one None.
    """
    if attribute.empty and not values:
        return None
    if attribute.several:
        return [] if attribute.is_empty(values) else list(values)
    return values[0] if values else None


def _draw(items: Sequence[T], count: int, rng: np.random.Generator) -> Sequence[T]:
    if len(items) <= count:
        return items
    return [items[i] for i in sorted(rng.choice(len(items), size=count, replace=False).tolist())]
