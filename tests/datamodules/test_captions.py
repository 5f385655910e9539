"""The captions file: who made what, shards, imports, and its agreement with the data set."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from datamodules.captions import Captions, Photo
from datamodules.prepare import prepare
from datamodules.prepared import open_prepared
from datamodules.pseudonyms import Pseudonyms
from mmprofile.errors import UserError
from tests.support.rawdata import jpeg, write_lines, yelp_schema

MAKER = {
    "backend": "transformers", "backend_version": "5", "model": "blip", "revision": "1", "prompt": "a photo of",
    "decoding": "{}", "dtype": "float32",
}  # fmt: skip
OTHER = MAKER | {"model": "blip-xl"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five photos, two of one content."""
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg((60 * min(i, 3), 0, 0)))
    photos = [f"{i}.jpg" for i in range(5)]
    rows = [{"user_id": f"u{i}", "text": "fine", "photos": photos[i : i + 3]} for i in range(3)]
    write_lines(tmp_path / "reviews.jsonl", rows)
    source = {"kind": "custom", "reviews": str(tmp_path / "reviews.jsonl")}
    selection = {"min_words": 1, "max_words": 300, "min_reviews": 1, "photo_reviews": 0}
    split, where = {"train": 1, "validation": 1, "test": 1}, str(tmp_path / "prepared")
    return Path(prepare(source, selection, split, schema=yelp_schema(), progress=False, folder=where))


def photo_id(name: str) -> str:
    return Pseudonyms.of("custom").photo(name)


def write(
    captions: Captions, photos: list[Photo], maker: dict[str, str] = MAKER, text: str = "a plate", **how: Any
) -> None:
    with captions.shards(maker, **how) as shards:
        for photo in photos:
            shards.add(photo, f"{text} {photo.photo_id}")


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "captions.parquet").to_pylist()


def test_equal_photos_share_a_caption(folder: Path) -> None:
    captions = Captions(folder)
    todo = captions.todo(MAKER)
    assert len(todo) == 4
    write(captions, todo)
    assert captions.finish(MAKER) == {"ok": 4}
    found = rows(folder)
    assert [row["sha256"] for row in found] == sorted(photo.sha256 for photo in todo)
    assert {row[name] for row in found for name in MAKER} == set(MAKER.values())
    assert open_prepared(folder).captions == {row["sha256"]: row["caption"] for row in found}
    assert captions.todo(MAKER) == []
    assert captions.todo(MAKER | {"backend_version": "6"}) == []  # a later version goes on with the file


def test_shards_are_whole_and_survive(folder: Path) -> None:
    captions = Captions(folder)
    todo = captions.todo(MAKER)
    write(captions, todo[:3], size=2)
    write(captions, todo[3:], rank=1)
    parts = folder / "captions.partial"
    assert sorted(path.name for path in parts.iterdir()) == [
        "rank00000-000001.parquet", "rank00000-000002.parquet", "rank00001-000001.parquet",
    ]  # fmt: skip
    assert Captions(folder).todo(MAKER) == []
    write(captions, todo[:1], text="once more")  # the later row counts
    captions.finish(MAKER)
    assert not parts.exists()
    assert {row["photo_id"]: row["caption"].split()[0] for row in rows(folder)}[todo[0].photo_id] == "once"
    assert len(rows(folder)) == 4


def test_nothing_is_left_of_commands_that_were_killed(folder: Path) -> None:
    """Of one of several ranks that wrote a shard, and of one that removed the shards."""
    captions = Captions(folder)
    write(captions, captions.todo(MAKER))
    parts = folder / "captions.partial"
    (parts / "rank00003-000001.parquet.tmp").write_bytes(b"half of a sh")
    assert captions.finish(MAKER) == {"ok": 4}
    assert not parts.exists()
    parts.mkdir()
    assert captions.finish(MAKER) == {"ok": 4}
    assert not parts.exists()


@pytest.mark.parametrize("name", ["backend", "model", "revision", "prompt", "decoding", "dtype"])
def test_makers_are_not_mixed_unasked(name: str, folder: Path) -> None:
    captions = Captions(folder)
    todo = captions.todo(MAKER)
    write(captions, todo[:2])
    captions.finish(MAKER)
    other = MAKER | {name: "other"}
    with pytest.raises(
        UserError, match=f"holds 2 captions by something else .{name} '.*', not 'other'.: give existing"
    ):
        captions.todo(other)
    assert len(captions.todo(other, "replace")) == 4
    rest = captions.todo(other, "keep")
    assert rest == todo[2:]
    write(captions, rest, other)
    captions.finish(other, "keep")
    assert sorted(row[name] for row in rows(folder)) == sorted([MAKER[name]] * 2 + ["other"] * 2)
    write(captions, captions.todo(other, "replace"), other)
    captions.finish(other, "replace")
    assert [row[name] for row in rows(folder)] == ["other"] * 4


def test_failures_are_kept_and_tried_again_when_asked(folder: Path) -> None:
    captions = Captions(folder)
    todo = captions.todo(MAKER)
    with captions.shards(MAKER) as shards:
        shards.add(todo[0], "", "cannot be decoded")
    write(captions, todo[1:])
    assert captions.finish(MAKER) == {"ok": 3, "error": 1}
    assert todo[0].sha256 not in (open_prepared(folder).captions or {})
    assert captions.todo(MAKER) == []
    assert captions.todo(MAKER, retry=True) == todo[:1]
    assert captions.verify().problems == {"failed": [todo[0].photo_id]}
    write(captions, todo[:1])
    assert captions.finish(MAKER) == {"ok": 4}
    assert captions.verify().problems == {}


