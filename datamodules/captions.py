"""``captions.parquet`` of a prepared folder: what is captioned, what is left to do, the shards on the way, and imports.

A caption belongs to the content of a photo (its SHA-256), so that equal photos share one. Every row says what made it.
"""

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from datamodules.files import intact, sha256_of
from datamodules.prepared import BACKEND_COLUMNS, CAPTION_COLUMNS, open_prepared
from datamodules.pseudonyms import Pseudonyms
from datamodules.yelp import json_lines
from mmprofile.errors import UserError
from mmprofile.files import write_json_lines

FILE, SHARDS, UNMATCHED = "captions.parquet", "captions.partial", "captions.unmatched.jsonl"
SCHEMA = pa.schema([(name, pa.string()) for name in CAPTION_COLUMNS])
SAME = tuple(name for name in BACKEND_COLUMNS if name != "backend_version")
"""What captions made by the same thing have in common; its version is recorded, but a later one goes on with the file."""
EXISTING = ("refuse", "keep", "replace")
FLUSH_SECONDS = 60.0
ENDINGS = {".csv": "CSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON lines", ".parquet": "Parquet"}


class Photo(NamedTuple):
    """A photo to caption: its content's SHA-256 and the first of the ids that have it."""

    sha256: str
    photo_id: str


@dataclass
class Check:
    """The result of :meth:`Captions.verify`, as ids of photos.

    Attributes:
        photos: distinct photos of the data set.
        captioned: of them, those with a caption.
        missing: without a row.
        failed: with an error instead of a caption.
        orphaned: captions of photos that the data set does not have.
        changed: photos that had another content when they were captioned.
        damaged: photos whose bytes are not those that their SHA-256 was taken of.
        makers: what made the captions -> how many.
    """

    photos: int = 0
    captioned: int = 0
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    makers: Counter[str] = field(default_factory=Counter)

    @property
    def problems(self) -> dict[str, list[str]]:
        """Return the kinds of problems that there are, with the photos that have them."""
        names = "missing", "failed", "orphaned", "changed", "damaged"
        return {name: getattr(self, name) for name in names if getattr(self, name)}


@dataclass
class Imported:
    """The rows of an imported table, counted by what became of them.

    Attributes:
        rows: how many there were.
        report: where the unmatched are written.
        used: captions of photos that had none by this table.
        unmatched: rows of no photo of the data set.
        empty: rows without a caption.
        repeated: rows of a photo that has a caption from an earlier row.
    """

    rows: int
    report: Path
    used: int = 0
    unmatched: list[dict[str, Any]] = field(default_factory=list)
    empty: int = 0
    repeated: int = 0


