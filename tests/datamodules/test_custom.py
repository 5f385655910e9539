"""A user's own reviews, photos and labels."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.prepare import Prepared, open_prepared, prepare
from datamodules.pseudonyms import Pseudonyms
from mmprofile.errors import UserError
from mmprofile.profile.schema import Attribute, Schema
from tests.support.rawdata import TEXT, jpeg, write_lines, yelp_schema

OPEN = {"min_words": 1, "max_words": 300, "min_reviews": 1, "photo_reviews": 0}
THIRDS = {"train": 1, "validation": 1, "test": 1}
ROWS: list[dict[str, Any]] = [
    {"user_id": "ann", "text": TEXT, "stars": 5, "date": "2021-05-05", "photos": ["a/1.jpg", "a/2.jpg"]},
    {"user_id": "ann", "text": "short but fine", "stars": 4, "date": "2021-05-04", "photos": ["a/1.jpg"]},
    {"user_id": "bob", "text": TEXT, "stars": 2.5, "review_id": "mine", "business_id": "cafe"},
    {"user_id": "cem", "text": TEXT, "stars": 1, "photos": None},
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    for name in "12":
        (folder / "a" / f"{name}.jpg").write_bytes(jpeg((int(name) * 90, 0, 0)))
    write_lines(folder / "reviews.jsonl", ROWS)
    return folder


def run(
    folder: Path,
    schema: Schema | None = None,
    selection: dict[str, int] = OPEN,
    split: dict[str, int] = THIRDS,
    progress: bool = False,
    **source: Any,
) -> Prepared:
    source = {"kind": "custom", "reviews": str(folder / "reviews.jsonl")} | source
    return open_prepared(prepare(source, selection, split, schema=schema or yelp_schema(), progress=progress))


def users(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Rows by the first review's stars, which tell the three users apart."""
    return {str(row["reviews"][-1]["stars"]): row for split in prepared.datasets.values() for row in split}


def test_reviews_with_photos_of_their_own(data: Path) -> None:
    found = users(run(data))
    ann, bob, cem = found["5.0"], found["2.5"], found["1.0"]
    assert [len(each["photo_ids"]) for each in ann["reviews"]] == [1, 2]  # sorted by date
    assert ann["reviews"][0]["photo_ids"][0] in ann["reviews"][1]["photo_ids"]
    assert (bob["reviews"][0]["review_id"], bob["reviews"][0]["business_id"]) == (
        Pseudonyms.of("custom").review("mine"),
        "cafe",
    )
    assert cem["reviews"][0]["photo_ids"] == []
    # Only the stars' rule has something to go by; the rest has no label and drops nobody.
    assert ann["profile"] == {name: ["5"] if name == "Stars" else None for name in yelp_schema().names}
    assert bob["profile"]["Stars"] == ["3"]


def test_order_of_lines_does_not_matter(data: Path) -> None:
    first = users(run(data))
    write_lines(data / "reviews.jsonl", ROWS[::-1])
    assert users(run(data)) == first


def test_parquet_gives_the_same(data: Path) -> None:
    first = users(run(data))
    pq.write_table(pa.Table.from_pylist(ROWS, schema=pa.schema(
        [("user_id", pa.string()), ("text", pa.string()), ("stars", pa.float32()), ("date", pa.string()),
         ("photos", pa.list_(pa.string())), ("review_id", pa.string()), ("business_id", pa.string())]
    )), data / "reviews.parquet")  # fmt: skip
    assert users(run(data, reviews=str(data / "reviews.parquet"))) == first


def test_only_user_and_text_are_needed(data: Path) -> None:
    pq.write_table(
        pa.table({"user_id": [1, 2, 3], "text": ["one", "two words", "three words here"]}), data / "few.parquet"
    )
    prepared = run(data, reviews=str(data / "few.parquet"))
    rows = [row for split in prepared.datasets.values() for row in split]
    assert sorted(row["reviews"][0]["text"] for row in rows) == ["one", "three words here", "two words"]
    assert {each["stars"] for row in rows for each in row["reviews"]} == {None}
    assert len(prepared.photos) == 0
    assert all(values is None for row in rows for values in row["profile"].values())  # unlabelled, and nobody dropped


def test_photos_by_a_list_of_their_own(data: Path, tmp_path: Path) -> None:
    rows = [
        {"path": "2.jpg", "business_id": "cafe"},
        {"path": "1.jpg", "review_id": "mine"},
        {"path": "1.jpg", "review_id": "not there"},
    ]
    write_lines(data / "photos.jsonl", rows)
    write_lines(data / "plain.jsonl", [{key: value for key, value in row.items() if key != "photos"} for row in ROWS])
    prepared = run(
        data, reviews=str(data / "plain.jsonl"), photos=str(data / "photos.jsonl"), photo_root=str(data / "a")
    )
    assert len(users(prepared)["2.5"]["reviews"][0]["photo_ids"]) == 2
    assert len(prepared.photos) == 2


