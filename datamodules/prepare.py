"""Raw files -> prepared folder, from the readers to the dataset card.

The folder is complete or absent (:mod:`datamodules.destination`). The same inputs and options give the same bytes, but for
``.origin``, a hash of where the raw files lie.
"""

import hashlib
import importlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import ibis.expr.types as ir
import pyarrow as pa
from omegaconf import OmegaConf

from datamodules import prepared as out
from datamodules.bins import binned, check_numbers, fewer_bins
from datamodules.card import balance, dataset_card, versions
from datamodules.columns import lines
from datamodules.destination import EARLIER, Destination, fingerprint_of
from datamodules.engine import Engine
from datamodules.engines import open_engine
from datamodules.faults import explained
from datamodules.files import SourceFile
from datamodules.generator import generator_hashes
from datamodules.label_file import GivenLabels
from datamodules.labels import Derived, derive
from datamodules.options import ON_THIS_MACHINE, DemoSource, Options
from datamodules.photos import PhotoStore, process_all
from datamodules.prepared import FORMAT_VERSION, Prepared, open_prepared
from datamodules.progress import Progress
from datamodules.pseudonyms import Pseudonyms
from datamodules.raw import RawYelp
from datamodules.retention import check_retention, keep_retention, retention_facts
from datamodules.rules import check_rules
from datamodules.selection import (
    Funnel,
    candidates,
    only_some,
    split_users,
    too_many,
    wanted_photos,
    with_usable_photos,
)
from datamodules.sidecars import copy_sidecars
from datamodules.sources import Raw, raw_files
from datamodules.users import Dataset, Totals, write_users
from datamodules.yelp import Tables
from mmprofile.errors import UserError, counted
from mmprofile.files import write_json, write_text
from mmprofile.paths import cache_dir
from mmprofile.profile.schema import Schema
from mmprofile.remote import Mirror, is_url

__all__ = ["Prepared", "open_prepared", "prepare"]


class Look(NamedTuple):
    """What is known of a data set before it is prepared.

    Attributes:
        folder: where it is or would be.
        photos: whether it has photos; whether they can be used is not known yet.
        captions: whether its photos come with captions.
    """

    folder: Path
    photos: bool
    captions: bool


@overload
def prepare(
    source: Mapping[str, Any],
    selection: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    photos: Mapping[str, Any] | None = None,
    engine: str = "duckdb",
    folder: str | Path | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
    progress: bool = True,
    retention: Any = None,
    look: Literal[False] = False,
) -> Path: ...
@overload
def prepare(
    source: Mapping[str, Any],
    selection: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    photos: Mapping[str, Any] | None = None,
    engine: str = "duckdb",
    folder: str | Path | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
    progress: bool = True,
    retention: Any = None,
    *,
    look: Literal[True],
) -> Look: ...
def prepare(
    source: Mapping[str, Any],
    selection: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    photos: Mapping[str, Any] | None = None,
    engine: str = "duckdb",
    folder: str | Path | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
    progress: bool = True,
    retention: Any = None,
    look: bool = False,
) -> Path | Look:
    """Prepare a data set, unless it is prepared already.

    Args:
        source, selection, split, photos, engine: see ``conf/data/*.yaml`` and ``datamodules.options``.
        folder: where to put it; None: a folder of the cache, named by everything the result depends on. Of a URL there is a
            copy in the cache, which is the folder returned.
        schema: the profile schema, or its plain data.
        progress: whether steps are shown on stderr.
        retention: for how many days from their preparation the data may be kept, or until which date; None: nothing is said.
        look: True prepares and writes nothing.

    Returns:
        The prepared folder; open it with :func:`open_prepared`. With ``look`` what is known without preparing.

    Raises:
        UserError: the options are wrong, or the raw files or the disk have a problem.
    """
    with explained():
        options = Options.checked(source, selection, split, photos, engine)
        if schema is None:
            raise UserError("prepare needs a profile schema: give schema=, for example conf/profile/yelp.yaml")
        if not isinstance(schema, Schema):
            schema = Schema.from_config(schema) if OmegaConf.is_config(schema) else Schema.from_dict(dict(schema))
        mirror = Mirror(str(folder)) if is_url(folder) else None
        path = (
            mirror.fetch(needed=False) if mirror else None if folder is None else Path(folder).expanduser().absolute()
        )
        kept_for = check_retention(retention)
        preparation = Preparation(options, schema, path, Progress(progress), make_key=not look, retention=kept_for)
        if look:
            return preparation.look()
        path = preparation.run()
        if mirror:
            mirror.send()
        return path


