"""Raw files -> prepared folder: the whole of it, from the readers to the dataset card.

Work happens in ``<folder>.tmp-<pid>`` beside the folder and is renamed at the end, so that a prepared folder is either
complete or absent. Same inputs and options give the same bytes.
"""

import contextlib
import errno
import hashlib
import importlib
import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import duckdb
import ibis.expr.types as ir
import pyarrow as pa

from datamodules import prepared as out
from datamodules.card import balance, dataset_card, versions
from datamodules.custom import RawCustom
from datamodules.engine import Engine
from datamodules.files import SourceFile
from datamodules.labels import Labels, check_rules, derive
from datamodules.options import SPLITS, CustomSource, DemoSource, Options, YelpSource, plain
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
from mmprofile.paths import cache_dir
from mmprofile.profile.schema import Schema

__all__ = ["Prepared", "open_prepared", "prepare"]


class Raw(Protocol):
    """Raw data of any kind: a Yelp folder or archive, or a user's own files."""

    @property
    def sources(self) -> list[SourceFile]: ...
    def stamps(self) -> list[Any]: ...
    def tables(self, engine: Engine, work: Path, keys: dict[str, str]) -> Tables: ...
    def labels(self, schema: Schema) -> tuple[Labels, set[str]]: ...
    def photos(self, ids: set[str]) -> Iterator[tuple[str, bytes | Path]]: ...
    def where(self) -> str: ...


