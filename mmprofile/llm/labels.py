"""The table of labels: a row per person and attribute, with every vote and where it came from."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim
from mmprofile.llm.people import Person
from mmprofile.profile.schema import UNKNOWN, Schema

LABELS, CALIBRATION = "labels.parquet", "calibration.json"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("user_id", "attribute", "label", "voted", "rationale", "votes", "provenance")]
    + [(name, pa.float64()) for name in ("q", "m", "confidence")]
)


@dataclass(frozen=True)
class Vote:
    """One sample's say: value and confidence (0 to 1); ``request``: of the journal's record."""

    sample: int
    value: str
    confidence: float
    request: str = ""


@dataclass(frozen=True)
class Label:
    """What is said of one attribute of one person.

    Attributes:
        user_id: who.
        attribute: which.
        label: a value of the schema, or ``Unknown``.
        confidence: calibrated, 0 to 1, that the label is right.
        voted: the label before calibration, which may turn it to Unknown.
        q: agreement, the winner's share of the votes' weight; 0 without votes.
        m: mean confidence of the winner's votes.
        rationale: why.
        votes: all of them.
        provenance: hashes and settings it came from.
    """

    user_id: str
    attribute: str
    label: str
    confidence: float
    voted: str = ""
    q: float = 0.0
    m: float = 0.0
    rationale: str = ""
    votes: tuple[Vote, ...] = ()
    provenance: str = ""


def save_labels(path: Path, labels: Iterable[Label]) -> None:
    """Parquet, whole or not at all."""
    rows = [asdict(label) | {"votes": json.dumps([asdict(vote) for vote in label.votes])} for label in labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial)
    partial.replace(path)


def load_labels(path: Path) -> list[Label]:
    """What :func:`save_labels` wrote.

    Raises:
        UserError: it cannot be read, or is no such table.
    """
    try:
        rows: Sequence[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: no table of labels ({error}); python -m mmprofile.llm.vote writes it") from error
    return [replace(Label(**row), votes=tuple(Vote(**vote) for vote in json.loads(row["votes"]))) for row in rows]


class Joined(NamedTuple):
    """Labels of people: a mapping per person, in their order; and how many labels were of others, or of other attributes."""

    labels: list[dict[str, Claim]]
    others: int
    foreign: int


def join(people: Sequence[Person], labels: Sequence[Label], schema: Schema, path: Path) -> Joined:
    """Labels by person and attribute.

    Raises:
        UserError: a label stands there twice, or is none of the schema's; or there is none of these people.
    """
    found: dict[str, dict[str, Claim]] = {person.user_id: {} for person in people}
    others = foreign = 0
    for one in labels:
        where = f"{path}: {one.attribute} of {one.user_id}"
        if one.attribute not in schema.names:
            foreign += 1
        elif one.user_id not in found:
            others += 1
        elif one.attribute in found[one.user_id]:
            raise UserError(f"{where} has two labels")
        elif one.label not in (*schema[one.attribute].values, UNKNOWN):
            raise UserError(f"{where}: label {one.label!r} is not in profile {schema.name}")
        elif one.confidence is None or not 0 <= one.confidence <= 1:
            raise UserError(f"{where}: confidence {one.confidence} lies outside 0 to 1")
        else:
            found[one.user_id][one.attribute] = Claim(one.label, one.confidence)
    if not any(found.values()):
        raise UserError(
            f"{path}: none of its {len(labels):,} labels is of the {len(people):,} people that were read and of profile "
            f"{schema.name}; give the data=, input= and splits= they were made from"
        )
    return Joined([found[person.user_id] for person in people], others, foreign)