class Preparation:
    """One run of :func:`prepare`.

    Args:
        options: checked.
        schema: the profile schema.
        folder: where to put the data; None: a folder of the cache.
        progress: shows the steps.
        make_key: whether to make a key for user ids where there is none.
        retention: as :func:`datamodules.retention.check_retention` returns it.
    """

    def __init__(
        self,
        options: Options,
        schema: Schema,
        folder: Path | None,
        progress: Progress,
        make_key: bool = True,
        retention: int | date | None = None,
    ) -> None:
        self.options, self.schema, self.progress, self.retention = options, schema, progress, retention
        self.columns = check_rules(schema)
        self.names = Pseudonyms.of(options.source.kind, make_key)
        self.raw = raw_files(options, self.names)
        identity = self._identity()
        self.destination = Destination(folder or self._in_cache(identity), identity)
        self.funnel = Funnel()

    def _in_cache(self, identity: Mapping[str, Any]) -> Path:
        return cache_dir() / "prepared" / f"{self.options.source.kind}-{fingerprint_of(identity)[:12]}"

    @property
    def earlier(self) -> Path | None:
        """Return where an earlier version, which hashed by the key as it is, put these data; None for the demo city."""
        if self.names.public:
            return None
        return self._in_cache({**self.destination.identity, "key": self.names.earlier_fingerprint})

    def _identity(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        if self.raw is not None:
            inputs: Any = self.raw.stamps()
        else:  # the demo is what its generator makes, so a changed generator is another source
            assert isinstance(self.options.source, DemoSource)
            inputs = generator_hashes(self.options.source.indirect)
        return {
            "format_version": FORMAT_VERSION,
            "config": self.options.to_dict(),
            "schema": self.schema.to_dict(),
            "inputs": inputs,
            "key": self.names.fingerprint,
        }

    @property
    def origin(self) -> str:
        """Return a hash of where the raw data lie, which tells changed files from other ones."""
        values = [value for key, value in asdict(self.options.source).items() if key in ON_THIS_MACHINE]
        paths = [path for value in values for path in (value if isinstance(value, list) else [value])]
        places = [str(Path(path).expanduser().absolute()) for path in paths if isinstance(path, str)]
        return hashlib.sha256(json.dumps([self.options.source.kind, *places]).encode()).hexdigest()

    def look(self) -> Look:
        """Return where the data are or would be, and what they have.

        Raises:
            UserError: it holds something else, or raw files are missing.
        """
        if not self.destination.is_there() and isinstance(self.raw, RawYelp):
            self.raw.check()
        photos = self.options.photos.read if self.raw is None else self.raw.has_photos
        return Look(self.destination.folder, photos, photos and self.raw is None)

    def run(self) -> Path:
        """Return the prepared folder, prepared now if it is not there yet."""
        folder = self.destination.folder
        if self.destination.is_there():
            self.progress.say(f"using prepared data in {folder}")
            keep_retention(folder, self.retention)
            return folder
        if self.earlier is not None and self.earlier.is_dir():
            self.progress.say(f"{self.earlier} was prepared by {EARLIER}: preparing once more; remove the older folder")
        self.destination.write(self._fill)
        self.progress.say(f"{self.funnel.table()}\nprepared data are in {folder}")
        return folder

    def _fill(self, result: Path, work: Path) -> None:
        """Write the whole prepared folder to ``result``; temporary files go to ``work``."""
        raw, raw_folder = self._open_raw(work)
        files = raw.sources
        engine = open_engine(self.options.engine, work)
        try:
            tables, reviews = self.select(raw, engine, work)
            given = raw.labels(self.schema, _people(engine, reviews))
            silent = self._without_source(given, tables.businesses is not None)
            for line in [*lines(tables.notes), *given.lines(self.schema), *silent]:
                self.progress.say(f"prepare: labels: {line}")
            check_numbers(self.schema, given.columns)
            reviews = self.foresee(given, engine, tables, reviews)
            wanted = wanted_photos(reviews, tables.photos)
            with PhotoStore(work / "photos.bin") as store:
                photos = raw.photos(set(wanted))
                photo_counts = process_all(
                    photos, set(wanted), store, self.options.photos, self.progress, engine.photos
                )
                if wanted and not store.index:
                    counts = ", ".join(f"{name} {count}" for name, count in photo_counts.items() if count)
                    raise UserError(f"not one photo is usable ({counts}): looked in {raw.where()}")
                data = self.label(given, engine, tables, reviews, _usable(engine, tables, store))
                with self.progress.step("writing the prepared data"):
                    totals, photo_rows = write_users(result, work, engine, data, self.schema, self.names)
                    photo_counts["stored"] = out.save_photos(result, work, store, photo_rows)
        finally:
            engine.close()
        if any(SourceFile.of(file.path) != file for file in files):  # reviews are read twice
            raise UserError(f"the raw files changed while they were read: run the same command again ({raw.where()})")
        names = {user: self.names.user(user) for user in itertools.chain(*data.splits.values())}
        sidecars = copy_sidecars(raw_folder, result, names)
        with self.progress.step("hashing the source files"):
            sources = [file.describe() for file in raw.sources]
        manifest = self._manifest(sources=sources, photo_counts=photo_counts, data=data, totals=totals) | sidecars
        out.save_schema(result, data.schema)
        write_json(result / "manifest.json", manifest, ensure_ascii=False)
        write_text(result / "README.md", dataset_card(data.schema, manifest))
        write_text(result / ".fingerprint", self.destination.fingerprint)
        write_text(result / ".origin", self.origin)
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
        write_city(folder, users=source.users, seed=source.seed, progress=self.progress.shown, indirect=source.indirect)
        return RawYelp([folder], self.options.photos.read), folder

    def select(self, raw: Raw, engine: Engine, work: Path) -> tuple[Tables, ir.Table]:
        """Return the raw tables, and the reviews of the users who stay if every photo row has a photo."""
        with self.progress.step("reading reviews, businesses and photo rows"):
            tables = raw.tables(engine, work, self.columns)
        with self.progress.step("selecting users"):
            return tables, candidates(engine, tables, self.options.selection, self.funnel)

    def foresee(self, given: GivenLabels, engine: Engine, tables: Tables, reviews: ir.Table) -> ir.Table:
        """Return the reviews whose photos are worth reading: those of ``source.users`` users with labels, if it is set.

        Reviews that lose their photos give nobody a label more, but where a mean moves into the schema's values.

        Args:
            given, engine, tables, reviews: as for :meth:`label`.

        Raises:
            UserError: whichever photos are usable, too few users have labels.
        """
        source, labels = self.options.source, derive(self.schema, reviews, tables.businesses, engine)
        labels.add_file(given.labels, given.columns)
        people = _people(engine, reviews)
        possible, _ = self._labelled(labels, people, foresee=True)
        self.funnel.steps.pop()  # counted again with the photos that are usable
        if source.users is None or isinstance(source, DemoSource):
            return reviews
        known, _ = labels.labelled(people, self.options.selection.min_labels)
        seed = self.options.split.seed
        first = [*self.names.shuffled(known, seed), *self.names.shuffled(possible - known, seed)]
        return only_some(engine, reviews, first[: source.users], self.funnel)

    def _labelled(self, labels: Derived, people: set[str], foresee: bool = False) -> tuple[set[str], dict[str, int]]:
        """Return the users with enough labels, and attribute -> the number of users without a label of it.

        Args:
            labels, people, foresee: as for :meth:`Derived.labelled`.

        Raises:
            UserError: there are none, or fewer than the split asks for.
        """
        least, split = self.options.selection.min_labels, self.options.split
        known, unlabelled = labels.labelled(people, least, foresee)
        enough = "whose required labels are all known" if least is None else f"with {least} or more labels"
        self.funnel.add(f"users {enough}", len(known))
        self.funnel.check()
        if split.asked > len(known):
            self.progress.say(self.funnel.table())
            name, count = max(unlabelled.items(), key=itemgetter(1), default=("", 0))
            lacking = f"; {name}: {count:,} of {counted(len(people), 'user')} have no label" if count else ""
            raise too_many(split, len(known), lacking)
        return known, unlabelled

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
            known, unknown = self._labelled(labels, _people(engine, reviews))
            splits = split_users(sorted(known), self.options.split, self.names)
            self.funnel.add("users in a split", sum(map(len, splits.values())))
            cuts = labels.cut(splits["train"])
            schema, profiles = binned(self.schema, labels.profiles(known), splits["train"])
        for line in filter(None, map(fewer_bins, self.schema.attributes, schema.attributes)):
            self.progress.say(f"prepare: labels: {line}")
        notes = {
            "derived": sorted(labels.derived),
            "from_file": sorted(labels.from_file),
            "unknown": unknown,
            "cuts": cuts,
            **({"file": given.notes()} if given.rows else {}),
            "balance": balance(schema, profiles, splits),
        }
        return Dataset(
            tables=tables, reviews=reviews, usable=usable, schema=schema, labels=profiles, notes=notes, splits=splits
        )

    def _without_source(self, given: GivenLabels, businesses: bool) -> list[str]:
        """Return a line on the attributes that neither a rule nor the file can say anything about."""
        silent = [
            attribute.name
            for attribute in self.schema.attributes
            if attribute.name not in given.columns
            and (attribute.rule is None or (not businesses and str(attribute.rule["source"]).startswith("business.")))
        ]
        return (
            [f"there are none of {', '.join(silent)}: a training refuses attributes without labels"] if silent else []
        )

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
            "versions": versions(self.options.engine),
            **retention_facts(self.retention, date.today()),
        }


def _people(engine: Engine, reviews: ir.Table) -> set[str]:
    """Return the raw ids of the users who have reviews."""
    return {row["user_id"] for row in engine.rows(reviews.select("user_id").distinct())}


def _usable(engine: Engine, tables: Tables, store: PhotoStore) -> ir.Table:
    """Return the photo rows whose photo is in the store."""
    ids = pa.table({"photo_id": sorted(store.index)}, schema=pa.schema([("photo_id", pa.string())]))
    return engine.table("usable", tables.photos.semi_join(engine.table("stored", ids), "photo_id"))
