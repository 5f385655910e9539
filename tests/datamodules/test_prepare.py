"""Raw files to a prepared folder, as a whole: what is in it, that it is the same every time, and what goes wrong."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from datamodules import prepared as prepared_folder
from datamodules import selection
from datamodules.engine import Engine
from datamodules.prepare import open_prepared, prepare
from datamodules.pseudonyms import DEMO_KEY, Pseudonyms, hashed_id
from mmprofile.errors import UserError
from mmprofile.profile.schema import Schema
from tests.support.preparing import digests, rows_of, run
from tests.support.rawdata import (
    BUSINESSES,
    SMALL,
    SPLIT,
    TEXT,
    as_tar,
    as_zip,
    city,
    jpeg,
    write_lines,
    yelp_schema,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPROFILE_USER_KEY", raising=False)
    return tmp_path / "cache"


def test_prepared_folder_by_hand(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    folder = run(str(raw))
    prepared = open_prepared(folder)
    assert {name: len(rows) for name, rows in prepared.datasets.items()} == {"train": 4, "validation": 1, "test": 1}
    rows = [row for split in prepared.datasets.values() for row in split]
    assert len({row["user_id"] for row in rows}) == 6
    names = Pseudonyms.of("yelp")
    numbers = {names.user(f"u{number}"): number for number in range(6)}
    for row in rows:
        number = numbers[row["user_id"]]
        # Reviews are sorted by date: the last visit was dated first.
        ids = [names.review(f"r{number}-{n}") for n in (4, 3, 2, 1, 0)]
        assert [each["review_id"] for each in row["reviews"]] == ids
        assert [each["photo_ids"] for each in row["reviews"]] == [["p3"], ["p2"], ["p2"], ["-p1"], ["-p1"]]
        assert [each["stars"] for each in row["reviews"]] == [4 + (number + 1) % 2, 4, 3, 4, 3]
        assert row["reviews"][0] == {
            "review_id": ids[0],
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


def test_steps_and_counts_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(city(tmp_path / "raw")), progress=True)
    shown = capsys.readouterr().err
    for said in ("reading reviews", "photos: 100%", "users with 4 or more of them", "prepared data are in"):
        assert said in shown


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


def test_yelp_without_photos(tmp_path: Path) -> None:
    """Most people download the JSON only: a tar, or the folder it unpacks to. Nobody is asked for photos then."""
    raw = city(tmp_path / "raw")
    names = ["yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"]
    tar = as_tar(raw, tmp_path / "yelp_dataset.tar", "w:gz", names)
    with pytest.raises(
        UserError, match=r"photos\.json.*check data.prepare.source.path, or do without photos: photos=none"
    ):
        run(str(tar))
    first, second = (run(str(path), photos={"policy": "none"}) for path in (tar, raw))
    assert rows_of(first) == rows_of(second)
    prepared = open_prepared(first)
    assert len(prepared.photos) == 0
    assert {tuple(each["photo_ids"]) for each in prepared.datasets["train"][0]["reviews"]} == {()}
    assert rows_of(first)["train"][0]["profile"] == rows_of(run(str(raw)))["train"][0]["profile"]
    manifest = prepared.manifest
    assert (manifest["config"]["photos"]["policy"], manifest["config"]["selection"]["photo_reviews"]) == ("none", 0)
    assert not any("photo" in row["step"] for row in manifest["steps"])
    assert [source["name"] for source in open_prepared(second).manifest["sources"]] == sorted(names)
    card = (first / "README.md").read_text()
    assert "One row is a user: reviews without photos, as was asked (`photos=none`), and a profile" in card
    assert "Photos looked at" not in card
    assert "image-text-to-text" not in card
    (raw / "yelp_academic_dataset_review.json").unlink()
    with pytest.raises(UserError, match=r"looked for yelp_academic_dataset_review.json or review.json: check [\w.]+$"):
        run(str(raw), photos={"policy": "none"})


@pytest.mark.parametrize("selection", [SMALL, SMALL | {"photo_reviews": 0}])
def test_a_split_of_too_many_is_answered_before_photos_are_read(
    selection: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the steps so far, and the attribute that most users lack."""
    raw = city(tmp_path / "raw")
    write_lines(raw / "yelp_academic_dataset_business.json", [each | {"attributes": None} for each in BUSINESSES])
    schema = Schema("two", [yelp_schema()["Stars"], yelp_schema()["Preferred Meal"]])
    with pytest.raises(UserError, match="no user is left after the step 'users whose required labels are all known'"):
        run(str(raw), schema=schema, selection=selection, progress=True)
    write_lines(raw / "yelp_academic_dataset_business.json", BUSINESSES)
    lines = (raw / "yelp_academic_dataset_review.json").read_text().splitlines()
    at_garage = [{**json.loads(line), "business_id": "garage"} for line in lines[:10]]  # where nobody eats
    write_lines(raw / "yelp_academic_dataset_review.json", [*at_garage, *lines[10:]])
    said = (
        r"^the split asks for 6 users \(4 \+ 1 \+ 1\), but 4 are left after the selection; "
        r"Preferred Meal: 2 of 6 users have no label: lower data.prepare.split or"
    )
    with pytest.raises(UserError, match=said):
        run(str(raw), schema=schema, selection=selection, progress=True)
    shown = capsys.readouterr().err
    assert re.search(r"^users whose required labels are all known +4 *$", shown, re.M)
    assert "photos:" not in shown


