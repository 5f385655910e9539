"""Photos: decoded in full, verified, turned upright, resized and stored anew as plain JPEG.

A photo is usable when every pixel of it can be decoded: Pillow's ``verify()`` passes a file cut in half. What is stored
carries no EXIF, no colour profile and no comment.
"""

import hashlib
import io
import math
import os
import stat
import struct
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from datamodules.options import PhotoOptions
from datamodules.progress import Progress
from mmprofile.errors import UserError
from mmprofile.remote import RemoteFile

# Formats that decode in-process. Not among them: EPS, which would start Ghostscript, and other scripted formats.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
JPEG_QUALITY = 90
LARGEST = 256 * 2**20
"""Bytes of a photo's file: 50 million pixels take 150 MB as they are."""
REASONS = ("missing", "empty", "truncated", "too_large", "unreadable")
_CUT_SHORT = ("truncated", "broken data stream", "unexpected end", "end of file", "premature", "not enough image data")
# What Pillow's decoders raise on damaged files.
_DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error,
)  # fmt: skip
Image.init()


class Processed(NamedTuple):
    """A photo ready to store, or the reason (one of REASONS) why it is not usable."""

    jpeg: bytes | None
    sha256: str
    reason: str | None


Content = bytes | Path | RemoteFile
"""A photo's bytes, or where they lie."""
Given = tuple[str, Content]
"""A photo's id and content."""
Done = tuple[str, str, Processed]
"""A photo's id, its name in messages, and what became of it."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the first frame, upright, as 8-bit RGB: alpha on white, 16-bit and float greys scaled."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = grey.max(initial=0)
        white = 1.0 if image.mode == "F" and top <= 1 else 255.0 if top <= 255 else 65535.0
        white = 65535.0 if image.mode.startswith("I;16") else white
        image = Image.fromarray((grey.clip(0, white) * (255.0 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white_page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white_page, image)
    return image.convert("RGB")


def process(data: Content, options: PhotoOptions) -> Processed:
    """Check and decode a photo in full; return an upright RGB JPEG, its shorter side at most ``options.shorter_side``.

    Args:
        data: the file's bytes, or where it lies.
        options: size limits; the pixel limit is checked from the header, before anything is decoded.
    """
    try:
        content = data if isinstance(data, bytes) else _content(data)
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the path
        return Processed(None, "", "missing")
    except OSError:
        return Processed(None, "", "unreadable")
    if len(content) > LARGEST:
        return Processed(None, "", "too_large")
    if not content:
        return Processed(None, "", "empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pixel limit is ours; metadata that Pillow finds odd is dropped anyway
            with Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                if image.width * image.height > options.max_pixels:
                    return Processed(None, "", "too_large")
                _read_reduced(image, options.shorter_side)
                jpeg = _encode(to_rgb(image), options.shorter_side)
    except Image.DecompressionBombError:
        return Processed(None, "", "too_large")
    except _DAMAGE as error:
        cut = isinstance(error, EOFError) or any(mark in str(error).lower() for mark in _CUT_SHORT)
        return Processed(None, "", "truncated" if cut else "unreadable")
    return Processed(jpeg, hashlib.sha256(jpeg).hexdigest(), None)


def _content(place: Path | RemoteFile) -> bytes:
    """Return a regular file's content, at most a byte more than is read of a photo; a pipe or a device might never end.

    Raises:
        OSError, ValueError: it is no regular file, or cannot be read.
    """
    if isinstance(place, RemoteFile):
        return place.read_bytes()
    with open(place, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("no regular file")
        return file.read(LARGEST + 1)


def _read_reduced(image: Image.Image, shorter_side: int) -> None:
    """Let a JPEG be decoded at a half, quarter or eighth of its size, at least twice that of what is stored.

    A photo of 12 megapixels takes an eighth of the time so, and the stored pixels differ by less than a hundredth.
    """
    scale = 2 * shorter_side / min(image.size)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _encode(image: Image.Image, shorter_side: int) -> bytes:
    scale = shorter_side / min(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    # A new image carries nothing over from the file: no EXIF, no profile, no comment.
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    out = io.BytesIO()
    clean.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


@dataclass(frozen=True)
class Stored:
    """Where a photo's JPEG lies in the store."""

    offset: int
    length: int
    sha256: str


class PhotoStore:
    """Processed photos in one file on disk, so that a million of them need little memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._end = 0
        self.index: dict[str, Stored] = {}

    def add(self, photo_id: str, photo: Processed) -> None:
        """Append a usable photo."""
        assert photo.jpeg is not None
        self._file.write(photo.jpeg)
        self.index[photo_id] = Stored(self._end, len(photo.jpeg), photo.sha256)
        self._end += len(photo.jpeg)

    def read(self, photo_id: str) -> bytes:
        """Return the JPEG of a stored photo."""
        entry = self.index[photo_id]
        self._file.seek(entry.offset)
        return self._file.read(entry.length)

    def __enter__(self) -> "PhotoStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def workers() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_all(
    items: Iterable[Given],
    wanted: set[str],
    store: PhotoStore,
    options: PhotoOptions,
    progress: Progress,
    through: Callable[[Iterable[Given], PhotoOptions], Iterator[Done]] | None = None,
) -> dict[str, int]:
    """Process photos and store the usable ones.

    Args:
        items: ids that never come count as missing.
        wanted: all ids asked for.
        through: yields what :func:`process` makes of each photo; None: :func:`by_threads`.

    Returns:
        Counts: ``wanted``, ``usable``, and one per reason.

    Raises:
        UserError: the policy is ``error`` and a photo is not usable; names it.
    """
    counts: Counter[str] = Counter()
    processed: set[str] = set()
    with progress.bar(len(wanted), "photos", "photo") as bar:
        for photo_id, name, photo in (through or by_threads)(items, options):
            processed.add(photo_id)
            bar.update()
            if photo.reason is None:
                store.add(photo_id, photo)
                continue
            if options.policy == "error":
                raise UserError(_complaint(name, photo.reason))
            counts[photo.reason] += 1
        missing = wanted - processed
        bar.update(len(missing))
    if missing and options.policy == "error":
        raise UserError(_complaint(f"{min(missing)}.jpg", "missing"))
    counts["missing"] += len(missing)
    return {"wanted": len(wanted), "usable": len(store.index)} | {reason: counts[reason] for reason in REASONS}


def _complaint(name: str, reason: str) -> str:
    return f"photo {name} is {reason.replace('_', ' ')}: mend or remove it, or set data.prepare.photos.policy=drop"


def name_of(photo_id: str, data: Content) -> str:
    """Return what messages call a photo."""
    return f"{photo_id}.jpg" if isinstance(data, bytes) else str(data)


def by_threads(items: Iterable[Given], options: PhotoOptions) -> Iterator[Done]:
    """Yield results in the order of ``items``, with a bounded number of photos in memory.

    Pillow lets go of the interpreter's lock while it decodes, scales and encodes, so threads use all cores as a pool of
    processes would, without starting interpreters or copying photos between them.
    """
    count = workers()
    waiting: deque[tuple[str, str, Future[Processed]]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for photo_id, data in items:
                waiting.append((photo_id, name_of(photo_id, data), pool.submit(process, data, options)))
                if len(waiting) >= 8 * count:
                    first_id, first_name, future = waiting.popleft()
                    yield first_id, first_name, future.result()
            while waiting:
                first_id, first_name, future = waiting.popleft()
                yield first_id, first_name, future.result()
        finally:
            for _, _, future in waiting:
                future.cancel()
