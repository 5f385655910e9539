"""The users who stay, and how they are written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa

from datamodules import prepared as out
from datamodules.engine import Engine
from datamodules.labels import Labels
from datamodules.pseudonyms import Pseudonyms
from datamodules.selection import full_rows, totals_of
from datamodules.yelp import Tables
from mmprofile.inputs.views import SPLITS
from mmprofile.profile.schema import Schema


@dataclass(frozen=True, eq=False)
class Dataset:
    """The users who stay, before they are written.

    Attributes:
        tables: the raw tables.
        reviews: the reviews that stay.
        usable: the photo rows whose photo can be used.
        schema: with the bins of numbers.
        labels: raw user id -> profile.
        notes: what the manifest says of the labels.
        splits: split -> raw user ids, in order.
    """

    tables: Tables
    reviews: ir.Table
    usable: ir.Table
    schema: Schema
    labels: Labels
    notes: dict[str, Any]
    splits: dict[str, list[str]]


@dataclass(frozen=True)
class Totals:
    """Counts for the manifest; photos are counted once per user."""

    reviews: int
    words: int
    user_photos: int


def write_users(
    result: Path, work: Path, engine: Engine, data: Dataset, profile: Schema, names: Pseudonyms
) -> tuple[Totals, list[dict[str, str]]]:
    """Write the splits.

    Args:
        result: the prepared folder.
        work: for temporary files.
        engine: runs the queries.
        data: the users.
        profile: the schema of their profiles.
        names: what stands for the ids of users and reviews.

    Returns:
        The totals, and the rows of the photos that the reviews use.
    """
    order = [user for users in data.splits.values() for user in users]
    place = pa.table(
        {"user_id": order, "place": range(len(order))},
        schema=pa.schema([("user_id", pa.string()), ("place", pa.int64())]),
    )
    rows = engine.table("rows", data.reviews.inner_join(engine.table("users", place), "user_id"))
    totals = Totals(**totals_of(engine, rows, data.usable))
    photos: dict[str, dict[str, str]] = {}
    for row in engine.rows(data.usable.semi_join(rows, "photo_key").order_by("photo_id", "photo_key")):
        row.pop("photo_key")
        photos.setdefault(row["photo_id"], row)
    sorted_rows = full_rows(rows, data.tables.full, data.usable).order_by("place", "date", "review_id")
    reviews = out.Sorted(engine.stream(sorted_rows))
    schema = out.user_schema(profile)
    writers = {name: out.RowWriter(work / f"{name}.arrow", schema) for name in SPLITS}
    end = 0
    for name, users in data.splits.items():
        for batch in (users[start : start + out.BATCH] for start in range(0, len(users), out.BATCH)):
            first, end = end, end + len(batch)
            hashed = [names.user(user) for user in batch]
            profiles = [data.labels[user] for user in batch]
            writers[name].write(out.user_rows(_renamed(reviews.until(end), names), first, hashed, profiles, schema))
    out.save_splits(result, {name: writer.dataset(name) for name, writer in writers.items()})
    return totals, list(photos.values())


def _renamed(reviews: pa.Table, names: Pseudonyms) -> pa.Table:
    """Return the reviews with hashed ids, which also order a user's reviews of one date."""
    if names.public:
        return reviews
    ids = pa.array([names.review(raw) for raw in reviews["review_id"].to_pylist()], pa.string())
    renamed = reviews.set_column(reviews.column_names.index("review_id"), "review_id", ids)
    return renamed.sort_by([(column, "ascending") for column in ("place", "date", "review_id")])