class Captions:
    """The captions of a prepared folder.

    Args:
        folder: the prepared folder.

    Raises:
        UserError: it is none, or its captions cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.prepared = open_prepared(folder)
        self.folder = self.prepared.folder
        table = self.prepared.photos.data
        pairs = zip(table.column("sha256").to_pylist(), table.column("photo_id").to_pylist(), strict=True)
        self.photos: dict[str, str] = {}  # SHA-256 -> first photo id
        for sha256, photo_id in pairs:
            self.photos.setdefault(sha256, photo_id)

    def jpeg(self, photo_id: str) -> bytes:
        """Return a photo's file."""
        return self.prepared.jpeg(photo_id)

    def photo(self, photo_id: str) -> Photo:
        """Return a photo by one of its ids."""
        return Photo(self.prepared.photos[self.prepared.photo_index[photo_id]]["sha256"], photo_id)

    def todo(self, maker: Mapping[str, str], existing: str = "refuse", retry: bool = False) -> list[Photo]:
        """Return the photos that ``maker`` has still to caption.

        Args:
            maker: a text for each of ``BACKEND_COLUMNS``.
            existing: what becomes of captions by another maker: ``refuse`` them, ``keep`` them and caption the rest, or
                ``replace`` them.
            retry: caption once more what has failed.

        Raises:
            UserError: there are captions by another maker and they are refused.
        """
        done = set(self._kept(maker, existing, retry)["sha256"].to_pylist())
        return [Photo(sha256, photo_id) for sha256, photo_id in self.photos.items() if sha256 not in done]

    def shards(self, maker: Mapping[str, str], rank: int = 0, size: int = 512) -> "Shards":
        """Return the shards that hold the captions of one rank until :meth:`finish`."""
        return Shards(self.folder / SHARDS, maker, rank, size)

    def finish(self, maker: Mapping[str, str], existing: str = "refuse") -> Counter[str]:
        """Join the file and the shards into ``captions.parquet``, sorted by SHA-256, and remove the shards.

        Returns:
            Numbers of rows by status.

        Raises:
            UserError: the file cannot be written.
        """
        if not self._parts() and existing != "replace" and (self.folder / FILE).is_file():
            rows = read_captions(self.folder / FILE)
        else:
            rows = self._kept(maker, existing, False)
            place = {sha256: i for i, sha256 in enumerate(rows["sha256"].to_pylist())}  # the last one counts
            rows = rows.take([place[sha256] for sha256 in sorted(place)])
            _write(self.folder / FILE, rows)
        if (self.folder / SHARDS).is_dir():
            shutil.rmtree(self.folder / SHARDS)
        return Counter(rows["status"].to_pylist())

    def verify(self) -> Check:
        """Compare the captions with the data set.

        Raises:
            UserError: there are none.
        """
        if not (self.folder / FILE).is_file():
            raise UserError(f"{self.folder} has no {FILE}: nothing to verify; run python -m mmprofile.caption first")
        check = Check(photos=len(self.photos))
        rows = read_captions(self.folder / FILE)
        status = dict(zip(rows["sha256"].to_pylist(), rows["status"].to_pylist(), strict=True))
        for sha256, photo_id in self.photos.items():
            outcome = status.get(sha256)
            check.captioned += outcome == "ok"
            if outcome != "ok":
                (check.missing if outcome is None else check.failed).append(photo_id)
        now = dict(zip(self.prepared.photos.data.column("photo_id").to_pylist(), self._content_hashes(), strict=True))
        for sha256, photo_id in zip(rows["sha256"].to_pylist(), rows["photo_id"].to_pylist(), strict=True):
            if sha256 not in self.photos:
                (check.changed if photo_id in now else check.orphaned).append(photo_id)
        recorded = self.prepared.photos.data.column("sha256").to_pylist()
        check.damaged = [photo for (photo, content), sha in zip(now.items(), recorded, strict=True) if content != sha]
        check.makers.update(f"{row['backend']} {row['model'] or ''}".strip() for row in rows.to_pylist())
        return check

    def import_table(self, path: Path, existing: str = "refuse") -> tuple["Imported", Counter[str]]:
        """Import captions that were made elsewhere; rows of no photo are written to :data:`UNMATCHED`.

        Args:
            path: CSV, JSON lines or Parquet of ``caption``, and ``photo_id`` or ``path`` (as own data name it, or any path
                whose file name is the photo's id).
            existing: see :meth:`todo`.

        Returns:
            What became of the rows, and numbers of captions by status.

        Raises:
            UserError: the table cannot be read, or no row of it belongs to a photo of the data set.
        """
        rows = _read_rows(path)
        table = self.prepared.photos.data
        content = dict(zip(table.column("photo_id").to_pylist(), table.column("sha256").to_pylist(), strict=True))
        pseudonyms = Pseudonyms.of(self.prepared.manifest["config"]["source"]["kind"], make=False)
        texts, done = dict[str, str](), Imported(len(rows), self.folder / UNMATCHED)
        for row in rows:
            names = [row.get("photo_id")]
            if place := row.get("path"):
                names += [pseudonyms.photo(place), Path(place).stem]
            sha256 = next((content[name] for name in names if name in content), None)
            text = " ".join((row["caption"] or "").split())
            if sha256 is None:
                done.unmatched.append(row)
            elif not text:
                done.empty += 1
            elif sha256 in texts:
                done.repeated += 1
            else:
                texts[sha256] = text
        if not texts:
            raise UserError(f"path={path}: none of its {len(rows)} rows is a caption of a photo of {self.folder}")
        maker = dict.fromkeys(BACKEND_COLUMNS, "") | {
            "backend": "file", "model": path.name, "revision": sha256_of(path)[:16],
        }  # fmt: skip
        todo = self.todo(maker, existing)
        with self.shards(maker, size=len(texts)) as shards:
            for photo in todo:
                if photo.sha256 in texts:
                    shards.add(photo, texts[photo.sha256])
                    done.used += 1
        if done.unmatched:
            write_json_lines(done.report, done.unmatched)
        return done, self.finish(maker, existing)

    def _content_hashes(self) -> Iterator[str]:
        for batch in self.prepared.photos.data.column("jpeg").chunks:
            for jpeg in batch:
                yield hashlib.sha256(jpeg.as_buffer()).hexdigest()

    def _parts(self) -> list[Path]:
        return sorted((self.folder / SHARDS).glob("*.parquet"))

    def _kept(self, maker: Mapping[str, str], existing: str, retry: bool) -> pa.Table:
        """Return the rows of the file and of the shards that stay."""
        if existing not in EXISTING:
            raise UserError(f"existing={existing!r} is not one of {', '.join(EXISTING)}")
        paths = [path for path in (self.folder / FILE, *self._parts()) if path.is_file()]
        rows = pa.concat_tables([SCHEMA.empty_table(), *map(read_captions, paths)])
        same = pa.chunked_array([pa.array([True] * len(rows))]) if len(rows) else pa.chunked_array([], pa.bool_())
        for name in SAME:
            same = pc.and_(same, pc.equal(pc.fill_null(rows[name], ""), maker[name]))
        others = rows.filter(pc.invert(same))
        if len(others) and existing == "refuse":
            row = others.slice(0, 1).to_pylist()[0]
            differs = [
                f"{name} {row[name] or 'none'!r}, not {maker[name]!r}"
                for name in SAME
                if (row[name] or "") != maker[name]
            ]
            raise UserError(
                f"{self.folder} holds {len(others)} captions by something else ({'; '.join(differs[:3])}): give "
                "existing=replace to make them anew, or existing=keep to keep them and caption the rest"
            )
        if existing == "replace":
            rows = rows.filter(same)
        return rows.filter(pc.equal(rows["status"], "ok")) if retry else rows


