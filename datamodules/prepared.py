"""The prepared folder, written and opened: users by split, photos, captions, cues, schema, manifest, card."""

import hashlib
import json
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, NamedSplit

from datamodules.files import intact, sha256_of
from datamodules.photos import PhotoStore
from datamodules.retention import warn_when_over
from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, parse_json, read_json, write_text
from mmprofile.inputs.views import SPLITS
from mmprofile.profile.schema import Profile, Schema

try:
    import fcntl
except ImportError:  # Windows, which does not remove files that are open
    fcntl = None  # type: ignore[assignment]

FORMAT_VERSION = 1
BATCH = 256  # users written at a time
REVIEW = pa.struct(
    [
        ("review_id", pa.string()),
        ("business_id", pa.string()),
        ("text", pa.string()),
        ("stars", pa.float32()),
        ("date", pa.string()),
        ("photo_ids", pa.list_(pa.string())),
    ]
)
PHOTO = pa.schema(
    [(name, pa.string()) for name in ("photo_id", "business_id", "label", "sha256")] + [("jpeg", pa.binary())]
)
BACKEND_COLUMNS = ("backend", "backend_version", "model", "revision", "prompt", "decoding", "dtype")
CAPTION_COLUMNS = ("sha256", "photo_id", "caption", "status", "error", *BACKEND_COLUMNS)


@dataclass
class Prepared:
    """An opened prepared data set.

    Args:
        folder: where it lies.
        datasets: splits train, validation and test; a row is a user: user_id, reviews, profile.
        photos: photo_id, business_id, label, sha256, jpeg (bytes), memory-mapped.
        photo_index: photo_id -> row of ``photos``.
        captions: SHA-256 of a photo -> caption, of those that were captioned without an error; None: no captions.
        cues: (``review`` or ``photo``, id) -> attribute -> value, of the demo city; None elsewhere.
        schema: the profile schema the labels follow.
        manifest: what ``manifest.json`` says.
    """

    folder: Path
    datasets: DatasetDict
    photos: Dataset
    photo_index: dict[str, int]
    captions: dict[str, str] | None
    cues: dict[tuple[str, str], dict[str, str | None]] | None
    schema: Schema
    manifest: dict[str, Any]

    @property
    def contents(self) -> dict[str, str]:
        """Return a hash of each part of the data: the splits, the photos, their captions, the text-only labels."""
        tables = {**self.datasets, "photos": self.photos}
        parts = {name: str(table._fingerprint) for name, table in tables.items()}  # of the content, see RowWriter
        captions = json.dumps(sorted((self.captions or {}).items())).encode()
        labels = self.manifest.get("text_only", {}).get("sha256", "")
        return parts | {"captions": hashlib.sha256(captions).hexdigest()[:16], "text_only": labels}

    def jpeg(self, photo_id: str) -> bytes:
        """Return a photo's file.

        Raises:
            UserError: there is none.
        """
        row = self.photo_index.get(photo_id)
        if row is None:
            raise UserError(
                f"{self.folder} is damaged (there is no photo {photo_id!r}): remove it and prepare it again"
            )
        return bytes(self.photos[row]["jpeg"])


def open_prepared(folder: str | Path) -> Prepared:
    """Open a prepared folder; users and photos stay on disk, memory-mapped.

    Raises:
        UserError: the folder is no prepared data set, one of another format version, or damaged.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is no prepared data set (no manifest.json in it): run python -m mmprofile.prepare")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{folder} has format version {version}, this code reads {FORMAT_VERSION}: prepare it again")
    warn_when_over(folder, manifest)
    try:
        splits, photos = datasets.load_from_disk(str(folder)), datasets.load_from_disk(str(folder / "photos"))
        schema = Schema.from_yaml(folder / "schema.yaml")
        captions, cues = _read_captions(folder), _read_cues(folder)
        _check(photos, PHOTO)
        for split in SPLITS:
            _check(splits[split], user_schema(schema))
        ids = photos.data.column("photo_id").to_pylist()
    except (OSError, *MALFORMED, pa.ArrowException) as error:
        raise UserError(f"{folder} is damaged ({error}): remove it and prepare it again") from error
    index = {photo_id: row for row, photo_id in enumerate(ids)}
    prepared = Prepared(
        folder=folder,
        datasets=splits,
        photos=photos,
        photo_index=index,
        captions=captions,
        cues=cues,
        schema=schema,
        manifest=manifest,
    )
    if (held := locked(folder, exclusive=False)) is not None:
        weakref.finalize(
            prepared, held.close
        )  # not an attribute: a process that is sent the data could not take it along
    return prepared


def _check(table: Any, columns: pa.Schema) -> None:
    """Check that a table has columns, and is sound: a place that a damaged file names may lie anywhere in memory.

    Raises:
        KeyError, TypeError, AttributeError, pa.ArrowException: it has others, is none, or is damaged.
    """
    for column in columns:
        if table.data.schema.field(column.name).type != column.type:
            raise TypeError(f"the column {column.name} is none of a prepared folder")
    if table.format["type"] is not None or set(table.format["columns"]) != set(table.column_names):
        raise TypeError("a table that hides columns is none of a prepared folder")
    table.data.table.validate(full=True)


def in_use(folder: Path) -> bool:
    """Return whether a process on this machine has a prepared folder open, as far as the system tells."""
    if fcntl is None:
        return False
    held = locked(folder, exclusive=True)
    if held is not None:
        held.close()
    return held is None


def locked(folder: Path, exclusive: bool) -> BinaryIO | None:
    """Return a file that holds a lock on a prepared folder until it is closed; None where there is none to be had."""
    if fcntl is None or not (folder / ".fingerprint").is_file():
        return None
    file = (folder / ".fingerprint").open("rb")
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a prepared folder; None when there is none that can be read."""
    try:
        manifest = read_json(folder / "manifest.json")
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _read_captions(folder: Path) -> dict[str, str] | None:
    path = folder / "captions.parquet"
    if not path.exists():
        return None
    with intact(path, "remove it and caption again"):
        rows = pq.read_table(path, columns=["sha256", "caption", "status"]).to_pylist()
    return {row["sha256"]: row["caption"] for row in rows if row["status"] == "ok"}