def test_verify_finds_what_does_not_agree(folder: Path) -> None:
    captions = Captions(folder)
    with pytest.raises(UserError, match="nothing to verify"):
        captions.verify()
    todo = captions.todo(MAKER)
    write(captions, [*todo[:2], Photo("0" * 64, todo[2].photo_id), Photo("1" * 64, "gone")])
    captions.finish(MAKER)
    check = captions.verify()
    assert (check.photos, check.captioned) == (4, 2)
    assert check.problems == {
        "missing": [photo.photo_id for photo in todo[2:]], "changed": [todo[2].photo_id], "orphaned": ["gone"],
    }  # fmt: skip
    assert check.makers == {"transformers blip": 4}


def test_verify_finds_damaged_photos(folder: Path) -> None:
    captions = Captions(folder)
    write(captions, captions.todo(MAKER))
    captions.finish(MAKER)
    stored = next((folder / "photos").glob("*.arrow"))
    content, one = stored.read_bytes(), captions.jpeg(photo_id("0.jpg"))
    assert content.count(one) == 1
    stored.write_bytes(content.replace(one, one[:-9] + bytes(9)))
    assert Captions(folder).verify().problems == {"damaged": [photo_id("0.jpg")]}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("key", ["photo_id", "path"])
def test_captions_made_elsewhere(ending: str, key: str, folder: Path, tmp_path: Path) -> None:
    names = ["0.jpg", "1.jpg", "nowhere.jpg", "1.jpg", "2.jpg"]
    table = pa.table(
        {
            key: names if key == "path" else [photo_id(name) for name in names],
            "caption": ['red, "dark"\nwall', "a wall", "a ghost", "the same wall", "  "],
            "score": [1, 2, 3, 4, 5],
        }
    )
    path = tmp_path / f"mine.{ending}"
    if ending == "csv":
        pacsv.write_csv(table, path)
    elif ending == "parquet":
        pq.write_table(table, path)
    else:
        write_lines(path, table.to_pylist())
    captions = Captions(folder)
    done, counts = captions.import_table(path)
    assert (done.rows, done.used, done.empty, done.repeated, len(done.unmatched)) == (5, 2, 1, 1, 1)
    assert counts == {"ok": 2}
    assert [json.loads(line)["caption"] for line in done.report.read_text().splitlines()] == ["a ghost"]
    found = {row["photo_id"]: row["caption"] for row in rows(folder)}
    assert found == {photo_id("0.jpg"): 'red, "dark" wall', photo_id("1.jpg"): "a wall"}
    assert {(row["backend"], row["model"]) for row in rows(folder)} == {("file", path.name)}


def test_names_of_files_are_photo_ids(folder: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.jsonl", [{"path": f"/yelp/photos/{photo_id('0.jpg')}.jpg", "caption": "a wall"}])
    assert Captions(folder).import_table(tmp_path / "mine.jsonl")[0].used == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("mine.txt", "x", r"should end in .csv, .jsonl"),
        ("mine.csv", "photo,text\na,b\n", r"has the columns photo, text; needed: caption, and photo_id or path"),
        ("mine.jsonl", "{", r"cannot be read as JSON lines"),
        ("mine.parquet", "x", r"cannot be read as Parquet"),
        ("mine.csv", "photo_id,caption\na,b\n", r"none of its 1 rows is a caption of a photo of"),
    ],
)
def test_tables_that_are_none(name: str, content: str, says: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        Captions(folder).import_table(tmp_path / name)
    assert not (folder / "captions.parquet").exists()


def test_a_full_disk_keeps_what_was_written(folder: Path) -> None:
    """A process that may write no file of more than some kilobytes: as good as a full disk."""
    code = f"""
import resource
from datamodules.captions import Captions
from mmprofile.errors import UserError
captions, maker = Captions({str(folder)!r}), {MAKER!r}
todo = captions.todo(maker)
with captions.shards(maker, size=1) as shards:
    shards.add(todo[0], "a plate")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    with captions.shards(maker, size=2) as shards:
        shards.add(todo[1], "a table")
        shards.add(todo[2], "a cup")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "rank00000-000002.parquet cannot be written" in done.stdout
    assert "are kept; make room and run the same command again" in done.stdout
    assert [path.name for path in (folder / "captions.partial").iterdir()] == ["rank00000-000001.parquet"]
    assert len(Captions(folder).todo(MAKER)) == 3


def test_a_damaged_file_is_one_line(folder: Path) -> None:
    (folder / "captions.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"captions.parquet cannot be read as Parquet .*: remove it and caption again"):
        Captions(folder)


def test_files_of_before_dtype_are_read(folder: Path) -> None:
    captions = Captions(folder)
    write(captions, captions.todo(MAKER))
    captions.finish(MAKER)
    table = pq.read_table(folder / "captions.parquet")
    pq.write_table(table.drop_columns(["dtype"]), folder / "captions.parquet")
    assert Captions(folder).todo(MAKER | {"dtype": ""}) == []
