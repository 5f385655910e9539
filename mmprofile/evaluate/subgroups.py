"""How the errors of a model differ between groups of people: by the values of each sensitive attribute."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Schema

PARTS = ("gold", "parsed")
LEAST = 10
"""People of a group that is shown; of a smaller one the figures would be chance, and could tell of a person."""


def subgroup_scores(schema: Schema, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return sensitive attribute -> gold value -> ``users`` and, of each other attribute, ``users``, ``macro_f1`` and ``error``.

    Both scores are 0 to 100; ``error`` is the share of users whose values are not all right. Where fewer than :data:`LEAST`
    users have a value, or a gold value of the other attribute beside it, the figures and their number are None.

    Args:
        schema: of the profiles.
        rows: of ``predictions.jsonl``.
    """
    gold, predicted = ([{name: tuple(values) for name, values in row[part].items()} for row in rows] for part in PARTS)
    groups: dict[str, dict[str, Any]] = {}
    for attribute in schema.attributes:
        others = [other for other in schema.attributes if other != attribute]
        if not attribute.sensitive or not others:
            continue
        groups[attribute.name] = {}
        for value in attribute.values:
            members = [i for i, profile in enumerate(gold) if value in profile.get(attribute.name, ())]
            if len(members) < LEAST:
                groups[attribute.name][value] = {"users": None}
                continue
            truth, guesses = ([rows[i] for i in members] for rows in (gold, predicted))
            scores = score(Schema(schema.name, others), truth, guesses, resamples=0).per_attribute
            groups[attribute.name][value] = {
                "users": len(members),
                "attributes": {
                    name: _figures(one.macro_f1, 100 - one.accuracy, len(members) - one.not_scored)
                    for name, one in scores.items()
                },
            }
    return groups


def _figures(macro_f1: float, error: float, users: int) -> dict[str, float | None]:
    if users < LEAST:
        return {"users": None, "macro_f1": None, "error": None}
    return {"users": users, "macro_f1": macro_f1, "error": error}
