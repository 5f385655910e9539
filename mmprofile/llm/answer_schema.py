"""The JSON schema of an answer, for servers and decoders that write nothing else (:mod:`mmprofile.llm.answers` reads it)."""

from typing import Any

from mmprofile.profile.schema import UNKNOWN, Attribute, Schema


def answer_schema(schema: Schema, longest: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of a whole answer: every attribute, each with why, what and how sure, in that order.

    A model that writes token after token thus gives its reasons before it decides.

    Args:
        schema: the attributes that are asked for.
        longest: characters of a rationale at most, none of which needs an escape; None: no limit, since not every server
            knows patterns. With ``maxLength`` xgrammar lets control characters through, and the answer is no JSON any more.
    """
    return _object({attribute.name: _claim(attribute, longest) for attribute in schema.attributes})


def _claim(attribute: Attribute, longest: int | None) -> dict[str, Any]:
    limit = {} if longest is None else {"pattern": rf'^[^"\\\x00-\x1f]{{0,{longest}}}$'}
    return _object(
        {
            "rationale": {"type": "string", **limit},
            "value": {"type": "string", "enum": [*attribute.values, UNKNOWN]},
            "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        }
    )


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
