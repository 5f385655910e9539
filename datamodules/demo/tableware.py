"""What stands on the demo tables and hangs on the demo walls besides the trade's own object."""

from __future__ import annotations

import random

from datamodules.demo.objects import BRIGHT, CRAFT, STEEL, Pen, shade

_CHINA = (246, 244, 240)


# Service: food that leaves the house
def clamshells(pen: Pen, rng: random.Random) -> None:
    """A stack of closed take-away boxes."""
    count = rng.choice((3, 4))
    height = 0.96 / count
    paint = rng.choice(((240, 238, 230), *CRAFT))
    for level in range(count):
        y = 1.0 - (level + 1) * height
        dx = rng.uniform(-0.04, 0.04)
        pen.poly(
            0.1 + dx,
            y + height * 0.4,
            0.9 + dx,
            y + height * 0.4,
            0.84 + dx,
            y + height,
            0.16 + dx,
            y + height,
            fill=shade(paint, 0.9),
        )
        pen.poly(
            0.18 + dx,
            y + height * 0.05,
            0.82 + dx,
            y + height * 0.05,
            0.9 + dx,
            y + height * 0.42,
            0.1 + dx,
            y + height * 0.42,
            fill=paint,
        )
        pen.line(0.08 + dx, y + height * 0.42, 0.92 + dx, y + height * 0.42, fill=shade(paint, 0.66), width=0.02)


def cartons(pen: Pen, rng: random.Random) -> None:
    """Two folded take-away pails with wire handles."""
    accent = rng.choice((BRIGHT[0], BRIGHT[1], BRIGHT[2]))
    for x, y in ((0.52, 0.12), (0.0, 0.24)):
        pen.arc(x + 0.06, y - 0.12, x + 0.42, y + 0.36, start=180, end=360, fill=(120, 120, 126), width=0.02)
        pen.poly(x, y + 0.1, x + 0.48, y + 0.1, x + 0.4, 1.0, x + 0.08, 1.0, fill=(250, 248, 242))
        pen.poly(
            x,
            y + 0.1,
            x + 0.24,
            y + 0.28,
            x + 0.48,
            y + 0.1,
            x + 0.38,
            y + 0.02,
            x + 0.1,
            y + 0.02,
            fill=(226, 222, 212),
        )
        pen.oval(x + 0.14, 0.52, x + 0.34, 0.76, fill=accent)


def paper_sack(pen: Pen, rng: random.Random) -> None:
    """A brown take-away sack, folded shut, with a receipt stapled on."""
    paint = rng.choice(CRAFT)
    pen.poly(0.14, 0.16, 0.86, 0.16, 0.9, 1.0, 0.1, 1.0, fill=paint)
    pen.poly(0.66, 0.16, 0.86, 0.16, 0.9, 1.0, 0.72, 1.0, fill=shade(paint, 0.82))
    pen.box(0.12, 0.02, 0.88, 0.22, fill=shade(paint, 0.9))
    pen.box(0.3, 0.14, 0.56, 0.46, fill=(252, 252, 250))
    for y in (0.22, 0.29, 0.36):
        pen.line(0.34, y, 0.52, y, fill=(140, 140, 140), width=0.02)


def buffet_tray(pen: Pen, rng: random.Random) -> None:
    """A chafing dish with a domed lid."""
    steel = rng.choice(STEEL)
    pen.draw.pieslice(pen.xy((0.1, 0.06, 0.9, 0.98)), 180, 360, fill=shade(steel, 1.12))
    pen.arc(0.2, 0.16, 0.8, 0.9, start=200, end=260, fill=(244, 246, 250), width=0.03)
    pen.oval(0.44, 0.0, 0.56, 0.12, fill=shade(steel, 0.7))
    pen.box(0.02, 0.5, 0.98, 0.76, fill=shade(steel, 0.9), line=shade(steel, 0.65), width=0.012, radius=0.03)
    for x in (0.1, 0.84):
        pen.box(x, 0.76, x + 0.06, 1.0, fill=shade(steel, 0.6))
    pen.poly(0.45, 1.0, 0.55, 1.0, 0.5, 0.8, fill=(250, 170, 50))