def test_photos_are_looked_for_beside_the_reviews_or_under_photo_root(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not one photo is usable \(wanted 2, missing 2\): looked in .*photo_root"):
        run(data, photo_root=str(tmp_path))
    assert run(data, photo_root=str(data)).manifest["photos"]["usable"] == 2
    (data / "a" / "2.jpg").unlink()
    (data / "reviews.jsonl").touch()
    prepared = run(data)
    assert prepared.manifest["photos"]["missing"] == 1
    assert [len(each["photo_ids"]) for each in users(prepared)["5.0"]["reviews"]] == [1, 1]


def test_what_is_read_makes_the_data_and_nothing_else(data: Path) -> None:
    """Not the folder's time: a changed or missing photo is other data, a new file beside it is not."""
    first = run(data).folder
    (data / "a" / "notes.txt").write_text("not read")
    (data / "notes.txt").write_text("not read")
    assert run(data).folder == first
    assert run(data, photo_root=str(data)).folder == first  # the same photos, found in another way
    (data / "a" / "1.jpg").write_bytes(jpeg((1, 2, 3)))
    second = run(data)
    assert second.folder != first
    (data / "a" / "2.jpg").unlink()
    third = run(data)
    assert third.folder not in (first, second.folder)
    assert (len(second.photos), len(third.photos)) == (2, 1)
    files = {"photos": str(data / "photos.jsonl"), "photo_root": str(data / "a")}
    write_lines(data / "photos.jsonl", [{"path": "3.jpg", "review_id": "mine"}])
    write_lines(data / "reviews.jsonl", [{key: value for key, value in row.items() if key != "photos"} for row in ROWS])
    (data / "a" / "3.jpg").write_bytes(jpeg())
    fourth = run(data, **files).folder
    (data / "a" / "3.jpg").write_bytes(jpeg((4, 5, 6)))
    assert run(data, **files).folder != fourth


def test_without_photos_their_files_do_not_matter(data: Path) -> None:
    source = {"kind": "custom", "reviews": str(data / "reviews.jsonl"), "photos": str(data / "nowhere.jsonl")}
    rest: dict[str, Any] = {"schema": yelp_schema(), "progress": False, "photos": {"policy": "none"}}
    first = prepare(source, OPEN, THIRDS, **rest)
    assert len(open_prepared(first).photos) == 0
    (data / "a" / "1.jpg").unlink()
    assert prepare(source, OPEN, THIRDS, **rest) == first


LABELS: list[dict[str, Any]] = [
    {"user_id": "ann", "Favorite Category": ["shopping", "Pizza"], "Discount Preference": True, "Stars": 2},
    {"user_id": "bob", "Favorite Category": ["Pizza", "Automotive"], "Discount Preference": "false", "Stars": 3.0},
    {"user_id": "cem", "Favorite Category": ["Pizza", "Shopping"], "Discount Preference": False, "Stars": "1"},
    {"user_id": "nobody", "Favorite Category": None},
]


def test_labels_from_a_file_come_before_rules(data: Path) -> None:
    write_lines(data / "labels.jsonl", LABELS)
    prepared = run(data, labels=str(data / "labels.jsonl"))
    ann = users(prepared)["5.0"]["profile"]
    assert (ann["Favorite Category"], ann["Discount Preference"], ann["Stars"]) == (
        ["Shopping", "Pizza"],
        ["True"],
        ["2"],
    )
    assert prepared.manifest["labels"]["from_file"] == ["Discount Preference", "Favorite Category", "Stars"]
    assert prepared.manifest["labels"]["derived"] == []
    columns = {name: [row.get(name) for row in LABELS[:3]] for name in ("user_id", "Favorite Category")}
    pq.write_table(pa.table(columns), data / "labels.parquet")
    again = users(run(data, labels=str(data / "labels.parquet")))["5.0"]["profile"]
    assert (again["Favorite Category"], again["Stars"]) == (["Shopping", "Pizza"], ["5"])


def test_text_only_attribute_gets_its_labels_from_the_file(data: Path) -> None:
    schema = Schema("own", [Attribute("Age", ("young", "old"), text_only=True, unknown=True), yelp_schema()["Stars"]])
    write_lines(data / "labels.jsonl", [{"user_id": "ann", "age": "OLD"}, {"user_id": "bob", "age": "Unknown"}])
    found = users(run(data, schema, labels=str(data / "labels.jsonl")))
    assert {stars: row["profile"]["Age"] for stars, row in found.items()} == {"5.0": ["old"], "2.5": [], "1.0": None}


def test_users_without_a_required_label_are_dropped_and_counted(data: Path) -> None:
    write_lines(data / "labels.jsonl", LABELS[:2])
    with pytest.raises(UserError, match=r"asks for 3 users .*but 2 are left"):
        run(data, labels=str(data / "labels.jsonl"))


def test_a_user_with_one_label_is_kept_where_one_is_enough(data: Path) -> None:
    """Unknown is no label of an attribute that does not allow it, and null is none of any."""
    rows = [
        {"user_id": "ann", "Preferred Meal": "Lunch"},
        {"user_id": "bob", "Preferred Meal": None, "Budget Range": "High"},
        {"user_id": "cem", "Preferred Meal": "Unknown"},
    ]
    write_lines(data / "labels.jsonl", rows)
    write_lines(data / "plain.jsonl", [{key: value for key, value in row.items() if key != "stars"} for row in ROWS])
    files = {"labels": str(data / "labels.jsonl"), "reviews": str(data / "plain.jsonl")}
    prepared = run(data, selection=OPEN | {"min_labels": 1}, split=THIRDS | {"test": 0}, **files)
    profiles = [row["profile"] for split in prepared.datasets.values() for row in split]
    found = [{name: values for name, values in profile.items() if values is not None} for profile in profiles]
    assert sorted(map(str, found)) == ["{'Budget Range': ['High']}", "{'Preferred Meal': ['Lunch']}"]
    assert prepared.manifest["labels"]["unknown"] == {"Preferred Meal": 2, "Budget Range": 2}
    assert prepared.manifest["steps"][-2]["step"] == "users with 1 or more labels"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"user_id": "bob", "Favourite Category": ["Pizza"]},
            "row 2: 'Favourite Category' is no attribute.*did you mean Favorite Category",
        ),
        (
            {"user_id": "bob", "Preferred Meal": "Diner"},
            "1 of 1 user: Preferred Meal='Diner' is not one of Breakfast, Brunch, Lunch, Dinner .did you mean Dinner",
        ),
        (
            {"user_id": "bob", "Favorite Category": "Pizza"},
            "1 of 1 user: Favorite Category='Pizza' is not 2 different values of",
        ),
    ],
)
def test_wrong_labels_are_named(data: Path, row: Any, said: str) -> None:
    write_lines(data / "labels.jsonl", [{"user_id": "ann", "Stars": 3}, row])
    with pytest.raises(UserError, match=said):
        run(data, labels=str(data / "labels.jsonl"))


