"""People for the auxiliary language-model stage: a prepared folder, JSON lines of reviews and cues, or a published benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from datamodules.benchmarks.edgewise import read_edgewise
from datamodules.benchmarks.personamem import read_personamem
from datamodules.benchmarks.prism import read_prism
from datamodules.benchmarks.synthpai import read_seed, read_synthpai
from datamodules.gold import gold_profile, read_gold, read_lines, split_of
from datamodules.prepared import open_prepared
from mmprofile.errors import UserError, nearest
from mmprofile.inputs.views import SPLITS
from mmprofile.llm.people import CUES, Person
from mmprofile.profile.schema import Schema

FIELDS = ("user_id", "reviews", *CUES, "split", "gold")


class Benchmark(Protocol):
    """Reads people and their gold values from a benchmark as it is published, or raises a UserError."""

    def __call__(self, source: Path, schema: Schema, /) -> list[Person]:
        """Return the people; ``schema`` is what gold values must belong to."""


BENCHMARKS: Mapping[str, Benchmark] = {
    "synthpai": read_synthpai,
    "synthpai_seed": read_seed,
    "prism": read_prism,
    "personamem_v2": read_personamem,
    "edgewise": read_edgewise,
}
FORMATS = ("people", *BENCHMARKS)


def read_people(source: str | Path, schema: Schema, input_format: str = "people") -> list[Person]:
    """Return the people of a prepared folder, of a JSONL file or of a benchmark.

    Args:
        source: a prepared folder: its users, with gold values from ``gold_text_only.parquet`` where there is one; or a file of
            objects with ``user_id`` and any of ``reviews`` (a list), the kinds of cues (a text or a list each), ``split`` and
            ``gold`` (attribute -> value; null or "Unknown": known to be unknown); or what a benchmark's reader takes.
        schema: what gold values must belong to.
        input_format: ``people``, for a prepared folder or a file as said, or one of :data:`BENCHMARKS`.

    Raises:
        UserError: it cannot be read, a line is no person, a user is there twice, or a gold value is not in the schema.
    """
    source = Path(source).expanduser()
    if input_format not in FORMATS:
        near = nearest(input_format, FORMATS)
        raise UserError(f"input_format={input_format!r} is none of {', '.join(FORMATS)}{near}")
    if input_format != "people":
        return BENCHMARKS[input_format](source, schema)
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
