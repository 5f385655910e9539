"""Answers of a teacher or student about a person: per attribute a rationale, a value and a confidence, as JSON."""

import json
from collections.abc import Mapping
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
        schema: whose names and values are matched, case ignored.
    """
    answer = _object(text, {name.lower() for name in schema.names})
    if answer is None:
        return ParsedAnswer({}, ["no JSON object with an attribute of the schema"])
    claims, faults = dict[str, Claim](), list[str]()
    rows = {str(name).strip().lower(): row for name, row in answer.items()}
    for attribute in schema.attributes:
        claim = _claim(rows.pop(attribute.name.lower(), None), {v.lower(): v for v in (*attribute.values, UNKNOWN)})
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


def _object(text: str, names: set[str]) -> dict[str, Any] | None:
    """Return the last JSON object in a text that has one of the names as a key."""
    decoder, last = json.JSONDecoder(), None
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, start + 1
        if isinstance(value, dict) and names & {str(key).strip().lower() for key in value}:
            last = value
        else:
            end = start + 1
        start = text.find("{", end)
    return last


def _claim(row: Any, values: Mapping[str, str]) -> Claim | str:
    """Return the claim, or what is wrong with it."""
    if not isinstance(row, dict):
        return "missing" if row is None else f"{str(row)[:40]!r} is no object"
    value = row.get("value", "")
    known = values.get(str(UNKNOWN if value is None else value).strip().lower())
    if known is None:
        return f"value {str(value)[:40]!r} is none of its values"
    confidence = row.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 100:
        return f"confidence {str(confidence)[:40]!r} is no number from 0 to 100"
    rationale = row.get("rationale")
    return Claim(known, confidence / 100, _words(rationale) if isinstance(rationale, str) else "")


def _words(text: str) -> str:
    """Return a text with single blanks; half of a surrogate pair, which no file can hold, is a question mark."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