def test_a_few_wrong_labels_are_left_out_counted_and_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any photo is opened; the rest of such a row counts."""
    rows = [
        {"user_id": "ann", "Stars": 3, "Preferred Meal": "Lunch"},
        {"user_id": "bob", "Stars": 10, "Preferred Meal": "Dinner"},
    ]
    write_lines(data / "labels.jsonl", [*rows, {"user_id": "cem", "Stars": "4"}, {"user_id": "eve", "Stars": 5}])
    selection = OPEN | {"min_labels": 1}
    prepared = run(data, selection=selection, labels=str(data / "labels.jsonl"), progress=True)
    said = capsys.readouterr().err
    assert "labels: 1 of 4 users: Stars='10' is not one of 1, 2, 3, 4, 5" in said
    assert "labels: 1 of 4 users have no reviews that are kept" in said
    assert said.index("Stars='10'") < said.index("photos:")
    found = {str(row["profile"]["Stars"]): row["profile"] for row in users(prepared).values()}
    assert found["None"]["Preferred Meal"] == ["Dinner"]
    assert prepared.manifest["labels"]["file"] == {
        "rows": 4, "left_out": 0, "wrong": {"Stars": {"10": 1}}, "users_without_reviews": 1,
    }  # fmt: skip
    assert (
        "Labels of Stars that are none of its values, left out: '10' (1)."
        in (prepared.folder / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"user_id": "ann", "Stars": 4}, "user 'ann' has a row already"),
        ({"Stars": 3}, "no user_id"),
        ("[]", "not a JSON object"),
    ],
)
def test_rows_that_cannot_be_used(data: Path, row: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One among three is left out and named; two of three are an error."""
    good = [{"user_id": "ann", "Stars": 3}, {"user_id": "bob", "Stars": ""}]
    write_lines(data / "labels.jsonl", [*good, row])
    selection = OPEN | {"min_labels": 0}
    prepared = run(data, selection=selection, labels=str(data / "labels.jsonl"), progress=True)
    assert f"labels: 1 of 3 rows are left out; the first is row 3: {said}" in capsys.readouterr().err
    assert sorted(str(row["profile"]["Stars"]) for row in users(prepared).values()) == ["None", "None", "['3']"]
    write_lines(data / "labels.jsonl", [good[0], row, row])
    with pytest.raises(UserError, match=f"2 of 3 rows cannot be used, the first is row 2: {said}"):
        run(data, selection=selection, labels=str(data / "labels.jsonl"))