def prepare(
    source: Mapping[str, Any],
    selection: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    photos: Mapping[str, Any] | None = None,
    engine: str = "duckdb",
    folder: str | Path | None = None,
    schema: Schema | Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Prepares a data set, or finds it prepared already.

    Args:
        source, selection, split, photos, engine: see ``conf/data/*.yaml`` and ``datamodules.options``.
        folder: where to put it; None: a folder of the cache named by what went in.
        schema: the profile schema, or its plain data.
        progress: whether steps are shown on stderr.

    Returns:
        The prepared folder; open it with :func:`open_prepared`.

    Raises:
        UserError: anything wrong with the options, the raw files or the disk.
    """
    try:
        options = Options.checked(source, selection, split, photos, engine)
        if schema is None:
            raise UserError("prepare needs a profile schema: give schema=, for example conf/profile/yelp.yaml")
        profile = schema if isinstance(schema, Schema) else Schema.from_dict(plain(schema, "schema"))
        return Preparation(
            options, profile, None if folder is None else Path(folder).expanduser().absolute(), Progress(progress)
        ).run()
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
    """One run of :func:`prepare`."""

    def __init__(self, options: Options, schema: Schema, folder: Path | None, progress: Progress) -> None:
        self.options, self.schema, self.progress = options, schema, progress
        self.columns = check_rules(schema)
        self.raw: Raw | None = None
        if isinstance(options.source, YelpSource):
            given = options.source.path
            self.raw = RawYelp(
                [Path(str(path)).expanduser() for path in (given if isinstance(given, list) else [given])]
            )
        elif isinstance(options.source, CustomSource):
            self.raw = RawCustom(options.source)
        self.key = user_key(options.source.kind)
        self.identity = self._identity()
        self.fingerprint = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = f"{options.source.kind}-{self.fingerprint[:12]}"
        self.folder = folder or cache_dir() / "prepared" / name
        self.funnel = Funnel()

    def _identity(self) -> dict[str, Any]:
        """Everything the result depends on."""
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

    def run(self) -> Path:
        if self._is_there():
            self.progress.say(f"using prepared data in {self.folder}")
            return self.folder
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        draft = self.folder.with_name(f"{self.folder.name}.tmp-{os.getpid()}")
        work, result = draft / "work", draft / "result"
        work.mkdir(parents=True)
        result.mkdir()
        (draft / "host").write_text(socket.gethostname())
        try:
            self._fill(result, work)
            try:
                result.rename(self.folder)
            except OSError:
                if not self._is_there():  # otherwise another process was faster, with the same result
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.progress.say(f"{self.funnel.table()}\nprepared data are in {self.folder}")
        return self.folder

    def _is_there(self) -> bool:
        """Whether the folder holds this very data set.

        Raises:
            UserError: it holds something else.
        """
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return False
        manifest = out.read_manifest(self.folder) if self.folder.is_dir() else None
        if manifest is None:
            raise UserError(f"{self.folder} exists and is no prepared data set: choose another data.prepare.folder")
        held = self.folder / ".fingerprint"
        if held.is_file() and held.read_text() == self.fingerprint:
            return True
        raise UserError(
            f"{self.folder} holds data prepared differently ({self._difference(manifest)}): "
            "remove it or choose another data.prepare.folder"
        )

    def _difference(self, manifest: dict[str, Any]) -> str:
        def flat(value: Any, name: str = "") -> dict[str, Any]:
            if not isinstance(value, dict):
                return {name: value}
            return {
                key: item
                for part, inner in value.items()
                for key, item in flat(inner, f"{name}.{part}".strip(".")).items()
            }

        if manifest.get("format_version") != FORMAT_VERSION:
            return f"format version {manifest.get('format_version')}, now {FORMAT_VERSION}"
        there, here = flat(manifest.get("config", {})), flat(self.options.to_dict())
        changed = [
            f"{key} was {there.get(key)}, now {here.get(key)}"
            for key in sorted({*there, *here})
            if there.get(key) != here.get(key)
        ]
        if changed:
            return "; ".join(changed)
        if manifest.get("schema") != self.schema.to_dict():
            return "another profile schema"
        if manifest.get("user_key") != self.identity["key"]:
            return "another key for user ids"
        return "the source files have changed"

    def _fill(self, result: Path, work: Path) -> None:
        source, show = self.options.source, self.progress
        raw, raw_folder = self.raw, work / "raw"
        if isinstance(source, DemoSource):
            write_city = importlib.import_module("datamodules.demo").write_city
            raw_folder.mkdir()
            show.say(f"prepare: building the demo city of {source.users:,} users ...")
            write_city(raw_folder, users=source.users, seed=source.seed, progress=show.shown)
            raw = RawYelp([raw_folder])
        assert raw is not None
        files = raw.sources
        engine = Engine(work)
        try:
            tables, reviews = self.select(raw, engine, work)
            wanted = wanted_photos(reviews, tables.photos)
            with PhotoStore(work / "photos.bin") as store:
                photo_counts = process_all(raw.photos(set(wanted)), set(wanted), store, self.options.photos, show)
                if wanted and not store.index:
                    found = ", ".join(f"{name} {count}" for name, count in photo_counts.items() if count)
                    raise UserError(f"not one photo is usable ({found}): looked in {raw.where()}")
                usable = _usable(engine, tables, store)
                kept, labels, label_notes, splits = self.label(raw, engine, tables, reviews, usable)
                with show.step("writing the prepared data"):
                    totals, shown = self.write_users(result, work, engine, (tables, kept, usable), labels, splits)
                    photo_counts["stored"] = out.save_photos(result, work, store, shown)
        finally:
            engine.close()
        if any(SourceFile.of(file.path) != file for file in files):  # reviews are read twice
            raise UserError(f"the raw files changed while they were read: run the same command again ({raw.where()})")
        names = {user: hashed_id(self.key, user) for user in itertools.chain(*splits.values())}
        copied = copy_sidecars(raw_folder, result, names)
        with show.step("hashing the source files"):
            sources = [file.describe() for file in raw.sources]
        manifest = self._manifest(sources, tables, photo_counts, label_notes, splits, totals) | copied
        out.save_schema(result, self.schema)
        out.save_json(result / "manifest.json", manifest)
        out.save_text(result / "README.md", dataset_card(self.schema, manifest))
        out.save_text(result / ".fingerprint", self.fingerprint)
        if isinstance(source, DemoSource) and source.keep_raw:
            raw_folder.rename(result / "raw")

    def select(self, raw: Raw, engine: Engine, work: Path) -> tuple[Tables, ir.Table]:
        """The raw tables, and the reviews of users who stay if every photo row has a photo."""
        with self.progress.step("reading reviews, businesses and photo rows"):
            tables = raw.tables(engine, work, self.columns)
        with self.progress.step("selecting users"):
            return tables, candidates(engine, tables, self.options.selection, self.funnel)

    def label(
        self, raw: Raw, engine: Engine, tables: Tables, reviews: ir.Table, usable: ir.Table
    ) -> tuple[ir.Table, Labels, dict[str, Any], dict[str, list[str]]]:
        """The kept reviews, labels, what to note about them, and the splits of the users whose labels are known.

        Args:
            reviews: as :meth:`select` gives.
            usable: the photo rows whose photo can be used.
        """
        with self.progress.step("deriving labels"):
            kept = with_usable_photos(engine, reviews, usable, self.options.selection, self.funnel)
            return kept, *self._labels(raw, tables, kept, engine)

    def _labels(
        self, raw: Raw, tables: Tables, kept: ir.Table, engine: Engine
    ) -> tuple[Labels, dict[str, Any], dict[str, list[str]]]:
        labels = derive(self.schema, kept, tables.businesses, engine)
        labels.add_file(*raw.labels(self.schema))
        people = {row["user_id"] for row in engine.rows(kept.select("user_id").distinct())}
        known, unknown = labels.complete(people)
        self.funnel.add("users whose required labels are all known", len(known))
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
            "balance": balance(self.schema, profiles, splits),
        }
        return profiles, notes, splits

    def write_users(
        self,
        result: Path,
        work: Path,
        engine: Engine,
        tables: tuple[Tables, ir.Table, ir.Table],
        labels: Labels,
        splits: dict[str, list[str]],
    ) -> tuple[dict[str, int], list[dict[str, str]]]:
        """The splits.

        Args:
            tables: the raw tables, the kept reviews, and the photo rows that can be used.

        Returns:
            Totals: reviews, words, and photos counted once per user; and the rows of the photos that the reviews use.
        """
        raw, kept, usable = tables
        order = [user for users in splits.values() for user in users]
        place = pa.table(
            {"user_id": order, "place": range(len(order))},
            schema=pa.schema([("user_id", pa.string()), ("place", pa.int64())]),
        )
        rows = engine.table("rows", kept.inner_join(engine.table("users", place), "user_id"))
        totals = totals_of(engine, rows, usable)
        about: dict[str, dict[str, str]] = {}
        for row in engine.rows(usable.semi_join(rows, "photo_key").order_by("photo_id", "photo_key")):
            row.pop("photo_key")
            about.setdefault(row["photo_id"], row)
        found = full_rows(rows, raw.full, usable).order_by("place", "date", "review_id")
        reviews = out.Sorted(engine.stream(found))
        schema = out.user_schema(self.schema)
        writers = {name: out.RowWriter(work / f"{name}.arrow", schema) for name in SPLITS}
        end = 0
        for name, users in splits.items():
            for some in (users[start : start + out.BATCH] for start in range(0, len(users), out.BATCH)):
                first, end = end, end + len(some)
                hashed = [hashed_id(self.key, user) for user in some]
                profiles = [labels[user] for user in some]
                writers[name].write(out.user_rows(reviews.until(end), first, hashed, profiles, schema))
        out.save_splits(result, {name: writer.dataset(name) for name, writer in writers.items()})
        return totals, list(about.values())

    def _manifest(
        self,
        sources: list[dict[str, Any]],
        tables: Tables,
        photo_counts: dict[str, int],
        label_notes: dict[str, Any],
        splits: dict[str, list[str]],
        totals: dict[str, int],
    ) -> dict[str, Any]:
        users = sum(map(len, splits.values()))
        return {
            "format_version": FORMAT_VERSION,
            "config": self.options.to_dict(),
            "schema": self.schema.to_dict(),
            "sources": sources,
            "user_key": self.identity["key"],
            "steps": self.funnel.steps,
            "photos": photo_counts,
            "splits": {name: len(members) for name, members in splits.items()},
            "averages": {
                "reviews_per_user": totals["reviews"] / users,
                "photos_per_user": totals["user_photos"] / users,
                "words_per_review": totals["words"] / totals["reviews"],
            },
            "labels": label_notes,
            "notes": tables.notes,
            "versions": versions(),
        }


def _usable(engine: Engine, tables: Tables, store: PhotoStore) -> Any:
    """The photo rows whose photo is in the store."""
    ids = pa.table({"photo_id": sorted(store.index)}, schema=pa.schema([("photo_id", pa.string())]))
    return engine.table("usable", tables.photos.semi_join(engine.table("stored", ids), "photo_id"))


def remove_leftovers(folder: Path) -> None:
    """Removes the drafts that killed runs on this machine have left beside ``folder``."""
    for draft in folder.parent.glob(f"{folder.name}.tmp-*"):
        pid = draft.name.rsplit("-", 1)[-1]
        with contextlib.suppress(OSError):
            host = (draft / "host").read_text() if (draft / "host").is_file() else socket.gethostname()
            if pid.isdigit() and host == socket.gethostname() and (int(pid) == os.getpid() or not _alive(int(pid))):
                shutil.rmtree(draft, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
