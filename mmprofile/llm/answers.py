"""What a teacher or student answers of a person: per attribute a rationale, a value and a confidence, as JSON."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmprofile.profile.schema import UNKNOWN, Schema


class Claim(NamedTuple):
    """What an answer says of one attribute.

    Attributes:
        value: one of the schema's, or ``Unknown``.
        confidence: 0 to 1.
        rationale: why.
    """

    value: str
    confidence: float
    rationale: str = ""


class Answer(NamedTuple):
    """What was understood of an answer, and a line for everything that was not: such an attribute votes for nothing."""

    claims: dict[str, Claim]
    faults: list[str]


def parse_answer(text: str, schema: Schema) -> Answer:
    """Understands an answer; never raises and never guesses.

    Args:
        text: JSON, possibly amid prose: ``{attribute: {"rationale": ..., "value": ..., "confidence": 0 to 100}}``. Where
            several objects stand in it, the last that names an attribute counts: thoughts come first. A value of null is Unknown.
        schema: names and values are matched to its own, case ignored.
    """
    found = _object(text, {name.lower() for name in schema.names})
    if found is None:
        return Answer({}, ["no JSON object with an attribute of the schema"])
    claims, faults = dict[str, Claim](), list[str]()
    given = {str(name).strip().lower(): value for name, value in found.items()}
    for attribute in schema.attributes:
        claim = _claim(given.pop(attribute.name.lower(), None), {v.lower(): v for v in (*attribute.values, UNKNOWN)})
        if isinstance(claim, Claim):
            claims[attribute.name] = claim
        else:
            faults.append(f"{attribute.name}: {claim}")
    return Answer(claims, faults + [f"{name!r} is no attribute of the schema" for name in given])


def render_answer(claims: Mapping[str, Claim], schema: Schema) -> str:
    """An answer as JSON, attributes in the schema's order, confidence in percent; :func:`parse_answer` reads it back."""
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
    """The last JSON object in a text that has one of the names as a key."""
    decoder, found = json.JSONDecoder(), None
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, start + 1
        if isinstance(value, dict) and names & {str(key).strip().lower() for key in value}:
            found = value
        else:
            end = start + 1
        start = text.find("{", end)
    return found


def _claim(given: Any, values: Mapping[str, str]) -> Claim | str:
    """A claim, or what is wrong with it."""
    if not isinstance(given, dict):
        return "missing" if given is None else f"{str(given)[:40]!r} is no object"
    value = given.get("value", "")
    known = values.get(str(UNKNOWN if value is None else value).strip().lower())
    if known is None:
        return f"value {str(value)[:40]!r} is none of its values"
    confidence = given.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 100:
        return f"confidence {str(confidence)[:40]!r} is no number from 0 to 100"
    rationale = given.get("rationale")
    return Claim(known, confidence / 100, " ".join(rationale.split()) if isinstance(rationale, str) else "")
