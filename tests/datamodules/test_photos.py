"""Every oddity a photo file can have, each made here."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.options import PhotoOptions
from datamodules.photos import PhotoStore, process, process_all
from datamodules.progress import Progress
from mmprofile.errors import UserError

pytestmark = pytest.mark.fast

OPTIONS = PhotoOptions()
QUIET = Progress(False)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def decoded(data: bytes | Path, options: PhotoOptions = OPTIONS) -> Image.Image:
    photo = process(data, options)
    assert photo.reason is None
    assert photo.jpeg is not None
    image = Image.open(io.BytesIO(photo.jpeg))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def near(image: Image.Image, colour: tuple[int, int, int], at: tuple[int, int] = (5, 5)) -> None:
    pixel = image.getpixel(at)
    assert isinstance(pixel, tuple)
    assert max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= 4, (pixel, colour)


def test_large_photo_is_scaled_to_the_shorter_side_and_small_one_keeps_its_size() -> None:
    assert decoded(encoded(Image.new("RGB", (800, 512)), "JPEG")).size == (400, 256)
    assert decoded(encoded(Image.new("RGB", (300, 900)), "JPEG")).size == (256, 768)
    assert decoded(encoded(Image.new("RGB", (90, 40)), "JPEG")).size == (90, 40)


@pytest.mark.parametrize("size", [(4000, 3000), (1537, 2049), (600, 513)])
def test_a_large_jpeg_that_is_decoded_at_reduced_size_is_the_same_photo(size: tuple[int, int]) -> None:
    """A PNG of the same pixels is decoded in full."""
    smooth = noise(25, 19).resize(size, Image.Resampling.BICUBIC)
    jpeg, png = (np.asarray(decoded(encoded(smooth, kind)), dtype=int) for kind in ("JPEG", "PNG"))
    assert jpeg.shape == png.shape
    assert np.abs(jpeg - png).mean() < 2
    assert process(encoded(smooth, "JPEG")[:-200], OPTIONS).reason == "truncated"


def test_exif_rotation_is_applied_and_metadata_are_gone() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste((255, 0, 0), (0, 0, 20, 20))  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    exif[0x013B] = "somebody"
    out = decoded(encoded(image, "JPEG", quality=95, exif=exif, comment=b"at home", icc_profile=b"x" * 200))
    assert out.size == (20, 40)
    near(out, (255, 0, 0), (10, 4))  # now the top half
    near(out, (255, 255, 255), (10, 36))
    assert not out.getexif()
    assert not {"exif", "icc_profile", "comment"} & set(out.info)


def test_cmyk_is_converted() -> None:
    near(decoded(encoded(Image.new("CMYK", (30, 30), (0, 255, 255, 0)), "JPEG", quality=95)), (254, 0, 0))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bit_grey_is_scaled_not_clipped(mode: str) -> None:
    grey = Image.fromarray(np.full((30, 30), 32896, dtype=np.uint16 if mode == "I;16" else np.int32))
    assert grey.mode == mode
    near(decoded(encoded(grey, "PNG" if mode == "I;16" else "TIFF")), (128, 128, 128))


def test_sixteen_bit_colour_png() -> None:
    row = b"\0" + struct.pack(">HHH", 65535, 32896, 0) * 20
    body = zlib.compress(row * 20)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    near(decoded(png), (255, 128, 0))


def test_palette_alpha_and_float() -> None:
    near(decoded(encoded(Image.new("RGB", (20, 20), (10, 200, 30)).quantize(4), "PNG")), (10, 200, 30))
    near(decoded(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG")), (255, 255, 255))
    near(decoded(encoded(Image.new("LA", (20, 20), (0, 255)), "PNG")), (0, 0, 0))
    near(decoded(encoded(Image.new("F", (20, 20), 0.5), "TIFF")), (128, 128, 128))


def test_animated_gif_named_jpg_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (24, 24), colour).quantize(4) for colour in ("red", "blue", "green")]
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    near(decoded(path), (254, 0, 0))


def test_truncated_photo_is_found_out_although_verify_passes_it() -> None:
    whole = encoded(noise(200, 150), "JPEG")
    half = whole[: len(whole) // 2]
    Image.open(io.BytesIO(half)).verify()
    assert process(half, OPTIONS).reason == "truncated"
    png = encoded(noise(), "PNG")
    assert process(png[: len(png) // 2], OPTIONS).reason == "truncated"


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"\xff\xd8\xff", b"GIF89a", bytes(1000), b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_photo_is_not_usable(content: bytes) -> None:
    assert process(content, OPTIONS).reason in ("unreadable", "truncated")


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert process(tmp_path / "empty.jpg", OPTIONS).reason == "empty"
    assert process(tmp_path / "gone.jpg", OPTIONS).reason == "missing"
    assert process(tmp_path, OPTIONS).reason == "unreadable"


@pytest.mark.parametrize("side", [8000, 40000])
def test_too_many_pixels_are_refused_from_the_header(side: int) -> None:
    jpeg = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", side, side)  # a header that lies: decoding would fail otherwise
    assert process(bytes(jpeg), OPTIONS).reason == "too_large"


def test_same_photo_same_bytes() -> None:
    data = encoded(noise(), "JPEG")
    assert process(data, OPTIONS) == process(data, OPTIONS)


def test_counts_by_reason_and_store(tmp_path: Path) -> None:
    good, bad = encoded(noise(), "JPEG"), b"nothing"
    items: list[tuple[str, bytes | Path]] = [("a", good), ("b", bad), ("c", b""), *((f"n{n}", good) for n in range(40))]
    wanted = {name for name, _ in items} | {"never came"}
    with PhotoStore(tmp_path / "store") as store:
        counts = process_all(items, wanted, store, OPTIONS, QUIET)
        assert store.read("a") == store.read("n39") == process(good, OPTIONS).jpeg
    assert counts == {
        "wanted": 44,
        "usable": 41,
        "missing": 1,
        "empty": 1,
        "truncated": 0,
        "too_large": 0,
        "unreadable": 1,
    }


def test_policy_error_names_the_photo(tmp_path: Path) -> None:
    strict = PhotoOptions(policy="error")
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with PhotoStore(tmp_path / "store") as store:
        with pytest.raises(UserError, match=r"bad\.jpg is unreadable"):
            process_all([("bad", tmp_path / "bad.jpg")], {"bad"}, store, strict, QUIET)
        with pytest.raises(UserError, match=r"gone\.jpg is missing"):
            process_all([], {"gone"}, store, strict, QUIET)
