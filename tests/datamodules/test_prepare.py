"""Raw files to a prepared folder, as a whole: what is in it, that it is the same every time, and what goes wrong."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from omegaconf import OmegaConf

from datamodules import prepared as prepared_folder
from datamodules import selection
from datamodules.engine import Engine
from datamodules.options import Split
from datamodules.prepare import open_prepared, prepare
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.rawdata import (
    BUSINESSES,
    SMALL,
    SPLIT,
    TEXT,
    as_tar,
    as_zip,
    city,
    jpeg,
    review,
    write_lines,
    yelp_schema,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPROFILE_USER_KEY", raising=False)
    return tmp_path / "cache"


# The start of a script that a test runs as a process of its own; arguments: two import paths, raw folder, folder.
SCRIPT = """
import os, sys
sys.path[:0] = sys.argv[1:3]
from tests.support.rawdata import *
import datamodules.prepare as p
def run():
    source = {"kind": "yelp", "path": sys.argv[3]}
    p.prepare(source, SMALL, SPLIT, schema=yelp_schema(), folder=sys.argv[4], progress=False)
"""
PATHS = (Path(selection.__file__).parents[1], Path(__file__).parents[2])


def run(path: Any, **changes: Any) -> Path:
    options: dict[str, Any] = {"selection": SMALL, "split": SPLIT, "schema": yelp_schema(), "progress": False}
    return prepare({"kind": "yelp", "path": path}, **(options | changes))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_prepared_folder_by_hand(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    folder = run(str(raw))
    prepared = open_prepared(folder)
    assert {name: len(rows) for name, rows in prepared.datasets.items()} == {"train": 4, "validation": 1, "test": 1}
    rows = [row for split in prepared.datasets.values() for row in split]
    assert len({row["user_id"] for row in rows}) == 6
    for row in rows:
        number = int(row["reviews"][0]["review_id"][1])
        # Reviews are sorted by date: the last visit was dated first.
        assert [each["review_id"] for each in row["reviews"]] == [f"r{number}-{n}" for n in (4, 3, 2, 1, 0)]
        assert [each["photo_ids"] for each in row["reviews"]] == [["p3"], ["p2"], ["p2"], ["-p1"], ["-p1"]]
        assert [each["stars"] for each in row["reviews"]] == [4 + (number + 1) % 2, 4, 3, 4, 3]
        assert row["reviews"][0] == {
            "review_id": f"r{number}-4",
            "business_id": "garage",
            "text": TEXT,
            "stars": 4.0 + (number + 1) % 2,
            "date": "2020-01-01 00:00:00",
            "photo_ids": ["p3"],
        }
        assert row["profile"] == {
            "Stars": ["4"],  # 18/5 or 19/5
            "Favorite Category": ["Pizza", "Coffee & Tea"],  # two visits each
            "Preferred Meal": ["Lunch"],  # four flags; Breakfast and Dinner two
            "Budget Range": ["Low"],  # all have 10/5, which is the median and not above it
            "Discount Preference": ["True"],  # 2 of 4 known
            "Service Preference": ["True"],  # 2 of 4 known, the garage's is no literal
        }
    assert set(prepared.photo_index) == {"-p1", "p2", "p3"}
    photo = prepared.photos[prepared.photo_index["-p1"]]
    assert (photo["business_id"], photo["label"]) == ("-pizza", "food")
    assert photo["sha256"] == hashlib.sha256(photo["jpeg"]).hexdigest()
    assert prepared.schema == yelp_schema()
    assert prepared.captions is None
    assert prepared.cues is None


def test_manifest_and_card(tmp_path: Path) -> None:
    folder = run(str(city(tmp_path / "raw")))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["labels"]["cuts"] == {"Budget Range": 2.0}
    assert manifest["notes"]["business_attributes"]["Caters"] == {"known": 2, "unknown": 1, "not_a_literal": 1}
    assert manifest["photos"]["stored"] == 3
    review_file = tmp_path / "raw" / "yelp_academic_dataset_review.json"
    assert manifest["sources"][2] == {
        "name": review_file.name,
        "bytes": review_file.stat().st_size,
        "sha256": hashlib.sha256(review_file.read_bytes()).hexdigest(),
    }
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    card = (folder / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "other"
    for said in (
        "forbid passing the data on",
        "PROXIES",
        "No solely automated decisions",
        "| Stars | 4 | 4 | 1 | 1 | 2,987 |",
    ):
        assert said in body


def test_all_raw_forms_give_equal_tables(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    names = ["yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json", "photos", "photos.json"]
    tar = as_tar(raw, tmp_path / "all.tgz", "w:gz", names)
    zipped = as_zip(tmp_path / "all.zip", {"Yelp/all.tar": tar})
    tables = []
    for path in (raw, tar, [str(zipped)]):
        found = digests(run(path if isinstance(path, list) else str(path)))
        tables.append(
            {
                name: digest
                for name, digest in found.items()
                if name.split("/")[0] in ("train", "validation", "test", "photos")
            }
        )
    assert tables[0] == tables[1] == tables[2]


def test_same_inputs_same_bytes_in_two_folders(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    first, second = run(str(raw), folder=tmp_path / "one"), run(str(raw), folder=tmp_path / "deep" / "two")
    assert digests(first) == digests(second)
    # Nor does the order of lines, or when a file was written, matter for the tables.
    path = raw / "yelp_academic_dataset_review.json"
    write_lines(path, path.read_text().splitlines()[::-1])
    third = run(str(raw), folder=tmp_path / "three")
    changed = {name for name, digest in digests(third).items() if digests(first)[name] != digest}
    assert changed == {"manifest.json", ".fingerprint"}  # the file's hash


def test_second_run_does_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = city(tmp_path / "raw")
    folder = run(str(raw))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(str(raw), progress=True) == folder
    assert f"using prepared data in {folder}" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert run(str(raw), split=SPLIT | {"seed": 1}) != folder


def test_steps_and_counts_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(city(tmp_path / "raw")), progress=True)
    shown = capsys.readouterr().err
    for said in ("reading reviews", "photos: 100%", "users with 4 or more of them", "prepared data are in"):
        assert said in shown


def test_explicit_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    raw, folder = city(tmp_path / "raw"), tmp_path / "mine"
    folder.mkdir()
    run(str(raw), folder=folder)  # an empty folder is fine
    with pytest.raises(UserError, match=r"selection.min_reviews was 4, now 3.*remove it or choose another"):
        run(str(raw), folder=folder, selection=SMALL | {"min_reviews": 3})
    schema = Schema("other", yelp_schema().attributes[:3])
    with pytest.raises(UserError, match="another profile schema"):
        run(str(raw), folder=folder, schema=schema)
    (raw / "photos.json").touch()
    with pytest.raises(UserError, match="source files have changed"):
        run(str(raw), folder=folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UserError, match="exists and is no prepared data set"):
        run(str(raw), folder=tmp_path / "full")


def test_killed_run_leaves_nothing_half_done(tmp_path: Path) -> None:
    raw, folder = city(tmp_path / "raw"), tmp_path / "out"
    script = tmp_path / "dies.py"  # when everything but the card is written
    script.write_text(SCRIPT + "p.dataset_card = lambda *a: os._exit(9)\nrun()\n")
    died = subprocess.run([sys.executable, script, *PATHS, raw, folder], check=False)
    assert died.returncode == 9
    drafts = list(tmp_path.glob("out.tmp-*"))
    assert len(drafts) == 1
    assert not folder.exists()
    alive = tmp_path / f"out.tmp-{os.getppid()}"
    alive.mkdir()
    elsewhere = tmp_path / "out.tmp-999999999"
    elsewhere.mkdir()
    (elsewhere / "host").write_text("another machine")
    run(str(raw), folder=folder)
    assert open_prepared(folder).manifest["splits"]["train"] == 4
    assert not drafts[0].exists()
    assert alive.exists()
    assert elsewhere.exists()


def test_error_leaves_no_draft(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw", photos={"p1": b"broken", "p2": b""})
    with pytest.raises(
        UserError, match=r"not one photo is usable \(wanted 2, empty 1, unreadable 1\): looked in .*photos"
    ):
        run(str(raw), folder=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_unusable_photos_are_dropped_and_their_reviews_do_not_count(tmp_path: Path) -> None:
    photos = {"-p1": jpeg(), "p2": jpeg()[:-400], "p3": jpeg(), "p4": jpeg(), "p5": b""}
    raw = city(tmp_path / "raw", photos=photos)  # p1, p4 of the pizzeria, p2, p5 of the cafe, p3 of the garage
    (raw / "photos" / "p4.jpg").unlink()
    rows = (raw / "photos.json").read_text().splitlines()
    write_lines(raw / "photos.json", [*rows, rows[0]])
    prepared = open_prepared(run(str(raw)))
    assert prepared.manifest["photos"] == {
        "wanted": 5, "usable": 2, "missing": 1, "empty": 1, "truncated": 1, "too_large": 0, "unreadable": 0,
        "stored": 2,
    }  # fmt: skip
    assert prepared.manifest["notes"]["duplicate_photo_rows"] == 1
    row = prepared.datasets["train"][0]
    assert [each["business_id"] for each in row["reviews"]] == ["garage", "-pizza", "-pizza"]
    assert row["profile"]["Favorite Category"] == ["Automotive", "Pizza"]
    with pytest.raises(UserError, match=r"photo .* is (truncated|empty|missing)"):
        run(str(raw), photos={"policy": "error"})


def test_users_with_an_unknown_label_are_dropped_and_counted(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    path = raw / "yelp_academic_dataset_review.json"
    # u0 visits the garage alone: one category, no meal, no known happy hour, catering no literal.
    write_lines(path, [line.replace('"cafe"', '"garage"').replace('"-pizza"', '"garage"') if '"u0"' in line else line
                       for line in path.read_text().splitlines()])  # fmt: skip
    manifest = open_prepared(run(str(raw), split={"train": 3, "validation": 1, "test": 1})).manifest
    assert manifest["labels"]["unknown"] == {
        "Stars": 0,
        "Favorite Category": 1,
        "Preferred Meal": 1,
        "Budget Range": 0,
        "Discount Preference": 1,
        "Service Preference": 1,
    }
    with pytest.raises(UserError, match=r"asks for 6 users .*but 5 are left"):
        run(str(raw))


def test_selection_step_by_step(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw", users=7)
    path = raw / "yelp_academic_dataset_review.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["user_id"] == "u0" and row["review_id"] in ("r0-0", "r0-1"):
            row["text"] = "too short"  # u0 keeps three: under four
        if row["user_id"] == "u1" and row["business_id"] != "garage":
            row["business_id"] = "nothing"  # u1 keeps one with a photo
    rows += [review("long", "u2", "cafe", 1.0, "word " * 31), review("edge", "u2", "cafe", 4.0, "word " * 30), rows[-1]]
    rows += [review("empty", "u3", "cafe", 1.0, ""), review("unknown user", "nobody", "cafe", 1.0)]
    write_lines(path, rows)
    manifest = open_prepared(run(str(raw), split={"train": 3, "validation": 1, "test": 1})).manifest
    assert [(row["step"], row.get("reviews"), row["users"]) for row in manifest["steps"]] == [
        ("raw reviews", 40, 8),
        ("without repeated review ids", 39, 8),
        ("reviews of 10 to 30 words", 35, 8),
        ("users with 4 or more of them", 31, 6),
        ("reviews with a photo row, 3 or more a user", 26, 5),
        ("reviews with a usable photo, 3 or more a user", 26, 5),
        ("users whose required labels are all known", None, 5),
        ("users in a split", None, 5),
    ]


def test_of_reviews_with_one_id_the_first_by_user_business_date_and_text_stays(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    path = raw / "yelp_academic_dataset_review.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    other = "a much longer text about the bread, the soup and the long while that we stayed there"
    copies = [row | {"text": text, "stars": 1.0} for row in rows[:2] for text in ("zz " * 12, other, "zzz " * 12)]
    write_lines(path, [*copies[:3], *rows, *copies[3:]])
    prepared = open_prepared(run(str(raw)))
    assert [(row["step"], row.get("reviews")) for row in prepared.manifest["steps"][:2]] == [
        ("raw reviews", 36),
        ("without repeated review ids", 30),
    ]
    kept = {
        review["review_id"]: review
        for split in prepared.datasets.values()
        for row in split
        for review in row["reviews"]
    }
    assert len(kept) == 30
    assert [(kept[name]["text"], kept[name]["stars"]) for name in ("r0-0", "r0-1", "r0-2")] == [
        (other, 1.0),
        (other, 1.0),
        (TEXT, 3.0),
    ]
    words = [len(review["text"].split()) for review in kept.values()]
    assert prepared.manifest["averages"]["words_per_review"] == sum(words) / 30


def test_what_only_one_file_knows_of(tmp_path: Path) -> None:
    """Users without a user row, users and businesses without a review, and reviews of an unknown business."""
    expected = digests(run(str(city(tmp_path / "raw")), folder=tmp_path / "expected"))
    raw = city(tmp_path / "raw")
    (raw / "yelp_academic_dataset_user.json").write_text('{"user_id": "nobody"}\n')
    stranger = {**BUSINESSES[0], "business_id": "never visited"}
    write_lines(raw / "yelp_academic_dataset_business.json", [*BUSINESSES, stranger])
    with (raw / "yelp_academic_dataset_review.json").open("a") as file:
        file.writelines(json.dumps(review(f"s{n}", "u0", "no business row", 4.0)) + "\n" for n in range(3))
    found = run(str(raw), folder=tmp_path / "found")
    users = [name for name in expected if name.endswith(".arrow")]
    assert users
    assert {name: digests(found)[name] for name in users} == {name: expected[name] for name in users}
    steps = json.loads((found / "manifest.json").read_text())["steps"]
    assert [(step["reviews"], step["users"]) for step in steps[:4]] == [(33, 6), (33, 6), (33, 6), (30, 6)]


def test_file_that_changes_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = city(tmp_path / "raw")

    def meanwhile(*tables: Any) -> Any:
        path = raw / "yelp_academic_dataset_review.json"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
        return selection.wanted_photos(*tables)

    monkeypatch.setattr("datamodules.prepare.wanted_photos", meanwhile)
    with pytest.raises(UserError, match="raw files changed while they were read: run the same command again"):
        run(str(raw), folder=tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_engine_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.engine.MEMORY_LIMIT", "1MB")
    with pytest.raises(
        UserError, match=r"^the database engine stopped: .*: check free disk space and memory"
    ) as caught:
        run(str(city(tmp_path / "raw", users=2_000)))
    assert "\n" not in str(caught.value)


def test_users_in_many_batches_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = city(tmp_path / "raw")
    whole = run(str(raw), folder=tmp_path / "whole")
    monkeypatch.setattr(prepared_folder, "BATCH", 3)
    stream = Engine.stream
    monkeypatch.setattr(Engine, "stream", lambda self, expression: stream(self, expression, rows=7))
    assert rows_of(run(str(raw), folder=tmp_path / "parts")) == rows_of(whole)


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: list(rows) for name, rows in open_prepared(folder).datasets.items()}


def test_only_photos_that_are_used_are_stored(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw", photos={f"p{n}": jpeg((n * 30, 0, 0)) for n in range(3)})
    write_lines(raw / "yelp_academic_dataset_business.json", [*BUSINESSES, {"business_id": "far"}])
    with (raw / "photos.json").open("a") as file:
        file.write('{"photo_id": "far", "business_id": "far", "label": "outside"}\n')
    assert open_prepared(run(str(raw))).manifest["photos"]["wanted"] == 3


def test_split_by_user(tmp_path: Path) -> None:
    users = [f"u{n}" for n in range(100)]
    split = selection.split_users(users, Split(0.7, 0.1, 0.2, seed=3))
    assert {name: len(found) for name, found in split.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sorted(user for found in split.values() for user in found) == sorted(users)
    assert selection.split_users(users[::-1], Split(0.7, 0.1, 0.2, seed=3)) == split
    assert selection.split_users(users, Split(0.7, 0.1, 0.2, seed=4)) != split
    counted = selection.split_users(users, Split(30, 5, 5, seed=3))
    assert [len(found) for found in counted.values()] == [30, 5, 5]
    assert counted["train"] == split["train"][:30]
    with pytest.raises(UserError, match=r"asks for 101 users \(90 \+ 5 \+ 6\), but 100 are left"):
        selection.split_users(users, Split(90, 5, 6))
    with pytest.raises(UserError, match="the split validation would be empty: 3 users"):
        selection.split_users(users[:3], Split(0.7, 0.1, 0.2))


def test_more_users_asked_for_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks for 4000 users \(3000 \+ 500 \+ 500\), but 6 are left"):
        run(str(city(tmp_path / "raw")), split={"train": 3000, "validation": 500, "test": 500})


def test_user_ids_are_hashed_with_a_key_of_the_owner(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = city(tmp_path / "raw")
    row = open_prepared(run(str(raw))).datasets["train"][0]
    key = cache / "user_id.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(key.read_text())) == 32
    raw_id = "u" + row["reviews"][0]["review_id"][1]
    assert row["user_id"] == selection.hashed_id(key.read_text().encode(), raw_id)
    assert selection.user_key("yelp") == selection.user_key("yelp")
    monkeypatch.setenv("MMPROFILE_USER_KEY", "mine")
    again = open_prepared(run(str(raw))).datasets["train"][0]
    assert again["user_id"] == selection.hashed_id(b"mine", raw_id) != row["user_id"]
    assert again["reviews"] == row["reviews"]


def test_config_files_prepare_their_data(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    config = OmegaConf.load(conf_dir() / "data" / "yelp.yaml")
    assert config.prepare._target_ == f"{prepare.__module__}.{prepare.__name__}"
    options = {key: value for key, value in config.prepare.items_ex(resolve=False) if key != "_target_"}
    with pytest.raises(UserError, match=r"source\.path is not set"):
        prepare(**options, schema=yelp_schema())
    options["source"] = OmegaConf.merge(config.prepare.source, {"path": [str(raw)]})
    options["selection"] = OmegaConf.merge(config.prepare.selection, SMALL)
    with pytest.raises(UserError, match="asks for 4000 users"):
        prepare(**options, schema=yelp_schema(), progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selection": {"min_word": 3}}, "selection has no key 'min_word' .did you mean min_words"),
        ({"selection": {"min_words": "ten"}}, "data.prepare.selection.min_words: Value 'ten' of type 'str' could not be converted to Integer"),
        ({"selection": {"min_words": 9, "max_words": 8}}, "min_words <= max_words"),
        ({"split": {"train": 10, "validation": 0.1, "test": 0.2}}, "three integers"),
        ({"split": {"train": 0.9, "validation": 0.1, "test": 0.2}}, "more than 1"),
        ({"photos": {"policy": "ignore"}}, "choose drop or error"),
        ({"photos": {"max_pixels": 10**9}}, "max_pixels <="),
        ({"engine": "sparkle"}, "engine is 'sparkle'"),
        ({"schema": None}, "needs a profile schema"),
    ],
)
def test_wrong_options(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run("anywhere", **changes)


def test_wrong_source() -> None:
    with pytest.raises(UserError, match=r"choose one of demo, yelp, custom .did you mean yelp"):
        prepare({"kind": "yelpp"}, schema=yelp_schema())
    with pytest.raises(UserError, match="source has no key 'folder'"):
        prepare({"kind": "yelp", "folder": "x"}, schema=yelp_schema())


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot read or write .*file: (File exists|Not a directory)"):
        run(str(raw), folder=tmp_path / "file" / "out")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_disk(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission stops: the system's error is raised in its place."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    raw = city(tmp_path / "raw")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        UserError, match=f"{os.strerror(code)}: choose another data.prepare.folder or set MMPROFILE_CACHE"
    ):
        run(str(raw), folder=tmp_path / "out")


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: both end in an error from the system."""
    raw = city(tmp_path / "raw")
    script = tmp_path / "fills.py"
    script.write_text(
        "import resource, signal\n"
        + SCRIPT
        + "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        + "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n"
        + "try: run()\n"
        + "except p.UserError as error: print('said:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, script, *PATHS, raw, tmp_path / "out"], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("said:")
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_opening_what_is_no_prepared_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no prepared data set"):
        open_prepared(tmp_path)
    folder = run(str(city(tmp_path / "raw")))
    (folder / "train" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match="is damaged"):
        open_prepared(folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"format_version": 99}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="format version 99"):
        open_prepared(folder)


