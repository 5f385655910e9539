"""The table of labels: a row per person and attribute, with every vote and where it came from."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, parse_json, whole
from mmprofile.llm.answers import Claim
from mmprofile.llm.people import Person
from mmprofile.profile.schema import UNKNOWN, Schema

LABELS, CALIBRATION = "labels.parquet", "calibration.json"
"""The files of the labels in the stage's folder, and of the map that calibrated their confidences."""
COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("user_id", "attribute", "label", "voted", "rationale", "votes", "provenance")]
    + [(name, pa.float64()) for name in ("q", "m", "confidence")]
)


@dataclass(frozen=True)
class Vote:
    """One sample's value for an attribute of a person, and its confidence (0 to 1); ``request``: of the journal's record."""

    sample: int
    value: str
    confidence: float
    request: str = ""


@dataclass(frozen=True)
class Label:
    """The label of one attribute of one person.

    Attributes:
        user_id: who.
        attribute: which.
        label: a value of the schema, or ``Unknown``.
        confidence: calibrated probability, 0 to 1, that the label is right.
        voted: the label before calibration, which may turn it to Unknown.
        q: agreement, the winner's share of the votes' weight; 0 without votes.
        m: mean confidence of the winner's votes.
        rationale: of the winner's most confident vote.
        votes: all of them.
        provenance: hash of the settings and answers that it came from.
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
    """Write Parquet, whole or not at all."""
    rows = [asdict(label) | {"votes": json.dumps([asdict(vote) for vote in label.votes])} for label in labels]
    with whole(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, COLUMNS), partial)


def load_labels(path: Path) -> list[Label]:
    """Read what :func:`save_labels` wrote.

    Raises:
        UserError: the file cannot be read, or is no such table.
    """
    try:
        rows: Sequence[dict[str, Any]] = pq.read_table(path, schema=COLUMNS).to_pylist()
        return [replace(Label(**row), votes=tuple(Vote(**vote) for vote in parse_json(row["votes"]))) for row in rows]
    except (OSError, *MALFORMED, pa.ArrowException) as error:
        raise UserError(f"{path}: no table of labels ({error}); python -m mmprofile.llm.vote writes it") from error


class Joined(NamedTuple):
    """Labels beside people.

    Attributes:
        labels: attribute -> label, one mapping per person, in their order.
        of_others: the number of labels of other people, which are left out.
        of_other_attributes: the number of labels of attributes that the schema does not have, which are left out.
    """

    labels: list[dict[str, Claim]]
    of_others: int
    of_other_attributes: int


def join(people: Sequence[Person], labels: Sequence[Label], schema: Schema, path: Path) -> Joined:
    """Put labels beside people.

    Args:
        people: in the order that is wanted.
        labels: of these people and maybe others.
        schema: the attributes that are wanted.
        path: of the labels, for error messages.

    Raises:
        UserError: an attribute of a person has two labels, a label or confidence is invalid, or no label is of these people.
    """
    claims: dict[str, dict[str, Claim]] = {person.user_id: {} for person in people}
    of_others = of_other_attributes = 0
    for label in labels:
        where = f"{path}: {label.attribute} of {label.user_id}"
        if label.attribute not in schema.names:
            of_other_attributes += 1
        elif label.user_id not in claims:
            of_others += 1
        elif label.attribute in claims[label.user_id]:
            raise UserError(f"{where} has two labels")
        elif label.label not in (*schema[label.attribute].values, UNKNOWN):
            raise UserError(f"{where}: label {label.label!r} is not in profile {schema.name}")
        elif label.confidence is None or not 0 <= label.confidence <= 1:
            raise UserError(f"{where}: confidence {label.confidence} lies outside 0 to 1")
        else:
            claims[label.user_id][label.attribute] = Claim(label.label, label.confidence)
    if not any(claims.values()):
        raise UserError(
            f"{path}: none of its {len(labels):,} labels is of the {len(people):,} people that were read and of profile "
            f"{schema.name}; give the data=, input= and splits= they were made from"
        )
    return Joined(
        labels=[claims[person.user_id] for person in people],
        of_others=of_others,
        of_other_attributes=of_other_attributes,
    )
