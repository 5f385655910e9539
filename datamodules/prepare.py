"""Raw files -> prepared folder, from the readers to the dataset card.

The folder is complete or absent (:mod:`datamodules.destination`). The same inputs and options give the same bytes.
"""

import errno
import hashlib
import importlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import ibis.expr.types as ir
import pyarrow as pa
from omegaconf import OmegaConf

from datamodules import prepared as out
from datamodules.card import balance, dataset_card, versions
from datamodules.custom import RawCustom
from datamodules.destination import Destination, fingerprint_of
from datamodules.engine import Engine
from datamodules.files import SourceFile
from datamodules.label_file import GivenLabels
from datamodules.labels import Labels, check_rules, derive
from datamodules.options import CustomSource, DemoSource, Options, YelpSource
from datamodules.photos import PhotoStore, process_all
from datamodules.prepared import FORMAT_VERSION, Prepared, open_prepared
from datamodules.progress import Progress
from datamodules.raw import RawYelp
from datamodules.selection import (
    Funnel,
    candidates,
    full_rows,
    hashed_id,
    split_users,
    totals_of,
    user_key,
    wanted_photos,
    with_usable_photos,
)
from datamodules.sidecars import copy_sidecars
from datamodules.yelp import Tables
from mmprofile.errors import UserError
from mmprofile.files import write_json, write_text
from mmprofile.inputs.views import SPLITS
from mmprofile.paths import cache_dir
from mmprofile.profile.schema import Schema

__all__ = ["Prepared", "open_prepared", "prepare"]


