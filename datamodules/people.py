"""People for the auxiliary language-model stage: the users of a prepared folder, or JSON lines of reviews and cues."""

from pathlib import Path
from typing import Any

from datamodules.gold import gold_profile, read_gold, read_lines, split_of
from datamodules.prepared import open_prepared
from mmprofile.errors import UserError
from mmprofile.inputs.views import SPLITS
from mmprofile.llm.people import CUES, Person
from mmprofile.profile.schema import Schema

FORMATS = ("people", "synthpai")
FIELDS = ("user_id", "reviews", *CUES, "split", "gold")


def read_people(source: str | Path, schema: Schema, input_format: str = "people") -> list[Person]:
    """Return the people of a prepared folder or of a JSONL file.

    Args:
        source: a prepared folder: its users, with gold values from ``gold_text_only.parquet`` where there is one; or a file of
            objects with ``user_id`` and any of ``reviews`` (a list), the kinds of cues (a text or a list each), ``split`` and
            ``gold`` (attribute -> value; null or "Unknown": known to be unknown).
        schema: what gold values must belong to.
        input_format: of a file: ``people``, as said, or ``synthpai`` (:mod:`datamodules.synthpai`).

    Raises:
        UserError: it cannot be read, a line is no person, a user is there twice, or a gold value is not in the schema.
    """
    source = Path(source).expanduser()
    if input_format not in FORMATS:
        raise UserError(f"input_format={input_format!r} is none of {', '.join(FORMATS)}")
    if input_format == "synthpai":
        if source.is_dir():
            raise UserError(f"input_format={input_format}: {source} is a folder; give input=..., the file of comments")
        from datamodules.synthpai import read_synthpai

        return read_synthpai(source, schema)
    if source.is_dir():
        return _prepared(source, schema)
    people = [_person(row, where, schema) for row, where in read_lines(source)]
    if not people:
        raise UserError(f"input={source}: nobody in it")
    ids = set[str]()
    for person in people:
        if person.user_id in ids:
            raise UserError(f"input={source}: user_id {person.user_id!r} stands there more than once; join their texts")
        ids.add(person.user_id)
    return people


def _prepared(folder: Path, schema: Schema) -> list[Person]:
    prepared = open_prepared(folder)
    gold = read_gold(folder, schema)
    return [
        Person(
            row["user_id"],
            reviews=tuple(review["text"] for review in row["reviews"]),
            split=split,
            gold=gold.get(row["user_id"], {}),
        )
        for split in SPLITS
        for row in prepared.datasets[split]
    ]


def _person(row: dict[str, Any], where: str, schema: Schema) -> Person:
    if not isinstance(row.get("user_id"), str) or not row["user_id"]:
        raise UserError(f"{where}: expected an object with user_id, a text")
    if unknown := sorted(set(row) - set(FIELDS)):
        raise UserError(f"{where}: {unknown[0]!r} is none of {', '.join(FIELDS)}")
    texts = {name: _texts(row.get(name), f"{where}: {name}") for name in ("reviews", *CUES)}
    if not any(texts.values()):
        raise UserError(f"{where}: nothing is known of {row['user_id']!r}; give reviews or one of {', '.join(CUES)}")
    split = row.get("split") or split_of(row["user_id"])
    if split not in SPLITS:
        raise UserError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
    gold = row.get("gold") or {}
    if not isinstance(gold, dict) or (strange := sorted(set(gold) - set(schema.names))):
        raise UserError(
            f"{where}: gold has {strange[0] if isinstance(gold, dict) else gold!r}, which the schema does not have"
        )
    cues = {name: texts[name] for name in CUES if texts[name]}
    profile = gold_profile(gold, schema, where)
    return Person(row["user_id"], reviews=texts["reviews"], cues=cues, split=split, gold=profile)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in values):
        raise UserError(f"{where}: expected a text or a list of texts")
    return tuple(str(item) for item in values if str(item).strip())