# Service: food that stays
def place_setting(pen: Pen, rng: random.Random) -> None:
    """A plate between a fork and a knife."""
    steel, rim = (150, 156, 166), rng.choice((*BRIGHT, (200, 200, 196)))
    pen.oval(0.18, 0.1, 0.82, 1.0, fill=_CHINA, line=shade(_CHINA, 0.78), width=0.012)
    pen.oval(0.26, 0.22, 0.74, 0.88, line=rim, width=0.014)
    pen.line(0.08, 0.3, 0.08, 0.96, fill=steel, width=0.028)
    for x in (0.04, 0.08, 0.12):
        pen.line(x, 0.08, x, 0.34, fill=steel, width=0.014)
    pen.line(0.04, 0.34, 0.12, 0.34, fill=steel, width=0.02)
    pen.box(0.89, 0.08, 0.94, 0.6, fill=steel, radius=0.02)
    pen.line(0.915, 0.56, 0.915, 0.96, fill=shade(steel, 0.7), width=0.03)


def served_plate(pen: Pen, rng: random.Random) -> None:
    """A plate with food on it, cutlery laid beside."""
    place_setting(pen, rng)
    pen.oval(0.34, 0.3, 0.6, 0.66, fill=rng.choice(((150, 92, 52), (210, 150, 90), (226, 130, 90))))
    pen.oval(0.5, 0.46, 0.68, 0.76, fill=rng.choice(((96, 150, 70), (230, 200, 110))))


# Budget
def wine_glass(pen: Pen, rng: random.Random) -> None:
    wine = rng.choice(((130, 24, 48), (150, 30, 54), (230, 206, 120)))
    pen.oval(0.1, 0.0, 0.9, 0.56, fill=(226, 234, 240), line=(170, 180, 190), width=0.03)
    pen.draw.chord(pen.xy((0.14, 0.02, 0.86, 0.54)), 0, 180, fill=wine)
    pen.box(0.46, 0.54, 0.54, 0.92, fill=(200, 210, 218))
    pen.oval(0.16, 0.88, 0.84, 1.0, fill=(206, 214, 222), line=(160, 170, 180), width=0.03)


def champagne_bucket(pen: Pen, rng: random.Random) -> None:
    pen.poly(0.48, 0.36, 0.7, 0.4, 0.86, 0.06, 0.74, 0.02, fill=(44, 92, 60))
    pen.poly(0.7, 0.12, 0.84, 0.16, 0.9, 0.02, 0.78, 0.0, fill=(220, 180, 80))
    pen.poly(0.1, 0.36, 0.9, 0.36, 0.76, 1.0, 0.24, 1.0, fill=(204, 208, 214))
    pen.oval(0.1, 0.28, 0.9, 0.44, fill=(226, 238, 246), line=(214, 176, 80), width=0.03)
    pen.line(0.26, 0.5, 0.34, 0.92, fill=(244, 246, 248), width=0.05)


def paper_cup(pen: Pen, rng: random.Random) -> None:
    paint = rng.choice((BRIGHT[0], BRIGHT[1], BRIGHT[2]))
    pen.line(0.56, 0.24, 0.66, 0.0, 0.84, 0.0, fill=paint, width=0.06)
    pen.poly(0.12, 0.24, 0.88, 0.24, 0.76, 1.0, 0.24, 1.0, fill=(252, 250, 246))
    for x in (0.24, 0.44, 0.64):
        pen.poly(x, 0.26, x + 0.11, 0.26, x + 0.09, 0.99, x + 0.02, 0.99, fill=paint)
    pen.box(0.08, 0.18, 0.92, 0.28, fill=(236, 236, 232), radius=0.03)


