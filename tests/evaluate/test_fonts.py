"""Figures in any script: each character in a font that has it, and one line where there is none."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

from mmprofile.evaluate import fonts
from mmprofile.evaluate.plots import save_figure

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def _shipped_fonts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with Matplotlib's own fonts, whatever this one has."""
    own = [font for font in fontManager.ttflist if font.name.startswith(("DejaVu", "STIX", "cm", "Last Resort"))]
    monkeypatch.setattr(fontManager, "ttflist", own)
    for cached in (fonts._families, fonts._ask_for):
        cached.cache_clear()


def install(path: Path, characters: str) -> None:
    """Make a font whose characters are full squares of an em, and add it to those of the machine."""
    names = [".notdef", *(f"uni{ord(character):04X}" for character in characters)]
    pen = TTGlyphPen(None)
    for place, point in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if place else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): f"uni{ord(character):04X}" for character in characters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    fontManager.addfont(path)


def drawn(path: Path, *texts: str, family: str = "sans-serif") -> np.ndarray:
    figure = Figure(figsize=(4, 2))
    axes = figure.add_subplot()
    axes.set_xticks(range(len(texts)), texts, family=family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=int)


def test_a_character_is_drawn_in_a_font_that_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = drawn(tmp_path / "boxes.png", "北京")
    for cached in (fonts._families, fonts._ask_for):
        cached.cache_clear()
    capsys.readouterr()
    install(tmp_path / "Squares Han.ttf", "北京")
    squares = drawn(tmp_path / "squares.png", "北京")
    assert (squares == 0).sum() > (boxes == 0).sum() + 100  # they are black all over
    assert capsys.readouterr().err == ""


def test_arabic_and_emoji_need_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn(tmp_path / "arabic.png", "القاهرة", "good 😀")
    drawn(tmp_path / "mono.png", "القاهرة", "good 😀", family="monospace")
    assert capsys.readouterr().err == ""


def test_what_to_install_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        drawn(tmp_path / f"{name}.png", "北京", "すし", "สวัสดี")
    assert capsys.readouterr().err == "".join(
        f"figures: boxes stand for characters that no installed font has: install {font}\n"
        for font in ("Noto Sans CJK", "Noto Sans Thai")
    )


@pytest.mark.parametrize(
    ("character", "font"),
    [
        ("北", "Noto Sans CJK"),
        ("한", "Noto Sans CJK"),
        ("ね", "Noto Sans CJK"),
        ("अ", "Noto Sans Devanagari"),
        ("ع", "Noto Sans Arabic"),
        ("🥐", "Noto Emoji"),
        ("\u200d", None),
    ],
)
def test_fonts_by_script(character: str, font: str | None) -> None:
    assert fonts.font_to_install(character) == font


def test_figures_of_plain_words_stay_as_they_are(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    text = figure.add_subplot().set_title("Køln 5 $ ☕")
    before = text.get_fontfamily()
    save_figure(figure, tmp_path / "plain.png")
    assert text.get_fontfamily() == before
