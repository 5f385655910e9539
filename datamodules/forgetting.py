"""A person in the prepared folders: found by the raw or the hashed id, and removed from every table of each folder."""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.captions import FILE as CAPTIONS
from datamodules.captions import SHARDS, UNMATCHED
from datamodules.card import balance, dataset_card
from datamodules.destination import left_behind
from datamodules.files import sha256_of
from datamodules.prepared import locked, read_manifest
from datamodules.pseudonyms import Pseudonyms
from datamodules.text_only import FILE as TEXT_ONLY
from datamodules.text_only import label_balance, read_labels
from mmprofile.erasing import Change, Person, changes_in, searched, without_rows
from mmprofile.errors import UserError
from mmprofile.files import read_json, whole, write_json, write_text
from mmprofile.inputs.views import SPLITS
from mmprofile.paths import cache_dir
from mmprofile.profile.schema import Profile, Schema

GOLD = "gold_text_only.parquet"


@dataclass
class Holding:
    """What a prepared folder has of a person.

    Attributes:
        folder: its path.
        manifest: what ``manifest.json`` says.
        splits: split -> the ids of its users.
        split: the person's; None where there is no row left of them.
        photos: ids of photos that nobody else's reviews use.
        contents: SHA-256 of these, as far as no other photo has the same.
    """

    folder: Path
    manifest: dict[str, Any]
    splits: dict[str, set[str]] = field(default_factory=dict)
    split: str | None = None
    photos: set[str] = field(default_factory=set)
    contents: set[str] = field(default_factory=set)


class PreparedFolders:
    """The prepared folders of the cache, and others.

    Args:
        user: raw or hashed id.
        folders: that are not in the cache.

    Attributes:
        person: what they are found by, in other files, too.
        holdings: of the folders that have something of the person.
    """

    def __init__(self, user: str, folders: Sequence[str]) -> None:
        known = [Pseudonyms.of(kind, make=False) for kind in ("custom", "demo")]
        self.person = Person(user, hashed=lambda raw: {name for names in known for name in names.every_version(raw)})
        self.person.names |= self.person.hashed(user)
        inside = cache_dir() / "prepared"
        stored = (path.parent for path in (cache_dir() / "remote").rglob("manifest.json"))  # copies of object stores
        self.looked = [
            *(inside.iterdir() if inside.is_dir() else ()),
            *stored,
            *(Path(f).expanduser() for f in folders),
        ]
        readable = [(folder, manifest) for folder in self.looked if (manifest := read_manifest(folder)) is not None]
        self.holdings: list[Holding] = []
        for folder, manifest in sorted(readable, key=lambda pair: pair[0]):
            with searched(folder):
                holding = self._look_into(folder, manifest)
            if holding is not None:
                self.holdings.append(holding)

    def _look_into(self, folder: Path, manifest: dict[str, Any]) -> Holding | None:
        holding, used = Holding(folder, manifest), set[str]()
        for split in SPLITS:
            holding.splits[split] = set()
            for table in itertools.chain(*map(_batches, _shards(folder / split))):
                for i, user in enumerate(table["user_id"].to_pylist()):
                    holding.splits[split].add(user)
                    if user == self.person.raw or user in self.person.names:
                        self._take(holding, split, table.slice(i, 1).to_pylist()[0])
                    else:
                        used.update(*table["reviews"][i].values.field("photo_ids").to_pylist())
        rows = [_without_jpeg(table) for table in itertools.chain(*map(_batches, _shards(folder / "photos")))]
        photos = [row for part in rows for row in part.to_pylist()]
        holding.photos = {row["photo_id"] for row in photos} - used
        kept = {row["sha256"] for row in photos if row["photo_id"] in used}
        holding.contents = {row["sha256"] for row in photos} - kept
        self.person.names |= holding.photos | holding.contents
        tables = any(_rows_of(folder / name, self.person) for name in (TEXT_ONLY, GOLD))
        counts = {split: len(users) for split, users in holding.splits.items()}
        killed = counts != manifest["splits"]  # before the manifest was written
        return holding if holding.split or holding.photos or tables or killed else None

    def _take(self, holding: Holding, split: str, row: dict[str, Any]) -> None:
        """Remember the person's row."""
        holding.split = split
        public = holding.manifest["config"]["source"]["kind"] == "demo"
        self.person.names |= {row["user_id"]} | (set() if public else {r["review_id"] for r in row["reviews"]})
        self.person.texts |= {review["text"] for review in row["reviews"]}

    def check(self) -> None:
        """Refuse to change what others read or write.

        Raises:
            UserError: names the folder.
        """
        for folder in self.looked:
            if left_behind(folder) is False:
                raise UserError(f"{folder} is being prepared: forget the person when that has ended")
        with self.locked():
            pass

    def locked(self) -> ExitStack:
        """Return the locks of all folders that will change.

        Raises:
            UserError: one is in use.
        """
        with ExitStack() as stack:
            for holding in self.holdings:
                lock = locked(holding.folder, exclusive=True)
                if lock is None and (holding.folder / ".fingerprint").is_file():
                    raise UserError(
                        f"{holding.folder} is in use: forget the person when the command that reads it has ended"
                    )
                if lock is not None:
                    stack.enter_context(lock)
            return stack.pop_all()

    def changes(self) -> Iterator[Change]:
        """Yield what has to be done, in an order in which a killed command can be run again."""
        for holding in self.holdings:
            yield from _changes(holding, self.person)
        for folder in self.looked:
            if left_behind(folder):
                yield Change(folder, "what a killed preparation left", partial(_remove_tree, folder))

    @property
    def sources(self) -> set[str]:
        """The raw files that the person was read from, by name."""
        return {str(file["name"]) for holding in self.holdings for file in holding.manifest["sources"]}


