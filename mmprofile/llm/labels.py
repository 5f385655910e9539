"""The table of labels: a row per person and attribute, with every vote and where it came from."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmprofile.errors import UserError

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
        raise UserError(f"{path}: no table of labels ({error})") from error
    return [replace(Label(**row), votes=tuple(Vote(**vote) for vote in json.loads(row["votes"]))) for row in rows]
