"""Labels of text-only attributes beside a prepared data set: ``text_only.parquet``, attached to it and read from it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.card import dataset_card
from datamodules.files import intact, sha256_of
from datamodules.prepared import Prepared, open_prepared
from mmprofile.errors import UserError
from mmprofile.files import read_json, whole, write_json, write_text
from mmprofile.inputs.views import SPLITS
from mmprofile.llm.labels import Label, join, load_labels
from mmprofile.llm.people import Person
from mmprofile.profile.schema import UNKNOWN, Profile, Schema

FILE = "text_only.parquet"
COLUMNS = pa.schema(
    [("user_id", pa.string()), ("attribute", pa.string()), ("label", pa.string()), ("confidence", pa.float64())]
    + [(name, pa.string()) for name in ("rationale", "votes", "provenance", "purpose")]
)
ATTACH = "python -m mmprofile.llm.attach"


class Labelled(NamedTuple):
    """What ``text_only.parquet`` says of a user.

    Attributes:
        profile: attribute -> its value, ``()`` for Unknown; without the attributes that have no label.
        weights: attribute -> the label's confidence, whatever the label.
        rationales: of the labels that are known; none where an earlier version attached them.
    """

    profile: Profile
    weights: dict[str, float]
    rationales: list[str]


def attach(folder: Path, path: Path, schema: Schema, purpose: str) -> dict[str, Any]:
    """Write the labels of a prepared folder's users into it, and a description into its manifest and card.

    An Unknown that nobody voted for is no label, and left out. The same labels again give the same bytes.

    Args:
        folder: the prepared folder.
        path: labels, as :mod:`mmprofile.llm.vote.voting` writes them; the calibration beside them is recorded if it is theirs.
        schema: text-only attributes.
        purpose: what they are for.

    Returns:
        What the manifest says of them.

    Raises:
        UserError: an attribute is not text-only, or the labels are not of this folder's users or not of this schema.
    """
    if strange := [attribute.name for attribute in schema.attributes if not attribute.text_only]:
        raise UserError(f"profile {schema.name}: {strange[0]} is not text-only: its labels come with the prepared data")
    prepared = open_prepared(folder)
    users = [user for split in SPLITS for user in prepared.datasets[split]["user_id"]]
    labels = load_labels(path)
    joined = join([Person(user) for user in users], labels, schema, path)
    known = set(users)
    place = {name: i for i, name in enumerate(schema.names)}
    attached = sorted(
        (label for label in labels if label.user_id in known and label.attribute in place and not _silent(label)),
        key=lambda label: (label.user_id, place[label.attribute]),
    )
    calibration = _calibration(path, attached)
    _save(folder / FILE, attached, calibration.get("thresholds", {}), purpose)
    about = {
        "purpose": purpose,
        "schema": schema.to_dict(),
        "labels_sha256": sha256_of(path),
        "sha256": sha256_of(folder / FILE),
        "users": len(users),
        "labels_of_others": joined.of_others + joined.of_other_attributes,
        "balance": label_balance(attached, users, schema),
        "calibration": calibration,
    }
    manifest = prepared.manifest | {"text_only": about}
    card = dataset_card(prepared.schema, manifest)
    write_json(folder / "manifest.json", manifest, ensure_ascii=False)
    write_text(folder / "README.md", card)
    return about


def read_text_only(prepared: Prepared, schema: Schema) -> dict[str, Labelled]:
    """Return user -> attached labels; users without labels are left out.

    Args:
        prepared: an opened folder.
        schema: the text-only attributes that are wanted.

    Raises:
        UserError: none were attached, others, or of other values; or the table is damaged.
    """
    path, about = prepared.folder / FILE, prepared.manifest.get("text_only")
    if about is None or not path.is_file():
        raise UserError(
            f"{prepared.folder} has no {FILE}, which profile {schema.name} reads: label its users first (python -m "
            f"mmprofile.llm.teacher, then mmprofile.llm.vote), then run {ATTACH}"
        )
    if sha256_of(path) != about["sha256"]:
        raise UserError(f"{path} is not the table that manifest.json tells of: run {ATTACH} again")
    attached = Schema.from_dict(about["schema"])
    for attribute in schema.attributes:
        if attribute not in attached.attributes:
            raise UserError(
                f"{path}: {attribute.name} was attached with other values or not at all; ask, vote and attach again with "
                f"the attributes of profile {schema.name}"
            )
    labelled: dict[str, Labelled] = {}
    with intact(path, f"run {ATTACH} again"):
        names = [name for name in pq.read_schema(path).names if name not in ("votes", "provenance", "purpose")]
        rows = pq.read_table(path, columns=names).to_pylist()
    for row in rows:
        name, label = row["attribute"], row["label"]
        if name not in schema.names:
            continue
        if row["user_id"] not in labelled:
            labelled[row["user_id"]] = Labelled(profile={}, weights={}, rationales=[])
        labelled[row["user_id"]].profile[name] = () if label == UNKNOWN else (label,)
        labelled[row["user_id"]].weights[name] = row["confidence"]
        if label != UNKNOWN:
            labelled[row["user_id"]].rationales.append(row.get("rationale") or "")
    return labelled


def _silent(label: Label) -> bool:
    """Whether nobody voted, so that the label says nothing."""
    return label.label == UNKNOWN and not label.votes


def _calibration(path: Path, labels: Sequence[Label]) -> dict[str, Any]:
    """Return ``calibration.json`` beside the labels if it belongs to them: thresholds, priors and the vote's settings."""
    try:
        calibration = read_json(path.parent / "calibration.json")
    except (OSError, ValueError):
        return {}
    if not isinstance(calibration, dict) or {calibration.get("settings")} != {label.provenance for label in labels}:
        return {}
    return calibration


def _save(path: Path, labels: Sequence[Label], thresholds: dict[str, float], purpose: str) -> None:
    """Write the table, whole or not at all."""
    rows = []
    for label in labels:
        origin = {"settings": label.provenance, "voted": label.voted, "q": label.q, "m": label.m}
        rows.append(
            {
                "user_id": label.user_id,
                "attribute": label.attribute,
                "label": label.label,
                "confidence": label.confidence,
                "rationale": label.rationale,
                "votes": json.dumps([asdict(vote) for vote in label.votes]),
                "provenance": json.dumps(origin | {"threshold": thresholds.get(label.attribute)}),
                "purpose": purpose,
            }
        )
    with whole(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, COLUMNS), partial)


class _Row(NamedTuple):
    attribute: str
    label: str
    confidence: float


def read_labels(folder: Path) -> list[_Row]:
    """Return the attached labels of a prepared folder."""
    with intact(folder / FILE, f"run {ATTACH} again"):
        return [_Row(**row) for row in pq.read_table(folder / FILE, columns=[*_Row._fields]).to_pylist()]


def label_balance(
    labels: Sequence[Label] | Sequence[_Row], users: Sequence[str], schema: Schema
) -> dict[str, dict[str, Any]]:
    """Count the users of each value, of Unknown and without a label by attribute, with the mean confidence."""
    balance: dict[str, dict[str, Any]] = {}
    for attribute in schema.attributes:
        of_attribute = [label for label in labels if label.attribute == attribute.name]
        counts = Counter(label.label for label in of_attribute)
        balance[attribute.name] = {
            "values": {value: counts[value] for value in (*attribute.values, UNKNOWN)},
            "without_label": len(users) - len(of_attribute),
            "mean_confidence": round(sum(label.confidence for label in of_attribute) / max(len(of_attribute), 1), 4),
        }
    return balance
