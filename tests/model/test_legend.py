"""The legend of dimension letters has every letter that states a shape, and no other."""

import re
from pathlib import Path

import pytest

import mmprofile.model

pytestmark = pytest.mark.fast

ROOT = Path(mmprofile.model.__file__).parents[1]
ROOMS = ("profile", "inputs", "model")
SHAPE = re.compile(r"\(((?:[A-Z]'?|\d|[a-z]\w*)(?:, (?:[A-Z]'?|\d|[a-z]\w*)(?: [/*+] \w+)*)+|[A-Z]'?,)\)")
LETTER = re.compile(r"\b[A-Z](?:'(?!\w))?(?!\w)")


def legend() -> set[str]:
    lines = (mmprofile.model.__doc__ or "").splitlines()
    first, last = (i for i, line in enumerate(lines) if line.startswith("====="))
    return {name for line in lines[first + 1 : last] for name in line[:6].strip().split(", ")}


def letters(text: str) -> set[str]:
    """The letters of all shapes in a module."""
    return {letter for shape in SHAPE.findall(text) for letter in LETTER.findall(shape)}


@pytest.mark.parametrize("room", ROOMS)
def test_every_letter_of_a_shape_is_in_the_legend(room: str) -> None:
    for path in sorted((ROOT / room).glob("*.py")):
        unknown = letters(path.read_text(encoding="utf-8")) - legend()
        assert not unknown, f"{path.name}: {unknown}"


def test_every_letter_of_the_legend_is_used() -> None:
    used = {letter for room in ROOMS for path in (ROOT / room).glob("*.py") for letter in letters(path.read_text())}
    assert {name for name in legend() if name[0].isupper()} == used


def test_letters_are_found() -> None:
    assert letters("of states (R, N', d), ids (R,) and heads (U, H, n, d / H); (AoM), (3, E)") == {
        "R", "N'", "U", "H", "E",
    }  # fmt: skip
