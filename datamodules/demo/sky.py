"""Light: the window's four skies, and what they do to the room."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from datamodules.demo.objects import Colour

Box = tuple[int, int, int, int]

# Multiplied with the whole scene, in 1/255.
WINDOW_TINT: dict[str, Colour] = {
    "Breakfast": (255, 214, 186),
    "Brunch": (255, 246, 208),
    "Lunch": (240, 250, 255),
    "Dinner": (122, 114, 152),
}
_SKIES: dict[str, tuple[Colour, Colour]] = {  # top, bottom
    "Breakfast": ((236, 150, 140), (255, 206, 128)),
    "Brunch": ((206, 232, 240), (255, 246, 196)),
    "Lunch": ((64, 150, 240), (170, 216, 255)),
    "Dinner": ((10, 14, 44), (36, 40, 88)),
}
_SHAFTS: dict[str, tuple[Colour, int]] = {
    "Breakfast": ((255, 180, 110), 46),
    "Brunch": ((255, 246, 170), 70),
    "Lunch": ((255, 255, 255), 52),
}


def draw_window(image: Image.Image, box: Box, meal: str, rng: random.Random) -> None:
    """Paint a framed window with the sky of `meal` into `image` at `box`."""
    width, height = box[2] - box[0], box[3] - box[1]
    top, bottom = (np.array(colour, dtype=float) for colour in _SKIES[meal])
    rows = np.linspace(0.0, 1.0, height)[:, None]
    gradient = (top * (1 - rows) + bottom * rows)[:, None, :]
    sky = Image.fromarray(np.broadcast_to(gradient, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(sky)
    _SCENERY[meal](sky, draw, rng)
    image.paste(sky, box[:2])
    frame = rng.choice(((250, 248, 244), (130, 94, 62), (90, 96, 104)))
    pen = ImageDraw.Draw(image)
    thick = max(3, width // 18)
    pen.rectangle(box, outline=frame, width=thick)
    pen.line(((box[0] + box[2]) // 2, box[1], (box[0] + box[2]) // 2, box[3]), fill=frame, width=thick // 2 + 1)
    if rng.random() < 0.6:
        middle = (box[1] * 3 + box[3] * 2) // 5
        pen.line((box[0], middle, box[2], middle), fill=frame, width=thick // 2 + 1)
    pen.rectangle((box[0] - thick, box[3] - thick // 2, box[2] + thick, box[3] + thick), fill=frame)
    if meal == "Brunch":
        _sill_plants(pen, box, rng)


def light_shaft(image: Image.Image, box: Box, meal: str) -> None:
    """A beam from the window down across the table."""
    colour, strength = _SHAFTS[meal]
    mask = Image.new("L", image.size)
    lean = (image.width // 2 - (box[0] + box[2]) // 2) // 2
    ImageDraw.Draw(mask).polygon(
        ((box[0], box[3]), (box[2], box[3]), (box[2] + lean + 40, image.height), (box[0] + lean - 10, image.height)),
        fill=strength,
    )
    image.paste(colour, (0, 0), mask.filter(ImageFilter.BoxBlur(6)))


def glow(image: Image.Image, centre: tuple[int, int], radius: int, colour: Colour) -> None:
    """Add a soft round light to `image` in place."""
    halo = (
        Image.radial_gradient("L")
        .resize((2 * radius, 2 * radius), Image.Resampling.BILINEAR)
        .point(lambda v: max(0, 200 - int(v * 1.1)))
    )
    lamp = Image.merge("RGB", [halo.point(lambda v, c=channel: v * c // 255) for channel in colour])
    layer = Image.new("RGB", image.size)
    layer.paste(lamp, (centre[0] - radius, centre[1] - radius))
    image.paste(ImageChops.add(image, layer))


def _sunrise(sky: Image.Image, draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    width, height = sky.size
    x, radius = rng.uniform(0.25, 0.75) * width, width * rng.uniform(0.16, 0.22)
    draw.ellipse((x - radius, height * 0.72 - radius, x + radius, height * 0.72 + radius), fill=(255, 120, 50))
    draw.ellipse((-0.4 * width, height * 0.76, 0.7 * width, height * 1.4), fill=(150, 110, 110))
    draw.ellipse((0.3 * width, height * 0.8, 1.5 * width, height * 1.5), fill=(128, 96, 104))
    mist = Image.new("L", sky.size)
    haze = ImageDraw.Draw(mist)
    for _ in range(3):
        y = rng.uniform(0.6, 0.85) * height
        haze.rectangle((0, y, width, y + height * 0.06), fill=150)
    sky.paste((255, 232, 216), (0, 0), mist.filter(ImageFilter.BoxBlur(5)))


def _late_morning(sky: Image.Image, draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    width, height = sky.size
    x, y, radius = rng.uniform(0.25, 0.75) * width, rng.uniform(0.28, 0.42) * height, width * rng.uniform(0.15, 0.2)
    draw.ellipse((x - radius * 1.6, y - radius * 1.6, x + radius * 1.6, y + radius * 1.6), fill=(255, 250, 206))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 232, 110))
    for spot in range(5):
        left = (spot * 0.24 - 0.1 + rng.uniform(-0.03, 0.03)) * width
        draw.ellipse((left, height * 0.7, left + width * 0.34, height * 1.2), fill=(150, 190, 110))


def _noon(sky: Image.Image, draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    width, height = sky.size
    for _ in range(rng.choice((1, 2, 3))):
        x, y, size = rng.uniform(0.1, 0.7) * width, rng.uniform(0.12, 0.5) * height, width * rng.uniform(0.1, 0.16)
        for dx, dy, scale in ((0.0, 0.0, 1.0), (0.9, -0.25, 1.2), (1.9, 0.0, 1.0)):
            cx, cy, r = x + dx * size, y + dy * size, size * scale * 0.7
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(255, 255, 255))
    if rng.random() < 0.7:
        for left in (0.02, 0.36, 0.66):
            tall = rng.uniform(0.62, 0.8) * height
            draw.rectangle(
                (left * width, tall, (left + 0.28) * width, height),
                fill=rng.choice(((220, 214, 206), (196, 206, 214), (214, 190, 170))),
            )


def _night(sky: Image.Image, draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    width, height = sky.size
    for _ in range(16):
        x, y = rng.uniform(0, width), rng.uniform(0, height * 0.7)
        draw.ellipse((x, y, x + 2, y + 2), fill=(240, 240, 220))
    x, y, radius = rng.uniform(0.25, 0.75) * width, rng.uniform(0.22, 0.38) * height, width * rng.uniform(0.11, 0.16)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(246, 240, 200))
    if rng.random() < 0.6:
        shift = radius * 0.6
        draw.ellipse(
            (x - radius + shift, y - radius - shift * 0.3, x + radius + shift, y + radius - shift * 0.3),
            fill=(16, 20, 54),
        )
    for left in (0.0, 0.3, 0.62):
        tall = rng.uniform(0.62, 0.82) * height
        draw.rectangle((left * width, tall, (left + 0.3) * width, height), fill=(8, 10, 26))
        draw.rectangle(((left + 0.1) * width, tall + 6, (left + 0.16) * width, tall + 12), fill=(255, 214, 110))


def _sill_plants(pen: ImageDraw.ImageDraw, box: Box, rng: random.Random) -> None:
    width = box[2] - box[0]
    for share in rng.sample((0.2, 0.5, 0.8), 2):
        x, y, size = box[0] + share * width, box[3], width * 0.1
        for dx, dy in ((-0.9, -2.0), (0.0, -2.8), (0.9, -2.0)):
            pen.line((x, y - size, x + dx * size, y + dy * size), fill=(70, 130, 70), width=max(2, width // 40))
            pen.ellipse(
                (
                    x + dx * size - size * 0.5,
                    y + dy * size - size * 0.4,
                    x + dx * size + size * 0.5,
                    y + dy * size + size * 0.5,
                ),
                fill=(96, 164, 84),
            )
        pen.polygon(
            ((x - size, y - size), (x + size, y - size), (x + size * 0.7, y + 2), (x - size * 0.7, y + 2)),
            fill=(196, 112, 76),
        )


_SCENERY = {"Breakfast": _sunrise, "Brunch": _late_morning, "Lunch": _noon, "Dinner": _night}
