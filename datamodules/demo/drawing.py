"""Photos of the demo city: small illustrations of a table in a room, drawn at twice the size and reduced.

A photo shows a thing only if its cues say so; everything else in the scene is chosen without regard to the business.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from datamodules.demo import tableware
from datamodules.demo.objects import CATEGORY_OBJECTS, Colour, Painter, Pen, shade
from datamodules.demo.sky import WINDOW_TINT, draw_window, glow, light_shaft

SIZES = ((160, 120), (120, 160), (200, 150))
SIZE_WEIGHTS = (0.6, 0.2, 0.2)
QUALITY = (60, 92)
_SCALE = 2

_WALLS: tuple[Colour, ...] = (
    (222, 208, 190),
    (190, 205, 198),
    (205, 190, 200),
    (188, 198, 214),
    (214, 206, 160),
    (200, 176, 160),
    (178, 186, 170),
    (226, 222, 214),
)
_PLAIN_TABLES: tuple[Colour, ...] = (
    (128, 142, 150),
    (150, 120, 130),
    (120, 140, 120),
    (140, 136, 160),
    (168, 160, 150),
)
_WOODS: tuple[Colour, ...] = ((166, 116, 70), (146, 98, 58), (184, 136, 86), (128, 88, 56))
_TRAYS: tuple[Colour, ...] = ((210, 80, 60), (60, 120, 180), (80, 150, 110), (230, 150, 50))

# attribute value -> what may show it: name (for captions), painter, width/height, height in units of the shorter side
_SERVICE: dict[str, tuple[tuple[str, Painter, float, float], ...]] = {
    "True": (
        ("boxes", tableware.clamshells, 1.15, 0.34),
        ("cartons", tableware.cartons, 1.2, 0.28),
        ("sack", tableware.paper_sack, 0.8, 0.36),
        ("buffet", tableware.buffet_tray, 1.5, 0.28),
    ),
    "False": (("setting", tableware.place_setting, 1.7, 0.2), ("served", tableware.served_plate, 1.7, 0.21)),
}
_BUDGET: dict[str, tuple[tuple[Painter, float, float], ...]] = {
    "High": ((tableware.wine_glass, 0.5, 0.3), (tableware.champagne_bucket, 0.75, 0.3)),
    "Low": ((tableware.paper_cup, 0.62, 0.27), (tableware.price_tag, 0.85, 0.2)),
}
_DISCOUNT: dict[str, tuple[tuple[str, Painter], ...]] = {
    "True": (("happy hour", tableware.happy_hour_sign), ("two for one", tableware.two_for_one_sign)),
    "False": (("menu", tableware.chalk_menu),),
}
_NEUTRAL = (
    (tableware.vase, 0.6, 0.26),
    (tableware.shakers, 0.9, 0.13),
    (tableware.bottle, 0.4, 0.24),
    (tableware.cactus, 0.65, 0.24),
)


def draw_photo(cues: Mapping[str, str], rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """Draw one photo.

    Returns:
        The JPEG bytes, and per attribute shown the name of the thing that shows it (the captions' key).
    """
    width, height = rng.choices(SIZES, SIZE_WEIGHTS)[0]
    scene = _Scene(width * _SCALE, height * _SCALE, cues, rng)
    scene.paint()
    image = scene.image.reduce(_SCALE)
    buffer = io.BytesIO()
    _camera(image, rng).save(buffer, "JPEG", quality=rng.randint(*QUALITY))
    return buffer.getvalue(), scene.shown


class _Scene:
    """A wall, what hangs on it, what stands before it, a table, what stands on it, and the light."""

    def __init__(self, width: int, height: int, cues: Mapping[str, str], rng: random.Random) -> None:
        self.width, self.height, self.cues, self.rng = width, height, cues, rng
        self.image = Image.new("RGB", (width, height), rng.choice(_WALLS))
        self.draw = ImageDraw.Draw(self.image)
        self.unit = min(width, height)  # objects keep their size when the photo is upright
        self.table = round(height * rng.uniform(0.60, 0.68))  # y of the table's far edge
        self.shown: dict[str, str] = {}
        self.window = (0, 0, 0, 0)
        self.flames: list[tuple[int, int]] = []
        self.lit: list[tuple[int, int, int, int]] = []  # boxes that shine by themselves: the window, a neon sign

    def paint(self) -> None:
        meal = self.cues.get("Preferred Meal")
        self._wall(meal)
        self._behind()
        self._table()
        self._things()
        if meal:
            self.shown["Preferred Meal"] = meal
            self._light(meal)
        if self.rng.random() < 0.16:
            self._passer_by()

    def _wall(self, meal: str | None) -> None:
        """Wall paper, then the window, the board and a picture in columns of random order."""
        rng = self.rng
        wall = self.image.getpixel((0, 0))
        assert isinstance(wall, tuple)
        tint: Colour = (wall[0], wall[1], wall[2])
        if rng.random() < 0.4:
            step = rng.randint(self.width // 18, self.width // 9)
            for x in range(0, self.width, 2 * step):
                self.draw.rectangle((x, 0, x + step, self.height), fill=shade(tint, 0.96))
        self.draw.rectangle(
            (0, self.table - self.height // 7, self.width, self.height), fill=shade(tint, rng.uniform(0.72, 0.86))
        )
        pieces = [
            name for name, wanted in (("window", meal), ("board", self.cues.get("Discount Preference"))) if wanted
        ]
        while len(pieces) < 2 or (len(pieces) < 3 and rng.random() < 0.35):
            pieces.append(rng.choice(("picture", "clock", "nothing")))
        rng.shuffle(pieces)
        column = self.width / len(pieces)
        free = round(self.width * rng.uniform(0.3, 0.7))  # where a chandelier hides no board
        for place, piece in enumerate(pieces):
            centre = round(column * (place + 0.5) + rng.uniform(-0.05, 0.05) * column)
            top = round(self.height * rng.uniform(0.04, 0.12))
            free = free if piece == "board" else centre
            if piece == "window" and meal:
                half = round(min(column * 0.44, self.unit * rng.uniform(0.27, 0.34)))
                self.window = window = (
                    centre - half,
                    top,
                    centre + half,
                    top + round(self.height * rng.uniform(0.38, 0.46)),
                )
                draw_window(self.image, window, meal, rng)
                self.lit.append(window)
            elif piece == "board":
                self._board(centre, top, column)
            elif piece == "picture":
                self._put(
                    tableware.picture, rng.uniform(0.8, 1.3), rng.uniform(0.18, 0.26), centre, top + self.unit // 4, 2
                )
            elif piece == "clock":
                self._put(tableware.clock, 1.0, rng.uniform(0.14, 0.2), centre, top + self.unit // 5, 0)
        if self.cues.get("Budget Range") == "High" and rng.random() < 0.6:
            self._put(tableware.chandelier, 1.7, 0.2, free, round(self.unit * 0.2), 0)

    def _board(self, centre: int, top: int, column: float) -> None:
        name, painter = self.rng.choice(_DISCOUNT[self.cues["Discount Preference"]])
        width = min(column * 0.92, self.unit * self.rng.uniform(0.46, 0.58))
        ratio = 1.5 if name != "menu" else self.rng.uniform(0.95, 1.25)
        height = width / ratio / self.unit
        self._put(painter, ratio, height, centre, top + round(height * self.unit), 3)
        self.shown["Discount Preference"] = name
        if name != "menu":
            half, tall = round(width / 2), round(height * self.unit)
            self.lit.append((max(0, centre - half), top, min(self.width, centre + half), min(self.height, top + tall)))

    def _behind(self) -> None:
        """The trade's object, if it is one that stands on the floor."""
        self.on_table: list[tuple[Painter, float, float]] = []
        category = self.cues.get("Favorite Category")
        if not category:
            return
        painter, ratio, size, floor = self.rng.choice(CATEGORY_OBJECTS[category])
        self.shown["Favorite Category"] = painter.__name__
        size *= self.rng.uniform(0.95, 1.25)
        if floor:
            half = ratio * size * self.unit / 2
            centre = self.rng.uniform(half, max(half, self.width - half)) if half * 2 < self.width else self.width / 2
            self._put(painter, ratio, size, round(centre), self.table + round(0.03 * self.height), 3)
        else:
            self.on_table.append((painter, ratio, size))

    def _table(self) -> None:
        rng, budget = self.rng, self.cues.get("Budget Range")
        width, height, top = self.width, self.height, self.table
        inset = round(width * rng.uniform(0.0, 0.1))
        corners = ((inset, top), (width - inset, top), (width + inset, height), (-inset, height))
        if budget == "High":
            self.draw.polygon(corners, fill=(248, 246, 242))
            self.draw.line((inset, top, width - inset, top), fill=(212, 172, 76), width=max(2, height // 60))
            for _ in range(5):
                x = rng.randrange(width)
                self.draw.line((x, top + height // 10, x + rng.randint(-20, 20), height), fill=(228, 226, 222), width=3)
            edge = height - height // 16
            self.draw.line((0, edge, width, edge), fill=(212, 172, 76), width=max(2, height // 80))
        elif budget == "Low":
            wood = rng.choice(_WOODS)
            self.draw.polygon(corners, fill=wood)
            for k in range(1, 7):
                self.draw.line(
                    (inset + (width - 2 * inset) * k // 7, top, round(-inset + (width + 2 * inset) * k / 7), height),
                    fill=shade(wood, 0.72),
                    width=2,
                )
            if rng.random() < 0.5:
                x0, x1 = width * rng.uniform(0.05, 0.25), width * rng.uniform(0.75, 0.95)
                y0, y1 = top + height * 0.1, height * rng.uniform(0.9, 0.98)
                tray = rng.choice(_TRAYS)
                self.draw.rounded_rectangle(
                    (x0, y0, x1, y1), height // 20, fill=tray, outline=shade(tray, 0.75), width=4
                )
        else:
            paint = rng.choice(_PLAIN_TABLES)
            self.draw.polygon(corners, fill=paint)
            self.draw.line((inset, top, width - inset, top), fill=shade(paint, 1.2), width=3)

    def _things(self) -> None:
        """Whatever stands on the table, spread over it in random order, the low things in front."""
        rng, cues = self.rng, self.cues
        things = list(self.on_table)
        if service := cues.get("Service Preference"):
            name, painter, ratio, size = rng.choice(_SERVICE[service])
            self.shown["Service Preference"] = name
            things.append((painter, ratio, size))
        if budget := cues.get("Budget Range"):
            self.shown["Budget Range"] = budget
            things += rng.sample(_BUDGET[budget], rng.choice((1, 1, 2)))
        if cues.get("Preferred Meal") == "Dinner":
            things.append((tableware.candle, 0.5, 0.22))
        while len(things) < 2 or (len(things) < 4 and rng.random() < 0.3):
            things.append(rng.choice(_NEUTRAL))
        rng.shuffle(things)
        total = sum(ratio * size for _, ratio, size in things) * self.unit
        shrink = min(1.15, 0.98 * self.width / total)
        slack = max(0.0, self.width - total * shrink)
        x = slack * rng.uniform(0.0, 0.4)
        for painter, ratio, size in things:
            size *= shrink * rng.uniform(0.9, 1.05)
            wide = ratio * size * self.unit
            floor = self.table + (self.height - self.table) * rng.uniform(0.42, 0.9)
            self._put(painter, ratio, size, round(x + wide / 2), round(floor), 4, shadow=True)
            if painter is tableware.candle:
                self.flames.append((round(x + wide / 2), round(floor - size * self.unit * 0.8)))
            x += wide + slack / (len(things) + 1)

    def _put(
        self, painter: Painter, ratio: float, size: float, x: int, bottom: int, tilt: float, shadow: bool = False
    ) -> None:
        """Paint a thing `size` units high, its bottom centre at (x, bottom), turned by up to `tilt` degrees."""
        high, wide = round(size * self.unit), round(size * ratio * self.unit)
        pen = Pen(wide, high)
        painter(pen, self.rng)
        tile = pen.image
        if tilt:
            tile = tile.rotate(self.rng.uniform(-tilt, tilt), Image.Resampling.BILINEAR, expand=True)
        if shadow:
            dark = Image.new("L", (max(6, round(wide * 1.1)), max(6, high // 5)))
            ImageDraw.Draw(dark).ellipse((2, 2, dark.width - 3, dark.height - 3), fill=70)
            self.image.paste(
                (30, 24, 20), (x - dark.width // 2, bottom - dark.height // 2), dark.filter(ImageFilter.BoxBlur(2))
            )
        self.image.paste(tile, (x - tile.width // 2, bottom - tile.height), tile)

    def _light(self, meal: str) -> None:
        """The hour's light over the whole room; the window, and neon, keep their own."""
        kept = [self.image.crop(box) for box in self.lit]
        self.image = ImageChops.multiply(self.image, Image.new("RGB", self.image.size, WINDOW_TINT[meal]))
        for box, before in zip(self.lit, kept, strict=True):
            self.image.paste(Image.blend(self.image.crop(box), before, 0.75), box[:2])
        if meal != "Dinner":
            light_shaft(self.image, self.window, meal)
        for flame in self.flames:
            glow(self.image, flame, round(self.unit * self.rng.uniform(0.4, 0.55)), (255, 170, 70))

    def _passer_by(self) -> None:
        """Something dark and out of focus in a corner, close to the lens."""
        radius = round(self.unit * self.rng.uniform(0.14, 0.24))
        mask = Image.new("L", (2 * radius, 2 * radius))
        ImageDraw.Draw(mask).ellipse((radius // 4, radius // 4, 7 * radius // 4, 7 * radius // 4), fill=235)
        corner = (self.rng.choice((-radius, self.width - radius)), self.rng.choice((-radius, self.height - radius)))
        colour = self.rng.choice(((60, 50, 46), (90, 70, 60), (70, 80, 96)))
        self.image.paste(colour, corner, mask.filter(ImageFilter.GaussianBlur(radius / 8)))


def _camera(image: Image.Image, rng: random.Random) -> Image.Image:
    """Brightness, colour, focus and sensor noise of a cheap phone."""
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.85, 1.12))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.75, 1.2))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    noise = np.random.default_rng(rng.getrandbits(64)).normal(
        0.0, rng.uniform(0.5, 6.0), (image.height, image.width, 1)
    )
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
