"""A user's own data (``data=custom``): reviews as JSONL or Parquet, photos as paths, optionally labels.

Reviews: ``user_id``, ``text``, and optionally ``review_id``, ``business_id``, ``stars``, ``date``, ``photos`` (paths).
Photos, where the reviews do not name them: ``path``, and the ``review_id`` or ``business_id`` it belongs to.
Labels: ``user_id`` and one column per attribute of the schema, a value or a list of values; null is no label. ``Unknown`` is a
label if the schema allows it, and else none.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.engine import Engine
from datamodules.files import SourceFile
from datamodules.labels import Labels
from datamodules.options import CustomSource
from datamodules.yelp import REVIEW_COLUMNS, Tables, json_lines, well_formed, word_count
from mmprofile.errors import UserError, nearest
from mmprofile.profile.schema import UNKNOWN, Attribute, Profile, Schema

REQUIRED = ("user_id", "text")
PHOTO_COLUMNS = {"path": "VARCHAR", "review_id": "VARCHAR", "business_id": "VARCHAR"}
_TYPES: dict[str, dt.DataType] = {"VARCHAR": dt.string, "DOUBLE": dt.float64, "VARCHAR[]": dt.Array(dt.string)}
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


class RawCustom:
    """The files of ``data=custom``.

    Raises:
        UserError: a file or folder is not there, or has another ending than .jsonl, .ndjson, .json or .parquet.
    """

    def __init__(self, source: CustomSource) -> None:
        self.reviews = _existing(source.reviews, "reviews")
        self.label_file = _existing(source.labels, "labels") if source.labels else None
        self.photo_file = _existing(source.photos, "photos") if source.photos else None
        self.photo_root = Path(source.photo_root).expanduser() if source.photo_root else self.reviews.parent
        if not self.photo_root.is_dir():
            raise UserError(f"data.prepare.source.photo_root: {self.photo_root} is not a folder")
        self._paths: dict[str, Path] = {}

    @property
    def sources(self) -> list[SourceFile]:
        """Return the files of reviews, photos and labels."""
        return [SourceFile.of(path) for path in (self.reviews, self.photo_file, self.label_file) if path is not None]

    def stamps(self) -> list[Any]:
        """Return the sizes and times of the sources."""
        return [*(source.stamp for source in self.sources), self.photo_root.stat().st_mtime_ns]

    def tables(self, engine: Engine, work: Path, keys: dict[str, str]) -> Tables:
        """Return the reviews, and a photo row for every photo that a review names.

        Raises:
            UserError: ``user_id`` or ``text`` is missing from the file, or from more than 1 % of its lines.
        """
        notes: dict[str, Any] = {}
        lines = _read(engine, self.reviews, REVIEW_COLUMNS | {"photos": "VARCHAR[]"}, REQUIRED)
        rows = well_formed(engine.table("review_lines", lines), self.reviews, REQUIRED, notes)
        rows = rows.mutate(
            business_id=rows.business_id.fill_null(""), date=rows.date.fill_null(""), words=word_count(rows.text)
        )
        # A review without an id is named by its place in the sorted table, whatever the order of the lines.
        place = ibis.row_number().over(
            order_by=[rows[name] for name in ("user_id", "date", "text", "business_id", "stars")]
        )
        rows = rows.mutate(review_id=ibis.coalesce(rows.review_id, "row-" + place.cast("string").lpad(9, "0")))
        reviews = engine.table("reviews", rows.mutate(photo_key=rows.review_id))
        named = reviews.select("review_id", "business_id", path=reviews.photos.unnest()).drop_null("path")
        if self.photo_file is not None:
            named = named.union(self._listed(engine, reviews, notes))
        photos = engine.table("photo_rows", self._photo_rows(named.distinct(), notes))
        full = reviews.drop("photos")
        return Tables(reviews=full.drop("text", "date"), full=full, photos=photos, notes=notes)

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
        """Return photo_id (a hash of the path), photo_key, business_id and label; remember where each photo lies."""
        rows = named.to_pyarrow().to_pylist()
        ids = {row["path"]: hashlib.sha256(row["path"].encode()).hexdigest()[:22] for row in rows}
        self._paths = {ids[path]: self.photo_root / Path(path).expanduser() for path in ids}
        notes["photo_rows"] = len(rows)
        columns = {
            "photo_id": [ids[row["path"]] for row in rows],
            "photo_key": [row["review_id"] for row in rows],
            "business_id": [row["business_id"] for row in rows],
            "label": [""] * len(rows),
        }
        return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))

    def photos(self, ids: set[str]) -> Iterator[tuple[str, bytes | Path]]:
        """Yield photo ids and paths; a missing file is noticed when it is opened."""
        for photo_id in sorted(ids):
            yield photo_id, self._paths[photo_id]

    def where(self) -> str:
        """Return where photos are looked for, for an error message."""
        return f"{self.photo_root} (data.prepare.source.photo_root)"

    def labels(self, schema: Schema) -> tuple[Labels, set[str]]:
        """Return raw user id -> labels of the labels file, and the attributes that it has a column for.

        Raises:
            UserError: a column is no attribute or a value is not one of the schema's; names the nearest.
        """
        if self.label_file is None:
            return {}, set()
        labels: Labels = {}
        columns: set[str] = set()
        for number, row in _label_rows(self.label_file):
            where = f"{self.label_file}, row {number}"
            if isinstance(row, str) or row.get("user_id") is None:
                raise UserError(f"{where}: {row if isinstance(row, str) else 'no user_id'}")
            user = str(row.pop("user_id"))
            if user in labels:
                raise UserError(f"{where}: user {user!r} has a row already")
            profile: Profile = {}
            for name, value in row.items():
                if name.lower() not in {known.lower() for known in schema.names}:
                    raise UserError(
                        f"{where}: {name!r} is no attribute of the profile schema{nearest(name, schema.names)}"
                    )
                attribute = schema[name]
                columns.add(attribute.name)
                values = _values(attribute, value, where)
                if values is not None:
                    profile[attribute.name] = values
            labels[user] = profile
        return labels, columns


def _read(engine: Engine, path: Path, columns: dict[str, str], required: tuple[str, ...]) -> ir.Table:
    """Read a JSONL or Parquet file with the given columns; a column that it lacks is null."""
    if path.suffix.lower() != ".parquet":
        return engine.read_json(path, columns)
    try:
        table = engine.read_parquet(path)
    except Exception as error:
        # Each engine has its own exception for a file that is not Parquet.
        raise UserError(f"{path} cannot be read as Parquet ({error})") from error
    absent = [name for name in required if name not in table.columns]
    if absent:
        raise UserError(f"{path} has no column {absent[0]!r}; it has: {', '.join(table.columns)}")
    types = {name: _TYPES[kind] for name, kind in columns.items()}
    return table.select(
        **{name: table[name].cast(kind) if name in table.columns else ibis.null(kind) for name, kind in types.items()}
    )


def _existing(name: str, key: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"data.prepare.source.{key}: {path} is not there or no file")
    if path.suffix.lower() not in (*JSON_ENDINGS, ".parquet"):
        raise UserError(f"data.prepare.source.{key}: {path.name} should end in {', '.join(JSON_ENDINGS)} or .parquet")
    return path


def _label_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if path.suffix.lower() != ".parquet":
        yield from json_lines(path)
        return
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error})") from error
    yield from enumerate(rows, start=1)


def _values(attribute: Attribute, value: Any, where: str) -> tuple[str, ...] | None:
    """Return the values of a label, () for Unknown; None where it is no label."""
    items = value if isinstance(value, list) else [value]
    spelled = {known.lower(): known for known in attribute.values}
    values, unknown = list[str](), False
    for item in items:
        if item is None or str(item).strip().lower() == UNKNOWN.lower():
            unknown |= item is not None
            continue
        text = str(int(item)) if isinstance(item, float) and item.is_integer() else str(item).strip()
        if text.lower() not in spelled:
            raise UserError(
                f"{where}: {text!r} is no value of {attribute.name}{nearest(text, attribute.values)}; "
                f"values: {', '.join(attribute.values)}"
            )
        values.append(spelled[text.lower()])
    if not values:
        return () if unknown and attribute.unknown else None
    if len(set(values)) != attribute.size:
        raise UserError(
            f"{where}: {attribute.name} needs {attribute.size} different value(s), not {len(values)}: {values}"
        )
    return attribute.canonical(values)
