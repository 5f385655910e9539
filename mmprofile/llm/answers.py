"""Answers of a teacher or student about a person: per attribute a rationale, a value and a confidence, as JSON."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mmprofile.profile.schema import UNKNOWN, Schema


class Claim(NamedTuple):
    """What an answer claims of one attribute.

    Attributes:
        value: one of the schema's, or ``Unknown``.
        confidence: 0 to 1.
        rationale: why.
    """

    value: str
    confidence: float
    rationale: str = ""


class ParsedAnswer(NamedTuple):
    """The claims of an answer, and a line for everything that was not understood: such an attribute votes for nothing."""

    claims: dict[str, Claim]
    faults: list[str]


def parse_answer(text: str, schema: Schema) -> ParsedAnswer:
    """Parse an answer; never raise and never guess.

    Args:
        text: JSON, possibly amid prose: ``{attribute: {"rationale": ..., "value": ..., "confidence": 0 to 100}}``. Where
            it has several objects, the last that names an attribute counts: thoughts come first. A value of null is Unknown.
        schema: whose names and values are matched; case does not count, nor whether words are parted by blanks, ``_`` or ``-``.
    """
    names = Spellings(schema.names)
    answer = _object(text, names)
    if answer is None:
        return ParsedAnswer({}, ["no JSON object with an attribute of the schema"])
    claims, faults = dict[str, Claim](), list[str]()
    rows = {names.find(name) or name.strip().lower(): row for name, row in answer.items()}
    for attribute in schema.attributes:
        claim = _claim(rows.pop(attribute.name, None), Spellings((*attribute.values, UNKNOWN)))
        if isinstance(claim, Claim):
            claims[attribute.name] = claim
        else:
            faults.append(f"{attribute.name}: {claim}")
    return ParsedAnswer(claims, faults + [f"{name!r} is no attribute of the schema" for name in rows])


def render_answer(claims: Mapping[str, Claim], schema: Schema) -> str:
    """Return claims as JSON, in the schema's order, confidence in percent; :func:`parse_answer` reads it back."""
    rows = {
        name: {
            "rationale": claims[name].rationale,
            "value": claims[name].value,
            "confidence": round(100 * claims[name].confidence),
        }
        for name in schema.names
        if name in claims
    }
    return json.dumps(rows, ensure_ascii=False)


class Spellings:
    """Finds names whatever their case, and whether blanks, ``_`` or ``-`` part their words.

    Names that differ in nothing else are found only as they are written.
    """

    def __init__(self, names: Iterable[str]) -> None:
        known = [*names]
        self._exact = {name.lower(): name for name in known}
        count = Counter(map(_plain, known))
        self._plain = {_plain(name): name for name in known if count[_plain(name)] == 1}

    def find(self, text: str) -> str | None:
        """Return the name that a text spells; None: none of them."""
        return self._exact.get(text.strip().lower()) or self._plain.get(_plain(text))


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))


def _object(text: str, names: Spellings) -> dict[str, Any] | None:
    """Return the last JSON object in a text that has one of the names as a key."""
    decoder, last = json.JSONDecoder(), None
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, start + 1
        if isinstance(value, dict) and any(map(names.find, value)):
            last = value
        else:
            end = start + 1
        start = text.find("{", end)
    return last


def _claim(row: Any, values: Spellings) -> Claim | str:
    """Return the claim, or what is wrong with it."""
    if not isinstance(row, dict):
        return "missing" if row is None else f"{str(row)[:40]!r} is no object"
    value = row.get("value", "")
    known = values.find(str(UNKNOWN if value is None else value))
    if known is None:
        return f"value {str(value)[:40]!r} is none of its values"
    confidence = _confidence(row.get("confidence"))
    if confidence is None:
        return f"confidence {str(row.get('confidence'))[:40]!r} is no number from 0 to 100"
    rationale = row.get("rationale")
    return Claim(known, confidence, _words(rationale) if isinstance(rationale, str) else "")


def _confidence(given: Any) -> float | None:
    """Return a confidence from 0 to 1; None: it is none.

    Asked for percent, some models write ``0.9``, ``"90"`` or ``"85%"``. A number with a point that is at most 1 is a share.
    """
    percent = False
    if isinstance(given, str) and (read := re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?)\s*(%?)", given.strip())):
        percent, given = bool(read[2]), float(read[1]) if "." in read[1] else int(read[1])
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 100:
        return None
    return given if isinstance(given, float) and given <= 1 and not percent else given / 100


def _words(text: str) -> str:
    """Return a text with single blanks; half of a surrogate pair, which no file can hold, is a question mark."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