class Shards:
    """Rows of one rank, written every ``size`` photos or :data:`FLUSH_SECONDS`: each shard whole or not at all.

    Use as a context manager: what is there is written at the end, also when something fails.
    """

    def __init__(self, folder: Path, maker: Mapping[str, str], rank: int, size: int) -> None:
        self.folder, self.maker, self.size = folder, maker, size
        self.name = f"rank{rank:05}"
        self.rows: list[dict[str, str | None]] = []
        self.written = time.monotonic()

    def add(self, photo: Photo, caption: str, error: str | None = None) -> None:
        """Add a row: a caption, or why there is none."""
        result = {"caption": caption, "status": "ok"} if error is None else {"status": "error", "error": error}
        self.rows.append({"sha256": photo.sha256, "photo_id": photo.photo_id, **result, **self.maker})
        if len(self.rows) >= self.size or time.monotonic() - self.written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write a shard.

        Raises:
            UserError: the disk is full, say.
        """
        if not self.rows:
            return
        last = max(
            (int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{self.name}-*.parquet")), default=0
        )
        _write(self.folder / f"{self.name}-{last + 1:06}.parquet", pa.Table.from_pylist(self.rows, SCHEMA))
        self.rows, self.written = [], time.monotonic()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def read_captions(path: Path) -> pa.Table:
    """Return a captions file; columns of a later version are null.

    Raises:
        UserError: it cannot be read.
    """
    with intact(path, "remove it and caption again"):
        table = pq.read_table(path)
        absent = pa.nulls(len(table), pa.string())
        columns = [table[name] if name in table.column_names else absent for name in SCHEMA.names]
        captions = pa.table(columns, schema=SCHEMA)
        captions.validate(full=True)  # texts that are no UTF-8
        return captions


def _write(path: Path, rows: pa.Table) -> None:
    """Write a captions file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            pq.write_table(rows, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): the captions written before it are kept; make room "
            "and run the same command again"
        ) from error


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table with ``caption`` and ``photo_id`` or ``path``: CSV, JSON lines or Parquet.

    Raises:
        UserError: it cannot be read, or lacks these columns.
    """
    kind = ENDINGS.get(path.suffix.lower())
    if not path.is_file() or kind is None:
        raise UserError(f"path={path}: " + ("no such file" if kind else f"should end in {', '.join(ENDINGS)}"))
    text = {name: pa.string() for name in ("photo_id", "path", "caption")}
    try:
        if kind == "CSV":
            table = pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(column_types=text))
        elif kind == "Parquet":
            table = pq.read_table(path)
        else:
            table = _json_table(path)
        names = [name for name in text if name in table.column_names]
        rows = table.select(names).cast(pa.schema([(name, pa.string()) for name in names])).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"path={path} cannot be read as {kind} ({error})") from error
    if "caption" not in table.column_names or not {"photo_id", "path"} & set(table.column_names):
        raise UserError(
            f"path={path} has the columns {', '.join(table.column_names)}; needed: caption, and photo_id or path"
        )
    return rows


def _json_table(path: Path) -> pa.Table:
    """Return the texts of JSON lines. Arrow's own reader ends the process where a line is null.

    Raises:
        ValueError: names a line that is no object, or has something else than texts and numbers.
    """
    rows: list[dict[str, str | None]] = []
    for number, row in json_lines(path):
        if isinstance(row, str):
            raise ValueError(f"line {number} is {row}")
        given = {name: row[name] for name in ("photo_id", "path", "caption") if name in row}
        if strange := [name for name, value in given.items() if not isinstance(value, str | int | float | None)]:
            raise ValueError(f"line {number}: {strange[0]} is no text")
        rows.append({name: None if value is None else str(value) for name, value in given.items()})
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})
