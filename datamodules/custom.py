"""A user's own data (``data=custom``): reviews as JSONL or Parquet, photos as paths, optionally labels.

Reviews: ``user_id``, ``text``, and optionally ``review_id``, ``business_id``, ``stars``, ``date``, ``photos`` (paths), and
columns that label rules read. Businesses: ``business_id`` and columns that label rules read.
Photos, where the reviews do not name them: ``path``, and the ``review_id`` or ``business_id`` it belongs to.
Labels: ``user_id`` and one column per attribute of the schema, a value or a list of values; null is no label. ``Unknown`` is a
label if the schema allows it, and else none.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa

from datamodules.columns import check_columns, parquet_schema, text_columns, with_sources
from datamodules.engine import Engine
from datamodules.files import SourceFile
from datamodules.label_file import GivenLabels, read_labels
from datamodules.options import CustomSource
from datamodules.photos import Given
from datamodules.pseudonyms import Pseudonyms
from datamodules.rules import Columns, columns_of
from datamodules.yelp import LOOKED_AT, REVIEW_COLUMNS, Tables, columns_in, json_lines, no_photos, well_formed
from mmprofile.errors import UserError
from mmprofile.profile.schema import Schema
from mmprofile.remote import Mirror, RemoteFile, RemoteFolder, is_url

REQUIRED = ("user_id", "text")
PHOTO_COLUMNS = {"path": "VARCHAR", "review_id": "VARCHAR", "business_id": "VARCHAR"}
_TYPES: dict[str, dt.DataType] = {"VARCHAR": dt.string, "DOUBLE": dt.float64, "VARCHAR[]": dt.Array(dt.string)}
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


class RawCustom:
    """The files of ``data=custom``.

    Args:
        source: where they lie.
        names: what stands for the photos' paths.
        photos: whether photos are read.

    Raises:
        UserError: a file or folder is not there, or has another ending than .jsonl, .ndjson, .json or .parquet.
    """

    def __init__(self, source: CustomSource, names: Pseudonyms, photos: bool = True) -> None:
        self._names, self._with_photos = names, photos
        self.reviews = existing_file(source.reviews, "reviews")
        self.label_file = existing_file(source.labels, "labels") if source.labels else None
        self.photo_file = existing_file(source.photos, "photos") if source.photos and photos else None
        self.business_file = existing_file(source.businesses, "businesses") if source.businesses else None
        self.photo_root = self._photo_root(source)
        if isinstance(self.photo_root, Path) and not self.photo_root.is_dir():
            raise UserError(f"data.prepare.source.photo_root: {self.photo_root} is not a folder")
        self._paths: dict[str, Path | RemoteFile] = {}

    def _photo_root(self, source: CustomSource) -> Path | RemoteFolder:
        """Return the folder that photos lie in; by default that of the reviews."""
        root = source.photo_root or (source.reviews.rpartition("/")[0] if is_url(source.reviews) else None)
        if is_url(root) and self._with_photos:
            return RemoteFolder.of(str(root))
        return Path(root).expanduser() if root and not is_url(root) else self.reviews.parent

    @property
    def sources(self) -> list[SourceFile]:
        """Return the files of reviews, photos, labels and businesses."""
        paths = (self.reviews, self.photo_file, self.label_file, self.business_file)
        return [SourceFile.of(path) for path in paths if path is not None]

    def stamps(self) -> list[Any]:
        """Return the sizes and times of the sources, and a hash of those of the photos that they name."""
        return [*(source.stamp for source in self.sources), stamp_of(self.photo_root, self._named_photos())]

    @property
    def has_photos(self) -> bool:
        """Return whether the files name photos, which may be missing or damaged."""
        return bool(self._named_photos())

    def _named_photos(self) -> tuple[str, ...]:
        """Return the paths in the files."""
        if not self._with_photos:
            return ()
        return named_photos(SourceFile.of(self.reviews), self.photo_file and SourceFile.of(self.photo_file))

    def tables(self, engine: Engine, work: Path, columns: Columns) -> Tables:
        """Return the reviews with a photo row for every photo that a review names, and the businesses.

        Raises:
            UserError: ``user_id`` or ``text`` is missing from the file, or from more than 1 % of its lines, or a column that
                a rule reads cannot be read.
        """
        notes: dict[str, Any] = {}
        sources, known = columns_of(columns, "review"), REVIEW_COLUMNS | {"photos": "VARCHAR[]"}
        lines = _read(engine, self.reviews, known, REQUIRED, sources)
        rows = well_formed(engine.table("review_lines", lines), self.reviews, REQUIRED, notes)
        if sources:
            notes["columns"] = check_columns(engine, rows, sources, self.reviews, columns_in(self.reviews))
        businesses = self._businesses(engine, columns_of(columns, "business"), notes)
        rows = rows.mutate(
            business_id=rows.business_id.fill_null(""), date=rows.date.fill_null(""), words=engine.words(rows.text)
        )
        # A review without an id is named by its place in the sorted table, whatever the order of the lines.
        place = ibis.row_number().over(
            order_by=[rows[name] for name in ("user_id", "date", "text", "business_id", "stars")]
        )
        rows = rows.mutate(review_id=ibis.coalesce(rows.review_id, "row-" + place.cast("string").lpad(9, "0")))
        reviews = engine.table("reviews", rows.mutate(photo_key=rows.review_id))
        photos = self._photos_of(engine, reviews, notes) if self._with_photos else no_photos(engine)
        full = reviews.drop("photos")
        return Tables(reviews=full.drop("text", "date"), full=full, photos=photos, businesses=businesses, notes=notes)

    def _photos_of(self, engine: Engine, reviews: ir.Table, notes: dict[str, Any]) -> ir.Table:
        """Return the photos that the reviews or the photos file name."""
        named = reviews.select("review_id", "business_id", path=reviews.photos.unnest()).drop_null("path")
        if self.photo_file is not None:
            named = named.union(self._listed(engine, reviews, notes))
        return engine.table("photo_rows", self._photo_rows(named.distinct(), notes))

    def _businesses(self, engine: Engine, sources: Columns, notes: dict[str, Any]) -> ir.Table | None:
        """Return business_id and a column for each source; of several rows with one id the first in alphabetical order."""
        path = self.business_file
        if path is None:
            return None
        read = _read(engine, path, {"business_id": "VARCHAR"}, ("business_id",), sources)
        rows = well_formed(engine.table("business_lines", read), path, ("business_id",), notes)
        notes["columns"] = notes.get("columns", {}) | check_columns(engine, rows, sources, path, columns_in(path))
        order = ibis.row_number().over(group_by=rows.business_id, order_by=[rows[name] for name in sources])
        businesses = engine.table("businesses", rows.mutate(copy=order).filter(ibis._.copy == 0).drop("copy"))
        notes["repeated_businesses"] = int(rows.count().execute()) - int(businesses.count().execute())
        return businesses

    def _listed(self, engine: Engine, reviews: ir.Table, notes: dict[str, Any]) -> ir.Table:
        """Return review_id, business_id and path of the photos file: by review where it names one, else by business."""
        assert self.photo_file is not None
        lines = engine.table("listed_photos", _read(engine, self.photo_file, PHOTO_COLUMNS, ("path",)))
        listed = well_formed(lines, self.photo_file, ("path",), notes)
        ids = reviews.select("review_id", "business_id")
        columns = ("review_id", "business_id", "path")
        by_review = ids.inner_join(listed.drop("business_id"), "review_id").select(*columns)
        of_business = listed.filter(listed.review_id.isnull()).drop("review_id")
        return by_review.union(ids.inner_join(of_business, "business_id").select(*columns))

    def _photo_rows(self, named: ir.Table, notes: dict[str, Any]) -> pa.Table:
        """Return photo_id (a keyed hash of the path), photo_key, business_id and label; remember where each photo lies."""
        rows = named.to_pyarrow().to_pylist()
        ids = {row["path"]: self._names.photo(row["path"]) for row in rows}
        places = ((path, self._place(path)) for path in ids)
        self._paths = {ids[path]: place for path, place in places if place is not None}
        notes["photo_rows"] = len(rows)
        columns = {
            "photo_id": [ids[row["path"]] for row in rows],
            "photo_key": [row["review_id"] for row in rows],
            "business_id": [row["business_id"] for row in rows],
            "label": [""] * len(rows),
        }
        return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))

    def _place(self, path: str) -> Path | RemoteFile | None:
        """Return where a photo lies; None outside the folder of photos."""
        root = self.photo_root
        if isinstance(root, RemoteFolder):
            return root / path if path in root.stamps else None
        return inside(root, path)

    def photos(self, ids: set[str]) -> Iterator[Given]:
        """Yield photo ids and paths; a missing file is noticed when it is opened."""
        for photo_id in sorted(ids & self._paths.keys()):
            yield photo_id, self._paths[photo_id]

    def where(self) -> str:
        """Return where photos are looked for, for an error message."""
        return f"{self.photo_root} (data.prepare.source.photo_root)"

    def labels(self, schema: Schema, people: set[str]) -> GivenLabels:
        """Return the labels of the labels file; see :func:`datamodules.label_file.read_labels`."""
        return GivenLabels() if self.label_file is None else read_labels(self.label_file, schema, people)


def _read(
    engine: Engine, path: Path, columns: dict[str, str], required: tuple[str, ...], sources: Columns | None = None
) -> ir.Table:
    """Read the given columns of a JSONL or Parquet file, and those of label rules; a column that it lacks is null."""
    sources = sources or {}
    if path.suffix.lower() != ".parquet":
        table = engine.read_json(path, text_columns(sources, columns))
        return with_sources(table, sources, tuple(columns))
    try:
        table = engine.read_parquet(path)
    except Exception as error:
        # Each engine has its own exception for a file that is not Parquet.
        raise UserError(f"{path} cannot be read as Parquet ({error})") from error
    absent = [name for name in required if name not in table.columns]
    if absent:
        raise UserError(f"{path} has no column {absent[0]!r}; it has: {', '.join(table.columns)}")
    wanted = {name: _TYPES[kind] for name, kind in text_columns(sources, columns).items()}
    # No engine makes a list of another type; where there are no lists, the column is empty (_check_photo_lists).
    absent = [
        name
        for name, kind in wanted.items()
        if name not in table.columns or _is_list(kind) > _is_list(table[name].type())
    ]
    table = table.mutate(**{name: ibis.null(wanted[name]) for name in absent})
    kinds = {name: table[name].cast(wanted[name]) for name in columns}
    return with_sources(table.mutate(**kinds), sources, tuple(columns))


def _is_list(kind: dt.DataType) -> bool:
    return isinstance(kind, dt.Array)


@lru_cache(maxsize=1)  # a command asks several times, and an unchanged file need not be read again
def named_photos(reviews: SourceFile, photos: SourceFile | None) -> tuple[str, ...]:
    """Return the paths of photos that the reviews and a photos file name, sorted.

    Raises:
        UserError: a file cannot be read, or its photos are no lists.
    """
    with tempfile.TemporaryDirectory() as work:
        engine = Engine(Path(work))
        try:
            lines = _read(engine, reviews.path, {"photos": "VARCHAR[]"}, ())
            _check_photo_lists(reviews.path)
            paths = lines.select(path=lines.photos.unnest())
            if photos is not None:
                paths = paths.union(_read(engine, photos.path, PHOTO_COLUMNS, ("path",)).select("path"))
            return tuple(sorted(row["path"] for row in engine.rows(paths.drop_null("path").distinct())))
        finally:
            engine.close()


def inside(root: Path, path: str) -> Path | None:
    """Return where a photo lies, which whoever wrote the files says; None outside the folder, where nothing is looked at.

    Args:
        root: the folder of photos.
        path: relative to it, or absolute.
    """
    try:
        top, place = os.path.realpath(root), os.path.realpath(os.path.join(root, os.path.expanduser(path)))
    except ValueError:  # a NUL in a path
        return None
    return Path(place) if place.startswith(os.path.join(top, "")) else None


def stamp_of(root: Path | RemoteFolder, paths: Iterable[str]) -> str:
    """Return a hash of the sizes and times of files, which tells whether one of them has changed or is gone."""
    digest = hashlib.sha256()
    for path in paths:  # no Path: there may be a million of them
        if isinstance(root, RemoteFolder):
            digest.update(f"{path}\0{root.stamps.get(path)}\0".encode())
            continue
        try:
            place = inside(root, path)
            found = None if place is None else os.stat(place)
            stamp = "missing" if found is None else f"{found.st_size} {found.st_mtime_ns}"
        except OSError:
            stamp = "missing"
        digest.update(f"{path}\0{stamp}\0".encode())
    return digest.hexdigest()


def existing_file(name: str, key: str) -> Path:
    """Return the path of a file of ``data.prepare.source``.

    Raises:
        UserError: it is not there, or has another ending than .jsonl, .ndjson, .json or .parquet.
    """
    path = Mirror(name).fetch() if is_url(name) else Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"data.prepare.source.{key}: {path} is not there or no file")
    if path.suffix.lower() not in (*JSON_ENDINGS, ".parquet"):
        raise UserError(f"data.prepare.source.{key}: {path.name} should end in {', '.join(JSON_ENDINGS)} or .parquet")
    return path


def _check_photo_lists(path: Path) -> None:
    """Refuse photos that are a text: the reader of a file would take it for no photos.

    Raises:
        UserError: names the line, or the column.
    """
    if path.suffix.lower() == ".parquet":
        columns = parquet_schema(path)
        kind = columns.field("photos").type if "photos" in columns.names else None
        fitting = (pa.types.is_list, pa.types.is_large_list, pa.types.is_null)
        if kind is not None and not any(fits(kind) for fits in fitting):
            raise UserError(f"{path}: the column photos holds {kind}: it should hold a list of paths")
        return
    for number, row in islice(json_lines(path), LOOKED_AT):
        photos = row.get("photos") if isinstance(row, dict) else None
        if photos is not None and not isinstance(photos, list):
            given = json.dumps(photos, ensure_ascii=False)[:60]
            raise UserError(
                f'{path}, line {number}: photos is {given}: give a list of paths, as in "photos": ["a.jpg"]'
            )