class Raw(Protocol):
    """Raw data of any kind: a Yelp folder or archive, or a user's own files."""

    @property
    def sources(self) -> list[SourceFile]: ...
    def stamps(self) -> list[Any]: ...
    def tables(self, engine: Engine, work: Path, keys: dict[str, str]) -> Tables: ...
    def labels(self, schema: Schema, people: set[str]) -> GivenLabels: ...
    def photos(self, ids: set[str]) -> Iterator[tuple[str, bytes | Path]]: ...
    def where(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """The users who stay, before they are written.

    Attributes:
        tables: the raw tables.
        reviews: the reviews that stay.
        usable: the photo rows whose photo can be used.
        labels: raw user id -> profile.
        notes: what the manifest says of the labels.
        splits: split -> raw user ids, in order.
    """

    tables: Tables
    reviews: ir.Table
    usable: ir.Table
    labels: Labels
    notes: dict[str, Any]
    splits: dict[str, list[str]]


@dataclass(frozen=True)
class Totals:
    """Counts for the manifest; photos are counted once per user."""

    reviews: int
    words: int
    user_photos: int


def prepare(
    source: Mapping[str, Any],
    selection: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    photos: Mapping[str, Any] | None = None,
    engine: str = "duckdb",
    folder: str | Path | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
    progress: bool = True,
    look: bool = False,
) -> Path:
    """Prepare a data set, unless it is prepared already.

    Args:
        source, selection, split, photos, engine: see ``conf/data/*.yaml`` and ``datamodules.options``.
        folder: where to put it; None: a folder of the cache, named by everything the result depends on.
        schema: the profile schema, or its plain data.
        progress: whether steps are shown on stderr.
        look: True prepares and writes nothing.

    Returns:
        The prepared folder; open it with :func:`open_prepared`. With ``look`` it may not be there yet.

    Raises:
        UserError: the options are wrong, or the raw files or the disk have a problem.
    """
    try:
        options = Options.checked(source, selection, split, photos, engine)
        if schema is None:
            raise UserError("prepare needs a profile schema: give schema=, for example conf/profile/yelp.yaml")
        if not isinstance(schema, Schema):
            schema = Schema.from_config(schema) if OmegaConf.is_config(schema) else Schema.from_dict(dict(schema))
        path = None if folder is None else Path(folder).expanduser().absolute()
        preparation = Preparation(options, schema, path, Progress(progress), make_key=not look)
        return preparation.look() if look else preparation.run()
    except OSError as error:
        raise _disk_error(error) from error
    except duckdb.InvalidInputException as error:
        raise UserError(f"the raw data cannot be read: {_first_line(error)}: get the file again") from error
    except duckdb.Error as error:
        advice = "check free disk space and memory, then run the same command again"
        raise UserError(f"the database engine stopped: {_first_line(error)}: {advice}") from error


def _first_line(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0]  # what follows is the query or general advice


def _disk_error(error: OSError) -> UserError:
    advice = {
        errno.ENOSPC: "free some space or choose another data.prepare.folder",
        errno.EROFS: "choose another data.prepare.folder or set MMPROFILE_CACHE",
        errno.EACCES: "choose another data.prepare.folder or set MMPROFILE_CACHE",
    }.get(error.errno or 0, "check the path and the disk")
    return UserError(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}: {advice}")


class Preparation:
    """One run of :func:`prepare`.

    Args:
        options: checked.
        schema: the profile schema.
        folder: where to put the data; None: a folder of the cache.
        progress: shows the steps.
        make_key: whether to make a key for user ids where there is none.
    """

    def __init__(
        self, options: Options, schema: Schema, folder: Path | None, progress: Progress, make_key: bool = True
    ) -> None:
        self.options, self.schema, self.progress = options, schema, progress
        self.columns = check_rules(schema)
        self.raw = _raw_files(options)
        self.key = user_key(options.source.kind, make_key)
        identity = self._identity()
        name = f"{options.source.kind}-{fingerprint_of(identity)[:12]}"
        self.destination = Destination(folder or cache_dir() / "prepared" / name, identity)
        self.funnel = Funnel()

    def _identity(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        if self.raw is not None:
            inputs: Any = self.raw.stamps()
        else:  # the demo is what its generator makes, so a changed generator is another source
            package = Path(importlib.import_module("datamodules.demo").__file__ or "").parent
            inputs = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(package.rglob("*.py"))]
        return {
            "format_version": FORMAT_VERSION,
            "config": self.options.to_dict(),
            "schema": self.schema.to_dict(),
            "inputs": inputs,
            "key": hashed_id(self.key, "key"),
        }

    def look(self) -> Path:
        """Return the prepared folder, which may not be there yet.

        Raises:
            UserError: it holds something else, or raw files are missing.
        """
        if not self.destination.is_there() and isinstance(self.raw, RawYelp):
            self.raw.check()
        return self.destination.folder

    def run(self) -> Path:
        """Return the prepared folder, prepared now if it is not there yet."""
        folder = self.destination.folder
        if self.destination.is_there():
            self.progress.say(f"using prepared data in {folder}")
            return folder
        self.destination.write(self._fill)
        self.progress.say(f"{self.funnel.table()}\nprepared data are in {folder}")
        return folder

    def _fill(self, result: Path, work: Path) -> None:
        """Write the whole prepared folder to ``result``; temporary files go to ``work``."""
        raw, raw_folder = self._open_raw(work)
        files = raw.sources
        engine = Engine(work)
        try:
            tables, reviews = self.select(raw, engine, work)
            given = raw.labels(self.schema, _people(engine, reviews))
            for line in [*given.lines(self.schema), *self._without_source(given)]:
                self.progress.say(f"prepare: labels: {line}")
            wanted = wanted_photos(reviews, tables.photos)
            with PhotoStore(work / "photos.bin") as store:
                photos = raw.photos(set(wanted))
                photo_counts = process_all(photos, set(wanted), store, self.options.photos, self.progress)
                if wanted and not store.index:
                    counts = ", ".join(f"{name} {count}" for name, count in photo_counts.items() if count)
                    raise UserError(f"not one photo is usable ({counts}): looked in {raw.where()}")
                data = self.label(given, engine, tables, reviews, _usable(engine, tables, store))
                with self.progress.step("writing the prepared data"):
                    totals, photo_rows = self.write_users(result, work, engine, data)
                    photo_counts["stored"] = out.save_photos(result, work, store, photo_rows)
        finally:
            engine.close()
        if any(SourceFile.of(file.path) != file for file in files):  # reviews are read twice
            raise UserError(f"the raw files changed while they were read: run the same command again ({raw.where()})")
        names = {user: hashed_id(self.key, user) for user in itertools.chain(*data.splits.values())}
        sidecars = copy_sidecars(raw_folder, result, names)
        with self.progress.step("hashing the source files"):
            sources = [file.describe() for file in raw.sources]
        manifest = self._manifest(sources=sources, photo_counts=photo_counts, data=data, totals=totals) | sidecars
        out.save_schema(result, self.schema)
        write_json(result / "manifest.json", manifest, ensure_ascii=False)
        write_text(result / "README.md", dataset_card(self.schema, manifest))
        write_text(result / ".fingerprint", self.destination.fingerprint)
        if isinstance(self.options.source, DemoSource) and self.options.source.keep_raw:
            raw_folder.rename(result / "raw")

    def _open_raw(self, work: Path) -> tuple[Raw, Path]:
        """Return the raw data, and the folder of a generated city, which is made now."""
        source, folder = self.options.source, work / "raw"
        if not isinstance(source, DemoSource):
            assert self.raw is not None
            return self.raw, folder
        write_city = importlib.import_module("datamodules.demo").write_city
        folder.mkdir()
        self.progress.say(f"prepare: building the demo city of {source.users:,} users ...")
        write_city(folder, users=source.users, seed=source.seed, progress=self.progress.shown)
        return RawYelp([folder]), folder

    def select(self, raw: Raw, engine: Engine, work: Path) -> tuple[Tables, ir.Table]:
        """Return the raw tables, and the reviews of the users who stay if every photo row has a photo."""
        with self.progress.step("reading reviews, businesses and photo rows"):
            tables = raw.tables(engine, work, self.columns)
        with self.progress.step("selecting users"):
            return tables, candidates(engine, tables, self.options.selection, self.funnel)

    def label(self, given: GivenLabels, engine: Engine, tables: Tables, reviews: ir.Table, usable: ir.Table) -> Dataset:
        """Derive the labels, and split the users whose labels are known.

        Args:
            given: labels of a file.
            engine: runs the queries.
            tables: as :meth:`select` returns them.
            reviews: likewise.
            usable: the photo rows whose photo can be used.
        """
        with self.progress.step("deriving labels"):
            reviews = with_usable_photos(engine, reviews, usable, self.options.selection, self.funnel)
            labels = derive(self.schema, reviews, tables.businesses, engine)
            labels.add_file(given.labels, given.columns)
            least = self.options.selection.min_labels
            known, unknown = labels.labelled(_people(engine, reviews), least)
            enough = "whose required labels are all known" if least is None else f"with {least} or more labels"
            self.funnel.add(f"users {enough}", len(known))
            self.funnel.check()
            splits = split_users(sorted(known), self.options.split)
            self.funnel.add("users in a split", sum(map(len, splits.values())))
            cuts = labels.cut(splits["train"])
            profiles = labels.profiles(known)
        notes = {
            "derived": sorted(labels.derived),
            "from_file": sorted(labels.from_file),
            "unknown": unknown,
            "cuts": cuts,
            **({"file": given.notes()} if given.rows else {}),
            "balance": balance(self.schema, profiles, splits),
        }
        return Dataset(tables=tables, reviews=reviews, usable=usable, labels=profiles, notes=notes, splits=splits)

    def _without_source(self, given: GivenLabels) -> list[str]:
        """Return a line on the attributes that neither a rule nor the file can say anything about."""
        businesses = not isinstance(self.options.source, CustomSource)
        silent = [
            attribute.name
            for attribute in self.schema.attributes
            if attribute.name not in given.columns
            and (attribute.rule is None or (not businesses and str(attribute.rule["source"]).startswith("business.")))
        ]
        return (
            [f"there are none of {', '.join(silent)}: a training refuses attributes without labels"] if silent else []
        )

    def write_users(
        self, result: Path, work: Path, engine: Engine, data: Dataset
    ) -> tuple[Totals, list[dict[str, str]]]:
        """Write the splits.

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
        schema = out.user_schema(self.schema)
        writers = {name: out.RowWriter(work / f"{name}.arrow", schema) for name in SPLITS}
        end = 0
        for name, users in data.splits.items():
            for batch in (users[start : start + out.BATCH] for start in range(0, len(users), out.BATCH)):
                first, end = end, end + len(batch)
                hashed = [hashed_id(self.key, user) for user in batch]
                profiles = [data.labels[user] for user in batch]
                writers[name].write(out.user_rows(reviews.until(end), first, hashed, profiles, schema))
        out.save_splits(result, {name: writer.dataset(name) for name, writer in writers.items()})
        return totals, list(photos.values())

    def _manifest(
        self, *, sources: list[dict[str, Any]], photo_counts: dict[str, int], data: Dataset, totals: Totals
    ) -> dict[str, Any]:
        users = sum(map(len, data.splits.values()))
        return {
            "format_version": FORMAT_VERSION,
            "config": self.options.to_dict(),
            "schema": self.schema.to_dict(),
            "sources": sources,
            "user_key": self.destination.identity["key"],
            "steps": self.funnel.steps,
            "photos": photo_counts,
            "splits": {name: len(members) for name, members in data.splits.items()},
            "averages": {
                "reviews_per_user": totals.reviews / users,
                "photos_per_user": totals.user_photos / users,
                "words_per_review": totals.words / totals.reviews,
            },
            "labels": data.notes,
            "notes": data.tables.notes,
            "versions": versions(),
        }


def _raw_files(options: Options) -> Raw | None:
    """Return the raw files; None for a city that is yet to be generated."""
    if isinstance(options.source, YelpSource):
        paths = options.source.path
        return RawYelp([Path(str(path)).expanduser() for path in (paths if isinstance(paths, list) else [paths])])
    if isinstance(options.source, CustomSource):
        return RawCustom(options.source)
    return None


def _people(engine: Engine, reviews: ir.Table) -> set[str]:
    """Return the raw ids of the users who have reviews."""
    return {row["user_id"] for row in engine.rows(reviews.select("user_id").distinct())}


def _usable(engine: Engine, tables: Tables, store: PhotoStore) -> ir.Table:
    """Return the photo rows whose photo is in the store."""
    ids = pa.table({"photo_id": sorted(store.index)}, schema=pa.schema([("photo_id", pa.string())]))
    return engine.table("usable", tables.photos.semi_join(engine.table("stored", ids), "photo_id"))