def _read_cues(folder: Path) -> dict[tuple[str, str], dict[str, str | None]] | None:
    path = folder / "cues.parquet"
    if not path.exists():
        return None
    return {(row["kind"], row["id"]): parse_json(row["cues"]) for row in pq.read_table(path).to_pylist()}


def user_schema(schema: Schema) -> pa.Schema:
    """Return the Arrow schema of a split: user_id, reviews, profile."""
    profile = pa.struct([(name, pa.list_(pa.string())) for name in schema.names])
    return pa.schema([("user_id", pa.string()), ("reviews", pa.list_(REVIEW)), ("profile", profile)])


class Sorted:
    """A table that comes in batches, sorted by its column ``place``, given out by place."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = (pa.Table.from_batches([batch]) for batch in batches if batch.num_rows)
        self._rest = next(self._batches)

    def until(self, place: int) -> pa.Table:
        """Return the rows before ``place`` that were not returned yet."""
        waiting = [self._rest]
        while not waiting[-1].num_rows or waiting[-1]["place"][-1].as_py() < place:
            batch = next(self._batches, None)
            if batch is None:
                break
            waiting.append(batch)
        table = pa.concat_tables(waiting)
        end = int(np.searchsorted(table["place"].to_numpy(), place))
        self._rest = table.slice(end)
        return table.slice(0, end)


def user_rows(reviews: pa.Table, first: int, users: list[str], profiles: list[Profile], schema: pa.Schema) -> pa.Table:
    """Return the rows of a split, one per user, from the rows of their reviews.

    Args:
        reviews: the fields of REVIEW, and ``place``, by which they are sorted: ``first`` for the first user and so on.
        users, profiles: hashed id and profile of each user.
        schema: as :func:`user_schema` gives.
    """
    counts = np.bincount(reviews["place"].to_numpy() - first, minlength=len(users))
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    columns = [reviews[field.name].combine_chunks().cast(field.type) for field in REVIEW]
    nested = pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(columns, fields=list(REVIEW)))
    names = schema.field("profile").type
    labels = [pa.array([profile.get(field.name) for profile in profiles], field.type) for field in names]
    labelled = pa.StructArray.from_arrays(labels, fields=list(names))
    return pa.Table.from_arrays([pa.array(users), nested.cast(schema.field("reviews").type), labelled], schema=schema)


class RowWriter:
    """Rows into an Arrow stream file, some hundred at a time, so that a data set need not fit into memory."""

    def __init__(self, path: Path, schema: pa.Schema, batch: int = BATCH) -> None:
        self.path, self._schema, self._batch = path, schema, batch
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self._rows.append(row)
        if len(self._rows) >= self._batch:
            self._flush()

    def write(self, rows: pa.Table) -> None:
        """Add many rows."""
        self._writer.write_table(rows.combine_chunks())

    def _flush(self) -> None:
        self.write(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def dataset(self, split: str | None = None) -> Dataset:
        """Close the file and open it as a data set. Its fingerprint is that of the content; the library's is random."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._sink.close()
        opened = Dataset.from_file(str(self.path))
        fingerprint = sha256_of(self.path)[:16]
        return Dataset(
            opened.data, info=opened.info, split=NamedSplit(split) if split else None, fingerprint=fingerprint
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off the library's own progress bars."""
    was_shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_shown:
            datasets.enable_progress_bars()


def save_splits(folder: Path, splits: dict[str, Dataset]) -> None:
    """Write train/, validation/, test/ and dataset_dict.json."""
    with _quiet():
        DatasetDict(splits).save_to_disk(
            str(folder), num_shards={name: None if len(rows) else 1 for name, rows in splits.items()}
        )


def save_photos(folder: Path, work: Path, store: PhotoStore, rows: Iterable[dict[str, str]]) -> int:
    """Write photos/: the given rows (photo_id, business_id, label) with the stored JPEG.

    Returns:
        Number of photos.
    """
    writer = RowWriter(work / "photos.arrow", PHOTO, batch=128)
    for row in rows:
        photo_id = row["photo_id"]
        writer.add({**row, "sha256": store.index[photo_id].sha256, "jpeg": store.read(photo_id)})
    photos = writer.dataset()
    with _quiet():
        photos.save_to_disk(str(folder / "photos"), num_shards=None if len(photos) else 1)
    return len(photos)


def save_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write a small table of strings."""
    pq.write_table(pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns])), path)


def save_schema(folder: Path, schema: Schema) -> None:
    """Write schema.yaml, which ``Schema.from_yaml`` reads."""
    write_text(folder / "schema.yaml", schema.to_yaml())