def test_sidecars_of_a_generated_city(tmp_path: Path) -> None:
    """The demo's own small city: captions by photo content, cues and gold of what was kept; raw files gone or kept."""
    small = {"min_words": 10, "max_words": 300, "min_reviews": 30, "photo_reviews": 3}
    shares = {"train": 0.5, "validation": 0.2, "test": 0.3}
    source = {"kind": "demo", "users": 24, "seed": 1}
    prepared = open_prepared(prepare(source, small, shares, schema=yelp_schema(), progress=False))
    kept = open_prepared(
        prepare(
            source | {"keep_raw": True}, small, shares, schema=yelp_schema(), progress=False, folder=tmp_path / "kept"
        )
    )
    ours, theirs = digests(prepared.folder), digests(kept.folder)
    assert {name: theirs[name] for name in ours} == ours
    assert (kept.folder / "raw" / "photos.json").is_file()
    assert not (prepared.folder / "raw").exists()
    rows = [row for split in prepared.datasets.values() for row in split]
    reviews = {each["review_id"] for row in rows for each in row["reviews"]}
    assert prepared.captions is not None
    assert prepared.cues is not None
    assert set(prepared.captions) <= {photo["sha256"] for photo in prepared.photos}
    assert {name for kind, name in prepared.cues if kind == "review"} <= reviews
    assert {name for kind, name in prepared.cues if kind == "photo"} <= set(prepared.photo_index)
    assert all(name in prepared.schema.names for cues in prepared.cues.values() for name in cues)
    gold = pq.read_table(prepared.folder / "gold_text_only.parquet").to_pylist()
    assert {row["user_id"] for row in gold} == {row["user_id"] for row in rows}
    assert prepared.manifest["user_key"] == selection.hashed_id(selection.DEMO_KEY, "key")
    assert "cc0-1.0" in (prepared.folder / "README.md").read_text()