@pytest.mark.parametrize("users", [None, 6])
def test_a_mean_that_a_lost_photo_moves_into_the_values_is_not_refused_before(
    users: int | None, tmp_path: Path
) -> None:
    """Of 2, 2, 2, 2 and 5 the mean is 3, which this schema does not have; the 5 goes with a photo that is broken."""
    photos = {"-p1": jpeg(), "p2": jpeg((90, 60, 40)), "p3": b"no photo"}
    raw = city(tmp_path / "raw", photos=photos)
    file = raw / "yelp_academic_dataset_review.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    write_lines(file, [row | {"stars": 5.0 if row["business_id"] == "garage" else 2.0} for row in rows])
    schema = Schema("low", [replace(yelp_schema()["Stars"], values=("1", "2"))])
    folder = prepare({"kind": "yelp", "path": str(raw), "users": users}, SMALL, SPLIT, schema=schema, progress=False)
    labels = [row["profile"]["Stars"] for split in rows_of(folder).values() for row in split]
    assert labels == [["2"]] * 6


def test_a_trial_takes_so_many_users_with_labels(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    source = {"kind": "yelp", "path": str(raw), "users": 4}
    prepared = open_prepared(prepare(source, SMALL, shares, schema=yelp_schema(), progress=False))
    assert prepared.manifest["splits"] == {"train": 2, "validation": 1, "test": 1}
    assert "some users with labels (data.prepare.source.users)" in [row["step"] for row in prepared.manifest["steps"]]
    with pytest.raises(UserError, match=r"data\.prepare\.source\.users=0: give 1 or more"):
        prepare(source | {"users": 0}, SMALL, shares, schema=yelp_schema(), progress=False)


def test_only_photos_that_are_used_are_stored(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw", photos={f"p{n}": jpeg((n * 30, 0, 0)) for n in range(3)})
    write_lines(raw / "yelp_academic_dataset_business.json", [*BUSINESSES, {"business_id": "far"}])
    with (raw / "photos.json").open("a") as file:
        file.write('{"photo_id": "far", "business_id": "far", "label": "outside"}\n')
    assert open_prepared(run(str(raw))).manifest["photos"]["wanted"] == 3


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
    assert prepared.manifest["user_key"] == hashed_id(DEMO_KEY, "key")
    assert "cc0-1.0" in (prepared.folder / "README.md").read_text()
