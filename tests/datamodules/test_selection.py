"""Which reviews and users stay, step by step; the splits and the hashed ids."""

import json
from pathlib import Path

import pytest

from datamodules import selection
from datamodules.options import Split
from datamodules.prepare import open_prepared
from datamodules.pseudonyms import Pseudonyms
from mmprofile.errors import UserError
from tests.support.preparing import digests, run
from tests.support.rawdata import (
    BUSINESSES,
    TEXT,
    city,
    review,
    write_lines,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPROFILE_USER_KEY", raising=False)
    return tmp_path / "cache"


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
    names = map(Pseudonyms.of("yelp").review, ("r0-0", "r0-1", "r0-2"))
    assert [(kept[name]["text"], kept[name]["stars"]) for name in names] == [
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


def test_split_by_user(tmp_path: Path) -> None:
    users, names = [f"u{n}" for n in range(100)], Pseudonyms(b"a key")
    split = selection.split_users(users, Split(0.7, 0.1, 0.2, seed=3), names)
    assert {name: len(found) for name, found in split.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sorted(user for found in split.values() for user in found) == sorted(users)
    assert selection.split_users(users[::-1], Split(0.7, 0.1, 0.2, seed=3), names) == split
    assert selection.split_users(users, Split(0.7, 0.1, 0.2, seed=4), names) != split
    counted = selection.split_users(users, Split(30, 5, 5, seed=3), names)
    assert [len(found) for found in counted.values()] == [30, 5, 5]
    assert counted["train"] == split["train"][:30]
    with pytest.raises(UserError, match=r"asks for 101 users \(90 \+ 5 \+ 6\), but 100 are left"):
        selection.split_users(users, Split(90, 5, 6), names)
    with pytest.raises(UserError, match="the split validation would be empty: 3 users"):
        selection.split_users(users[:3], Split(0.7, 0.1, 0.2), names)


def test_more_users_asked_for_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks for 4000 users \(3000 \+ 500 \+ 500\), but 6 are left"):
        run(str(city(tmp_path / "raw")), split={"train": 3000, "validation": 500, "test": 500})
