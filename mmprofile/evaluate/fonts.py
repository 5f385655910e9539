"""Fonts of figures: a character that a text's font lacks is drawn in an installed font that has it."""

import sys
import unicodedata
from collections.abc import Iterable
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text

CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH")
"""Scripts, by the first word of their characters' names, that one family of fonts has."""


def fit_fonts(figure: Figure) -> None:
    """Give the texts of a figure the fonts that they need, behind their own; print a line where none is installed."""
    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # a tick has no text before it is asked for
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        own = fontManager.findfont(text.get_fontproperties())
        missing = {character for character in text.get_text() if not character.isspace()} - _characters(own)
        if missing:
            text.set_fontfamily([*text.get_fontfamily(), *_families(frozenset(missing))])


@cache
def _families(characters: frozenset[str]) -> list[str]:
    """Return installed families that have characters; of those that none has, say what to install."""
    families, left = [], set(characters)
    for family, path in _installed():
        if left & _characters(path):
            families.append(family)
            left -= _characters(path)
        if not left:
            break
    for font in sorted({font for character in left if (font := font_to_install(character))}):
        _ask_for(font)
    return families


def _installed() -> Iterable[tuple[str, str]]:
    """Return the regular fonts, family and path: Matplotlib's own first, then Noto's, then all others."""
    paths = {
        font.name: font.fname
        for font in fontManager.ttflist
        if font.style == "normal" and str(font.weight) in ("400", "normal", "regular") and font.name[:4] != "Last"
    }
    return sorted(paths.items(), key=lambda font: (font[0] != "DejaVu Sans", not font[0].startswith("Noto Sans"), font))


@cache
def _characters(path: str) -> frozenset[str]:
    """Return the characters of a font; none of one that cannot be scaled, as fonts of coloured emoji cannot."""
    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()


def font_to_install(character: str) -> str | None:
    """Return the name of a free font that has a character; None of one that is not drawn, as the joiners of emoji."""
    if unicodedata.category(character) in ("Cc", "Cf", "Mn", "Cn", "Co"):
        return None
    script = unicodedata.name(character, "").split(" ")[0]
    if script in CJK:
        return "Noto Sans CJK"
    return f"Noto Sans {script.title()}" if unicodedata.category(character)[0] in "LN" else "Noto Emoji"


@cache
def _ask_for(font: str) -> None:
    """Print a line, once for each font."""
    print(f"figures: boxes stand for characters that no installed font has: install {font}", file=sys.stderr)
