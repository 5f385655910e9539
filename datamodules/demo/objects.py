"""Things a demo photo can show, each painted on its own transparent tile by a `Pen` in unit coordinates."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

BRIGHT: tuple[Colour, ...] = (
    (214, 62, 62),
    (52, 112, 196),
    (60, 152, 92),
    (236, 170, 50),
    (140, 80, 170),
    (230, 110, 150),
    (40, 160, 170),
)
CRAFT: tuple[Colour, ...] = ((196, 152, 100), (210, 170, 120), (180, 138, 90))
STEEL: tuple[Colour, ...] = ((178, 184, 192), (196, 200, 206), (160, 168, 178))


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` times `factor`, clipped to bytes."""
    r, g, b = (min(255, max(0, round(channel * factor))) for channel in colour)
    return r, g, b


class Pen:
    """Draws on a transparent tile of `width` x `height` pixels; all coordinates are fractions of the tile."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGBA", (max(2, width), max(2, height)))
        self.draw = ImageDraw.Draw(self.image)
        self.width, self.height = self.image.size

    def xy(self, points: tuple[float, ...]) -> list[float]:
        return [value * (self.height if i % 2 else self.width) for i, value in enumerate(points)]

    def oval(self, *box: float, fill: Colour | None = None, line: Colour | None = None, width: float = 0.03) -> None:
        self.draw.ellipse(self.xy(box), fill=fill, outline=line, width=self._pixels(width) if line else 0)

    def box(
        self,
        *box: float,
        fill: Colour | None = None,
        line: Colour | None = None,
        width: float = 0.03,
        radius: float = 0.0,
    ) -> None:
        self.draw.rounded_rectangle(
            self.xy(box), radius * self.width, fill=fill, outline=line, width=self._pixels(width) if line else 0
        )

    def poly(self, *points: float, fill: Colour) -> None:
        self.draw.polygon(self.xy(points), fill=fill)

    def line(self, *points: float, fill: Colour, width: float = 0.03) -> None:
        self.draw.line(self.xy(points), fill=fill, width=self._pixels(width), joint="curve")

    def arc(self, *box: float, start: float, end: float, fill: Colour, width: float = 0.03) -> None:
        self.draw.arc(self.xy(box), start, end, fill=fill, width=self._pixels(width))

    def text(self, x: float, y: float, text: str, size: float, fill: Colour) -> None:
        font = ImageFont.load_default(max(6.0, size * self.height))
        self.draw.text((x * self.width, y * self.height), text, fill=fill, font=font, anchor="mm")

    def _pixels(self, width: float) -> int:
        return max(1, round(width * self.width))


Painter = Callable[[Pen, random.Random], None]


def pizza(pen: Pen, rng: random.Random) -> None:
    pen.oval(0.0, 0.12, 1.0, 1.0, fill=(232, 230, 224), line=(190, 188, 180), width=0.012)
    pen.oval(0.06, 0.08, 0.94, 0.86, fill=(196, 132, 62))
    pen.oval(0.12, 0.13, 0.88, 0.79, fill=(200, 70, 40))
    pen.oval(0.14, 0.15, 0.86, 0.77, fill=(246, 204, 96))
    for x, y in ((0.3, 0.32), (0.5, 0.24), (0.69, 0.36), (0.36, 0.56), (0.57, 0.48), (0.72, 0.58), (0.53, 0.68)):
        x, y = x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)
        pen.oval(x - 0.07, y - 0.06, x + 0.07, y + 0.06, fill=(186, 48, 38), line=(150, 34, 28), width=0.012)
    for _ in range(7):
        x, y = rng.uniform(0.26, 0.74), rng.uniform(0.26, 0.66)
        pen.oval(x - 0.022, y - 0.02, x + 0.022, y + 0.02, fill=(60, 130, 60))
    cut = (176, 120, 50)
    pen.line(0.5, 0.1, 0.5, 0.84, fill=cut, width=0.01)
    pen.line(0.1, 0.46, 0.9, 0.46, fill=cut, width=0.01)
    if rng.random() < 0.4:
        pen.poly(0.5, 0.46, 0.93, 0.46, 0.9, 0.72, 0.5, 0.87, fill=(232, 230, 224))


def slice_of_pizza(pen: Pen, rng: random.Random) -> None:
    pen.oval(0.0, 0.45, 1.0, 1.0, fill=(238, 236, 230), line=(196, 194, 186), width=0.012)
    pen.poly(0.08, 0.3, 0.9, 0.16, 0.52, 0.92, fill=(246, 204, 96))
    pen.line(0.06, 0.3, 0.4, 0.2, 0.92, 0.14, fill=(190, 124, 58), width=0.1)
    for x, y in ((0.32, 0.42), (0.62, 0.34), (0.52, 0.62)):
        x += rng.uniform(-0.02, 0.02)
        pen.oval(x - 0.08, y - 0.07, x + 0.08, y + 0.07, fill=(186, 48, 38), line=(150, 34, 28), width=0.012)


def coffee(pen: Pen, rng: random.Random) -> None:
    cup = rng.choice(((244, 242, 236), *BRIGHT[:4]))
    pen.oval(0.0, 0.78, 1.0, 1.0, fill=shade((236, 234, 228), 0.94), line=(190, 186, 180), width=0.012)
    pen.arc(0.66, 0.42, 0.98, 0.76, start=-90, end=110, fill=shade(cup, 0.85), width=0.06)
    pen.poly(0.16, 0.38, 0.78, 0.38, 0.68, 0.9, 0.26, 0.9, fill=cup)
    pen.oval(0.26, 0.83, 0.68, 0.96, fill=cup)
    pen.oval(0.16, 0.29, 0.78, 0.47, fill=shade(cup, 0.9))
    pen.oval(0.2, 0.32, 0.74, 0.46, fill=(94, 56, 32))
    pen.oval(0.36, 0.35, 0.58, 0.43, fill=(214, 178, 138))
    for x in (0.36, 0.52, 0.64):
        sway = rng.uniform(0.02, 0.05)
        pen.line(x, 0.28, x + sway, 0.2, x - sway, 0.12, x + sway, 0.02, fill=(240, 240, 240), width=0.02)


def car(pen: Pen, rng: random.Random) -> None:
    paint = rng.choice(BRIGHT)
    pen.poly(0.2, 0.45, 0.33, 0.12, 0.68, 0.12, 0.83, 0.45, fill=paint)
    glass = (186, 216, 232)
    pen.poly(0.26, 0.44, 0.36, 0.18, 0.49, 0.18, 0.49, 0.44, fill=glass)
    pen.poly(0.53, 0.44, 0.53, 0.18, 0.66, 0.18, 0.76, 0.44, fill=glass)
    pen.box(0.02, 0.42, 0.98, 0.8, fill=paint, radius=0.07)
    pen.box(0.02, 0.66, 0.98, 0.8, fill=shade(paint, 0.75), radius=0.04)
    pen.oval(0.9, 0.48, 0.98, 0.62, fill=(255, 240, 170))
    pen.box(0.02, 0.5, 0.07, 0.6, fill=(230, 60, 50))
    pen.line(0.51, 0.44, 0.51, 0.74, fill=shade(paint, 0.6), width=0.01)
    pen.box(0.42, 0.52, 0.48, 0.55, fill=(230, 230, 230))
    for x in (0.24, 0.76):
        pen.oval(x - 0.12, 0.58, x + 0.12, 1.0, fill=(34, 34, 38))
        pen.oval(x - 0.06, 0.68, x + 0.06, 0.9, fill=(190, 194, 200))


def shopping_bags(pen: Pen, rng: random.Random) -> None:
    back, front = rng.sample(BRIGHT, 2)
    for x0, x1, y0, paint in ((0.36, 0.98, 0.22, back), (0.02, 0.58, 0.36, front)):
        middle = (x0 + x1) / 2
        pen.arc(
            middle - 0.14, y0 - 0.2, middle + 0.14, y0 + 0.2, start=180, end=360, fill=shade(paint, 0.6), width=0.03
        )
        pen.poly(x0, y0, x1, y0, x1 - 0.03, 1.0, x0 + 0.03, 1.0, fill=paint)
        pen.poly(x1 - 0.13, y0, x1, y0, x1 - 0.03, 1.0, x1 - 0.1, 1.0, fill=shade(paint, 0.78))
        pen.box(x0 + 0.14, y0 + 0.26, x1 - 0.2, y0 + 0.42, fill=(250, 248, 240), radius=0.02)


def balloons(pen: Pen, rng: random.Random) -> None:
    spots = ((0.22, 0.3), (0.78, 0.28), (0.5, 0.2), (0.36, 0.5), (0.66, 0.5))
    colours = rng.sample(BRIGHT, 5)
    for (x, y), _ in zip(spots, colours, strict=True):
        pen.line(x, y + 0.16, 0.5, 0.98, fill=(120, 120, 120), width=0.012)
    for (x, y), paint in zip(spots, colours, strict=True):
        x += rng.uniform(-0.03, 0.03)
        pen.oval(x - 0.17, y - 0.19, x + 0.17, y + 0.18, fill=paint)
        pen.poly(x - 0.03, y + 0.22, x + 0.03, y + 0.22, x, y + 0.16, fill=shade(paint, 0.8))
        pen.oval(x - 0.1, y - 0.13, x - 0.03, y - 0.03, fill=shade(paint, 1.5))


def bicycle(pen: Pen, rng: random.Random) -> None:
    frame, tyre = rng.choice(BRIGHT), (40, 40, 44)
    for x in (0.22, 0.78):
        pen.oval(x - 0.21, 0.4, x + 0.21, 1.0, line=tyre, width=0.035)
        pen.line(x, 0.42, x, 0.98, fill=(150, 150, 156), width=0.008)
        pen.line(x - 0.2, 0.7, x + 0.2, 0.7, fill=(150, 150, 156), width=0.008)
    pen.line(0.22, 0.7, 0.36, 0.3, 0.68, 0.3, 0.48, 0.72, 0.22, 0.7, fill=frame, width=0.04)
    pen.line(0.48, 0.72, 0.34, 0.22, fill=frame, width=0.04)
    pen.line(0.78, 0.7, 0.66, 0.16, 0.78, 0.12, fill=frame, width=0.04)
    pen.line(0.26, 0.2, 0.42, 0.2, fill=tyre, width=0.06)
    pen.oval(0.43, 0.65, 0.53, 0.79, fill=tyre)


def ball(pen: Pen, rng: random.Random) -> None:
    if rng.random() < 0.5:
        pen.oval(0.05, 0.05, 0.95, 1.0, fill=(226, 122, 48))
        for points in ((0.05, 0.52, 0.95, 0.52), (0.5, 0.05, 0.5, 1.0)):
            pen.line(*points, fill=(60, 36, 20), width=0.03)
        pen.arc(-0.5, 0.05, 0.3, 1.0, start=-62, end=62, fill=(60, 36, 20), width=0.03)
        pen.arc(0.7, 0.05, 1.5, 1.0, start=118, end=242, fill=(60, 36, 20), width=0.03)
        return
    pen.oval(0.05, 0.05, 0.95, 1.0, fill=(246, 246, 246), line=(90, 90, 90), width=0.02)
    pen.poly(0.5, 0.34, 0.66, 0.46, 0.6, 0.66, 0.4, 0.66, 0.34, 0.46, fill=(34, 34, 38))
    for x, y in ((0.5, 0.1), (0.14, 0.42), (0.86, 0.42), (0.28, 0.86), (0.72, 0.86)):
        pen.oval(x - 0.09, y - 0.06, x + 0.09, y + 0.07, fill=(34, 34, 38))


def scissors(pen: Pen, rng: random.Random) -> None:
    handle, blade = rng.choice(BRIGHT), rng.choice(STEEL)
    pen.poly(0.44, 0.6, 0.54, 0.56, 0.8, 0.02, fill=blade)
    pen.poly(0.46, 0.56, 0.56, 0.6, 0.2, 0.02, fill=shade(blade, 0.85))
    pen.line(0.5, 0.58, 0.3, 0.76, fill=handle, width=0.07)
    pen.line(0.5, 0.58, 0.7, 0.76, fill=handle, width=0.07)
    pen.oval(0.08, 0.68, 0.42, 1.0, line=handle, width=0.08)
    pen.oval(0.58, 0.68, 0.92, 1.0, line=handle, width=0.08)
    pen.oval(0.46, 0.53, 0.54, 0.6, fill=(60, 60, 64))


def mirror(pen: Pen, rng: random.Random) -> None:
    rim = rng.choice(((206, 160, 70), (230, 130, 160), (150, 100, 70)))
    pen.oval(0.12, 0.0, 0.88, 0.78, fill=rim)
    pen.oval(0.19, 0.05, 0.81, 0.73, fill=(206, 226, 236))
    pen.line(0.32, 0.5, 0.56, 0.18, fill=(240, 248, 252), width=0.05)
    pen.line(0.44, 0.56, 0.66, 0.28, fill=(240, 248, 252), width=0.03)
    pen.box(0.45, 0.76, 0.55, 0.94, fill=shade(rim, 0.85))
    pen.oval(0.22, 0.88, 0.78, 1.0, fill=shade(rim, 0.8))


def mailbox(pen: Pen, rng: random.Random) -> None:
    paint = rng.choice((BRIGHT[0], BRIGHT[1], BRIGHT[3]))
    pen.box(0.42, 0.6, 0.58, 1.0, fill=(120, 86, 56))
    pen.box(0.06, 0.16, 0.94, 0.64, fill=paint, radius=0.2)
    pen.box(0.06, 0.4, 0.94, 0.66, fill=paint)
    pen.oval(0.06, 0.16, 0.46, 0.66, fill=shade(paint, 0.75))
    pen.box(0.06, 0.4, 0.46, 0.66, fill=shade(paint, 0.75))
    pen.poly(0.12, 0.34, 0.4, 0.34, 0.4, 0.54, 0.12, 0.54, fill=(250, 248, 240))
    pen.line(0.12, 0.34, 0.26, 0.46, 0.4, 0.34, fill=(160, 160, 160), width=0.015)
    pen.box(0.74, 0.0, 0.8, 0.36, fill=(230, 230, 230))
    pen.box(0.66, 0.0, 0.8, 0.12, fill=(240, 200, 60))


def keys(pen: Pen, rng: random.Random) -> None:
    metal = rng.choice(((214, 172, 70), (186, 190, 198)))
    pen.oval(0.3, 0.0, 0.7, 0.3, line=(120, 120, 126), width=0.04)
    for dx, tint in ((-0.2, 0.85), (0.18, 1.0)):
        paint = shade(metal, tint)
        pen.oval(0.34 + dx, 0.2, 0.66 + dx, 0.5, line=paint, width=0.1)
        pen.box(0.46 + dx, 0.48, 0.55 + dx, 1.0, fill=paint)
        pen.box(0.55 + dx, 0.74, 0.66 + dx, 0.8, fill=paint)
        pen.box(0.55 + dx, 0.88, 0.69 + dx, 0.95, fill=paint)


def first_aid(pen: Pen, rng: random.Random) -> None:
    pen.arc(0.34, 0.02, 0.66, 0.4, start=180, end=360, fill=(90, 90, 96), width=0.05)
    pen.box(0.02, 0.2, 0.98, 1.0, fill=(248, 248, 248), line=(170, 170, 176), width=0.02, radius=0.08)
    red = (214, 40, 44)
    pen.box(0.42, 0.34, 0.58, 0.88, fill=red)
    pen.box(0.24, 0.52, 0.76, 0.7, fill=red)


def pills(pen: Pen, rng: random.Random) -> None:
    amber = rng.choice(((226, 130, 44), (232, 148, 60)))
    pen.box(0.16, 0.22, 0.66, 1.0, fill=amber, radius=0.06)
    pen.box(0.12, 0.04, 0.7, 0.24, fill=(246, 246, 246), line=(180, 180, 186), width=0.02, radius=0.04)
    pen.box(0.16, 0.42, 0.66, 0.8, fill=(250, 250, 250))
    pen.box(0.36, 0.48, 0.46, 0.74, fill=(214, 40, 44))
    pen.box(0.28, 0.56, 0.54, 0.66, fill=(214, 40, 44))
    for y, paint in ((0.84, (214, 60, 60)), (0.66, (60, 120, 200))):
        pen.box(0.72, y, 0.86, y + 0.12, fill=paint, radius=0.05)
        pen.box(0.82, y, 0.98, y + 0.12, fill=(250, 250, 250), radius=0.05)


def hammer(pen: Pen, rng: random.Random) -> None:
    wood = rng.choice(((176, 112, 56), (206, 60, 50)))
    pen.line(0.3, 0.98, 0.62, 0.24, fill=wood, width=0.11)
    pen.poly(0.3, 0.14, 0.8, 0.3, 0.75, 0.48, 0.24, 0.3, fill=(112, 118, 128))
    pen.poly(0.78, 0.3, 1.0, 0.52, 0.72, 0.46, fill=(92, 98, 108))
    pen.poly(0.32, 0.06, 0.2, 0.38, 0.1, 0.34, 0.2, 0.02, fill=(132, 138, 148))


def house(pen: Pen, rng: random.Random) -> None:
    wall, roof = (
        rng.choice(((244, 230, 200), (214, 226, 236), (240, 214, 190))),
        rng.choice((BRIGHT[0], (120, 76, 56), BRIGHT[1])),
    )
    pen.box(0.7, 0.06, 0.82, 0.4, fill=(150, 84, 66))
    pen.box(0.12, 0.4, 0.88, 1.0, fill=wall, line=shade(wall, 0.75), width=0.015)
    pen.poly(0.0, 0.46, 0.5, 0.02, 1.0, 0.46, fill=roof)
    pen.box(0.44, 0.64, 0.62, 1.0, fill=(120, 76, 50))
    pen.box(0.2, 0.54, 0.38, 0.74, fill=(150, 200, 230), line=(250, 250, 250), width=0.025)
    pen.box(0.68, 0.54, 0.82, 0.74, fill=(150, 200, 230), line=(250, 250, 250), width=0.025)


# category -> (painter, width/height, height in units of the shorter side, stands on the floor behind the table)
CATEGORY_OBJECTS: dict[str, tuple[tuple[Painter, float, float, bool], ...]] = {
    "Automotive": ((car, 2.1, 0.36, True),),
    "Shopping": ((shopping_bags, 1.0, 0.36, False),),
    "Event Planning & Services": ((balloons, 0.85, 0.52, True),),
    "Pizza": ((pizza, 1.7, 0.28, False), (slice_of_pizza, 1.2, 0.27, False)),
    "Coffee & Tea": ((coffee, 1.05, 0.34, False),),
    "Active Life": ((bicycle, 1.6, 0.38, True), (ball, 1.0, 0.27, False)),
    "Beauty & Spas": ((scissors, 0.75, 0.34, False), (mirror, 0.75, 0.40, False)),
    "Local Services": ((mailbox, 0.95, 0.36, False), (keys, 0.75, 0.32, False)),
    "Health & Medical": ((first_aid, 1.2, 0.29, False), (pills, 0.9, 0.32, False)),
    "Home Services": ((hammer, 0.95, 0.33, False), (house, 1.05, 0.35, False)),
}
