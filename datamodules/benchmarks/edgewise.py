"""EdgeWisePersona (TCLResearchEurope/EdgeWisePersona, arXiv 2505.11417, CC BY 4.0): talks of generated people with their home.

A folder holds ``routines.jsonl`` and ``sessions.jsonl``; the same line of both is one user. Of the sessions only the user's
messages are read. What would give gold away is not read: ``applied_routines``, ``session_summarization``, the assistant's replies,
``meta`` (in which time of day and the like are a column to be counted), and ``characters.jsonl``.

The benchmark's task is to reconstruct the routines. Ours is another one: of each setting below, the value that most of a
user's routines set. Where no routine sets it, gold is Unknown; where several values are as frequent, there is no gold.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.gold import LeftOut, Reading, at, gold_profile, published, read_lines, spelled, split_of
from mmprofile.errors import UserError
from mmprofile.llm.people import Person
from mmprofile.profile.schema import Schema


def _as_named(*values: str) -> Reading:
    return spelled({value: value.lower() for value in values})


SETTINGS: dict[str, tuple[str, Reading]] = {
    "Time of Day": ("triggers.time_of_day", _as_named("Morning", "Afternoon", "Evening", "Night")),
    "AC Mode": ("actions.ac.mode", _as_named("Cool", "Heat", "Auto")),
    "Light Color": ("actions.lights.color", _as_named("Warm", "Cool", "Neutral")),
    "Sound": ("actions.speaker.equalizer", _as_named("Bass Boost", "Balanced", "Treble Boost")),
    "TV Source": ("actions.tv.input_source", _as_named("HDMI1", "HDMI2", "AV", "Netflix", "YouTube")),
}
"""Attribute -> where it stands in a routine, and how it is read."""


def read_edgewise(folder: Path, schema: Schema) -> list[Person]:
    """Return the users, called ``user1`` and so on by their lines. What is left out is counted on standard error.

    Args:
        folder: with ``routines.jsonl`` and ``sessions.jsonl``.
        schema: what gold values must belong to; attributes that it does not have are left out.

    Raises:
        UserError: a file is not there or cannot be read, the files have different numbers of users, nobody is in them, or a
            gold value is not in the schema.
    """
    paths = published(folder, "routines.jsonl", "sessions.jsonl")
    routines, sessions = ([*read_lines(path)] for path in paths)
    if len(routines) != len(sessions):
        raise UserError(
            f"input={folder}: routines.jsonl has {len(routines):,} users, sessions.jsonl {len(sessions):,}; line by line they "
            "belong together: download both again"
        )
    left, people, messages = LeftOut(), list[Person](), 0
    for number, ((row, where), (talk, place)) in enumerate(zip(routines, sessions, strict=True), 1):
        texts = _own_words(talk.get("sessions"))
        if not texts:
            left.add("users without a message left out", place)
            continue
        messages += len(texts)
        name = f"user{number}"
        gold = gold_profile(_gold(row.get("routines"), where, left), schema, where)
        people.append(Person(name, reviews=texts, split=split_of(name), gold=gold))
    left.report(folder, f"{messages:,} messages of {len(people):,} users", people)
    return people


def _objects(values: Any) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _own_words(sessions: Any) -> tuple[str, ...]:
    """Return the user's messages of all sessions."""
    messages = [message for session in _objects(sessions) for message in _objects(session.get("messages"))]
    texts = [message.get("text") for message in messages if message.get("role") == "user"]
    return tuple(text for text in texts if isinstance(text, str) and text.strip())


def _gold(routines: Any, where: str, left: LeftOut) -> dict[str, str | None]:
    """Return attribute -> the value that most routines set, None where none does."""
    if not isinstance(routines, list):
        left.add("users without routines: no gold", where)
        return {}
    gold: dict[str, str | None] = {}
    for attribute, (path, read) in SETTINGS.items():
        given = [raw for routine in routines if (raw := at(routine, path)) is not None]
        for raw in given:
            if read(raw) is None:
                left.not_understood(path, raw, where)
        counts = Counter(value for raw in given if (value := read(raw)))
        likeliest = [value for value, count in counts.items() if count == max(counts.values())]
        if len(likeliest) > 1:
            left.add("settings with several most frequent values: no gold", f"{where}: {attribute}")
        elif likeliest or not given:
            gold[attribute] = likeliest[0] if likeliest else None
    return gold