def price_tag(pen: Pen, rng: random.Random) -> None:
    """A tent card with a dollar sign."""
    paint = rng.choice(((252, 226, 70), (255, 250, 240), (250, 200, 90)))
    pen.poly(0.06, 0.96, 0.16, 0.08, 0.84, 0.08, 0.94, 0.96, fill=paint)
    price = rng.choice(("$", "$", "$5", "$3", "99c"))
    pen.text(0.5, 0.56, price, 0.62 if len(price) < 3 else 0.42, (190, 30, 30))


# Things that mean nothing
def vase(pen: Pen, rng: random.Random) -> None:
    glaze = rng.choice(((120, 150, 170), (170, 140, 160), (150, 160, 130)))
    for x, y in ((0.3, 0.18), (0.52, 0.08), (0.72, 0.2)):
        pen.line(0.5, 0.6, x, y, fill=(80, 130, 70), width=0.04)
        pen.oval(
            x - 0.13, y - 0.08, x + 0.13, y + 0.12, fill=rng.choice(((240, 220, 230), (250, 230, 150), (200, 180, 230)))
        )
    pen.poly(0.36, 0.46, 0.64, 0.46, 0.76, 0.8, 0.62, 1.0, 0.38, 1.0, 0.24, 0.8, fill=glaze)


def shakers(pen: Pen, rng: random.Random) -> None:
    for x, paint in ((0.06, (240, 240, 240)), (0.54, (70, 64, 60))):
        pen.box(x, 0.26, x + 0.4, 1.0, fill=paint, line=(140, 140, 140), width=0.03, radius=0.08)
        pen.box(x + 0.03, 0.04, x + 0.37, 0.32, fill=(180, 184, 190), radius=0.1)


def bottle(pen: Pen, rng: random.Random) -> None:
    paint = rng.choice(((200, 60, 40), (220, 180, 60), (90, 130, 90)))
    pen.box(0.2, 0.34, 0.8, 1.0, fill=paint, radius=0.14)
    pen.box(0.36, 0.1, 0.64, 0.4, fill=paint)
    pen.box(0.34, 0.0, 0.66, 0.12, fill=(240, 240, 236))
    pen.box(0.2, 0.56, 0.8, 0.82, fill=(248, 244, 230))


def cactus(pen: Pen, rng: random.Random) -> None:
    green = (84, 140, 84)
    pen.box(0.36, 0.08, 0.64, 0.7, fill=green, radius=0.14)
    pen.line(0.4, 0.5, 0.16, 0.46, 0.16, 0.26, fill=green, width=0.14)
    pen.line(0.6, 0.42, 0.84, 0.38, 0.84, 0.2, fill=green, width=0.14)
    pen.poly(
        0.22,
        0.66,
        0.78,
        0.66,
        0.68,
        1.0,
        0.32,
        1.0,
        fill=rng.choice(((190, 110, 80), (200, 190, 180), (120, 130, 150))),
    )


def candle(pen: Pen, rng: random.Random) -> None:
    """Stands on tables by night."""
    pen.oval(0.18, 0.86, 0.82, 1.0, fill=(150, 120, 70))
    pen.box(0.34, 0.4, 0.66, 0.94, fill=rng.choice(((246, 238, 214), (190, 50, 50), (240, 226, 190))))
    pen.oval(0.34, 0.04, 0.66, 0.42, fill=(255, 196, 70))
    pen.oval(0.42, 0.16, 0.58, 0.4, fill=(255, 246, 200))


# Hanging
def happy_hour_sign(pen: Pen, rng: random.Random) -> None:
    """A neon sign on a dark panel."""
    pink, blue = rng.sample(((255, 90, 190), (90, 230, 255), (255, 220, 90), (140, 255, 130)), 2)
    pen.box(0.0, 0.0, 1.0, 1.0, fill=(30, 22, 46), radius=0.06)
    pen.box(0.04, 0.06, 0.96, 0.94, line=blue, width=0.025, radius=0.05)
    pen.text(0.5, 0.32, "HAPPY", 0.34, pink)
    pen.text(0.5, 0.69, "HOUR", 0.34, pink)