def _changes(holding: Holding, person: Person) -> Iterator[Change]:
    folder = holding.folder

    def people(user: str) -> bool:
        return user == person.raw or user in person.names

    for split in SPLITS:
        yield from _arrow_changes(folder / split, "user_id", people)
    for name in (TEXT_ONLY, GOLD):
        if (folder / name).is_file() and (change := without_rows(folder / name, "user_id", people)):
            yield change
    for path in (folder / CAPTIONS, *sorted((folder / SHARDS).glob("*.parquet"))):
        if path.is_file() and (change := without_rows(path, "sha256", holding.contents.__contains__)):
            yield change
    if (folder / UNMATCHED).is_file():
        yield from changes_in([folder / UNMATCHED], person)
    yield from _arrow_changes(folder / "photos", "photo_id", holding.photos.__contains__)
    yield Change(
        folder / "manifest.json", "the person in its counts, and in those of the card", partial(_recount, holding)
    )


def _recount(holding: Holding) -> None:
    """Write the counts of what is left into manifest and card."""
    folder, manifest = holding.folder, holding.manifest
    schema, profiles, splits = Schema.from_yaml(folder / "schema.yaml"), dict[str, Profile](), dict[str, list[str]]()
    for split in SPLITS:
        rows = [row for path in _shards(folder / split) for table in _batches(path) for row in _labels(table)]
        splits[split] = [user for user, _ in rows]
        profiles |= {
            user: {name: tuple(values) for name, values in labels.items() if values is not None}
            for user, labels in rows
        }
    before = sum(manifest["splits"].values())
    manifest["splits"] = {split: len(users) for split, users in splits.items()}
    manifest["labels"]["balance"] = balance(schema, profiles, splits)
    manifest["photos"]["stored"] = sum(len(table) for path in _shards(folder / "photos") for table in _batches(path))
    manifest["forgotten"] = manifest.get("forgotten", 0) + before - len(profiles)
    if "text_only" in manifest:
        about = manifest["text_only"]
        labels = read_labels(folder)
        about |= {"sha256": sha256_of(folder / TEXT_ONLY), "users": len(profiles)}
        about["balance"] = label_balance(labels, [*profiles], Schema.from_dict(about["schema"]))
    write_text(folder / "README.md", dataset_card(schema, manifest))
    write_json(folder / "manifest.json", manifest, ensure_ascii=False)


def _labels(table: pa.Table) -> Iterator[tuple[str, dict[str, list[str] | None]]]:
    yield from zip(table["user_id"].to_pylist(), table["profile"].to_pylist(), strict=True)


def _arrow_changes(folder: Path, column: str, gone: Callable[[str], bool]) -> Iterator[Change]:
    for path in _shards(folder):
        ids = [name for table in _batches(path) for name in table[column].to_pylist()]
        if count := sum(map(gone, ids)):
            yield Change(path, f"{count} of {len(ids)} rows", partial(_rewrite, path, column, gone))


def _rewrite(path: Path, column: str, gone: Callable[[str], bool]) -> None:
    """Write a shard without some rows, and the state beside it, by which the library names what it derives from it."""
    with whole(path) as draft, pa.memory_map(str(path)) as source, pa.OSFile(str(draft), "wb") as sink:
        reader = pa.ipc.open_stream(source)
        with pa.ipc.new_stream(sink, reader.schema) as writer:
            for batch in reader:
                keep = pa.array([not gone(name) for name in batch[column].to_pylist()])
                writer.write_batch(batch.filter(keep))
    state = read_json(path.parent / "state.json")
    write_json(path.parent / "state.json", state | {"_fingerprint": sha256_of(path)[:16]})


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("data-*.arrow"))


def _batches(path: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as source:
        for batch in pa.ipc.open_stream(source):
            yield pa.Table.from_batches([batch])


def _without_jpeg(table: pa.Table) -> pa.Table:
    return table.select(["photo_id", "sha256"])


def _rows_of(path: Path, person: Person) -> bool:
    if not path.is_file():
        return False
    users = pq.read_table(path, columns=["user_id"])["user_id"].to_pylist()
    return any(user in person.names or user == person.raw for user in users)


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder)