def test_no_labels_at_all(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "labels.jsonl").touch()
    with pytest.raises(UserError, match=r"labels\.jsonl is empty: expected a row for each user"):
        run(data, labels=str(data / "labels.jsonl"))
    run(data, progress=True)
    assert "labels: there are none of Favorite Category, Preferred Meal," in capsys.readouterr().err


def test_labels_of_nobody_here(data: Path) -> None:
    write_lines(data / "labels.jsonl", [{"user_id": "zoe", "Stars": 3}])
    with pytest.raises(
        UserError,
        match="none of its 1 users has reviews that are kept; its ids look like 'zoe', those of the reviews like 'ann'",
    ):
        run(data, labels=str(data / "labels.jsonl"))


def test_photos_must_be_a_list(data: Path) -> None:
    """The reader of a file would take a text for no photos, and the user would not notice."""
    write_lines(data / "reviews.jsonl", [{**ROWS[0], "photos": "a/1.jpg"}, *ROWS[1:]])
    with pytest.raises(UserError, match=r'reviews.jsonl, line 1: photos is "a/1.jpg": give a list of paths'):
        run(data)
    pq.write_table(pa.table({"user_id": ["u"], "text": ["t"], "photos": ["a/1.jpg"]}), data / "text.parquet")
    pq.write_table(
        pa.table({"user_id": ["u", "v", "w"], "text": ["t"] * 3, "photos": [None] * 3}), data / "none.parquet"
    )
    assert len(run(data, reviews=str(data / "none.parquet")).photos) == 0
    with pytest.raises(UserError, match="the column photos holds string: it should hold a list of paths"):
        run(data, reviews=str(data / "text.parquet"))


def test_wrong_files_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source\.reviews: .*nowhere\.jsonl is not there"):
        run(data, reviews=str(data / "nowhere.jsonl"))
    (data / "reviews.csv").touch()
    with pytest.raises(UserError, match=r"reviews\.csv should end in \.jsonl"):
        run(data, reviews=str(data / "reviews.csv"))
    with pytest.raises(UserError, match=r"photo_root: .* is not a folder"):
        run(data, photo_root=str(data / "pictures"))
    pq.write_table(pa.table({"user": ["u"], "text": ["t"]}), data / "wrong.parquet")
    with pytest.raises(UserError, match="no column 'user_id'; it has: user, text"):
        run(data, reviews=str(data / "wrong.parquet"))
    (data / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        run(data, reviews=str(data / "broken.parquet"))
    write_lines(data / "half.jsonl", [ROWS[0], {"user_id": "bob"}])
    with pytest.raises(UserError, match=r"1 of 2 lines are malformed, the first is line 2 \(no text\)"):
        run(data, reviews=str(data / "half.jsonl"))


def test_thresholds_apply_to_own_data_too(data: Path) -> None:
    with pytest.raises(UserError, match="no user is left after the step 'reviews with a photo row, 3 or more a user'"):
        run(data, selection=OPEN | {"photo_reviews": 3})


def test_empty_reviews_are_dropped_and_counted(data: Path) -> None:
    with (data / "reviews.jsonl").open("a") as file:
        file.write(json.dumps({"user_id": "dot", "text": " \n"}) + "\n")
    steps = run(data).manifest["steps"]
    assert [(row["reviews"], row["users"]) for row in steps[:2]] == [(5, 4), (4, 3)]


def test_reviews_in_chinese_have_words(data: Path) -> None:
    texts = ["菜很好吃" * 6, "菜很好吃" * 4, "菜很好吃" * 151]  # 12, 8 and 302 words
    write_lines(
        data / "chinese.jsonl",
        [{"user_id": f"u{n % 3}", "text": text} for n, text in enumerate([*texts, *texts[:1] * 3])],
    )
    prepared = run(data, selection=OPEN | {"min_words": 10}, reviews=str(data / "chinese.jsonl"))
    assert {row["text"] for row in every_review(prepared)} == {texts[0]}
    assert prepared.manifest["averages"]["words_per_review"] == 12


def every_review(prepared: Prepared) -> list[dict[str, Any]]:
    return [review for split in prepared.datasets.values() for row in split for review in row["reviews"]]