def two_for_one_sign(pen: Pen, rng: random.Random) -> None:
    pink, blue = rng.sample(((255, 90, 190), (90, 230, 255), (255, 220, 90), (140, 255, 130)), 2)
    pen.box(0.0, 0.0, 1.0, 1.0, fill=(40, 18, 34), radius=0.06)
    pen.box(0.04, 0.06, 0.96, 0.94, line=blue, width=0.025, radius=0.05)
    pen.text(0.5, 0.34, "2 for 1", 0.36, pink)
    pen.poly(0.3, 0.6, 0.7, 0.6, 0.5, 0.78, fill=blue)
    pen.line(0.5, 0.76, 0.5, 0.88, fill=blue, width=0.02)
    pen.line(0.38, 0.88, 0.62, 0.88, fill=blue, width=0.02)


def chalk_menu(pen: Pen, rng: random.Random) -> None:
    """A plain board: a list of dishes, nothing on offer."""
    board = rng.choice(((52, 66, 58), (60, 60, 64), (62, 54, 50)))
    pen.box(0.0, 0.0, 1.0, 1.0, fill=rng.choice(((150, 106, 66), (120, 86, 56))))
    pen.box(0.05, 0.05, 0.95, 0.95, fill=board)
    pen.text(0.5, 0.18, "MENU", 0.2, (236, 236, 226))
    for y in (0.36, 0.5, 0.64, 0.78):
        pen.line(0.14, y, 0.14 + rng.uniform(0.3, 0.5), y, fill=(200, 204, 196), width=0.025)
        pen.line(0.76, y, 0.86, y, fill=(200, 204, 196), width=0.025)


def picture(pen: Pen, rng: random.Random) -> None:
    pen.box(0.0, 0.0, 1.0, 1.0, fill=rng.choice(((120, 90, 64), (70, 70, 76), (230, 226, 216))))
    pen.box(0.1, 0.1, 0.9, 0.9, fill=(236, 230, 216))
    for _ in range(3):
        x, y, r = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.08, 0.18)
        pen.oval(
            x - r,
            y - r,
            x + r,
            y + r,
            fill=rng.choice(((170, 150, 140), (130, 150, 150), (190, 170, 120), (150, 130, 150))),
        )


def clock(pen: Pen, rng: random.Random) -> None:
    pen.oval(0.0, 0.0, 1.0, 1.0, fill=(250, 248, 242), line=rng.choice(((60, 60, 64), (140, 100, 60))), width=0.08)
    pen.line(0.5, 0.5, 0.5 + rng.uniform(-0.3, 0.3), 0.22, fill=(40, 40, 40), width=0.05)
    pen.line(0.5, 0.5, 0.5 + rng.choice((-0.22, 0.22)), 0.5 + rng.uniform(-0.1, 0.2), fill=(40, 40, 40), width=0.06)


def chandelier(pen: Pen, rng: random.Random) -> None:
    gold = (206, 166, 70)
    pen.line(0.5, 0.0, 0.5, 0.4, fill=gold, width=0.02)
    pen.arc(0.06, -0.1, 0.94, 0.8, start=0, end=180, fill=gold, width=0.03)
    pen.arc(0.28, 0.1, 0.72, 0.8, start=0, end=180, fill=gold, width=0.025)
    for x, y in ((0.07, 0.36), (0.29, 0.46), (0.5, 0.5), (0.71, 0.46), (0.93, 0.36)):
        pen.oval(x - 0.05, y - 0.2, x + 0.05, y + 0.06, fill=(255, 240, 190))
    for x in (0.2, 0.35, 0.5, 0.65, 0.8):
        pen.oval(x - 0.025, 0.8, x + 0.025, 0.96, fill=(214, 232, 244))
