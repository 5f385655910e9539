"""What the prepared data tell somebody who has the raw ids and the code, but not the key."""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.options import Options
from datamodules.prepare import Preparation, prepare
from datamodules.prepared import open_prepared
from datamodules.progress import Progress
from datamodules.pseudonyms import DEMO_KEY, Pseudonyms, hashed_id
from mmprofile.errors import UserError
from mmprofile.inputs.views import SPLITS
from mmprofile.profile.schema import Attribute, Schema
from tests.support.preparing import rows_of, run
from tests.support.rawdata import TEXT, city, jpeg, write_lines, yelp_schema

KEY, OTHER = "0f3a 9c71 d2e8 4b65 of a test", "another 77e1 c05b 38da of a test"
PEOPLE = 24
SIZES = {"train": 16, "validation": 4, "test": 4, "seed": 3}
STARS = Schema(
    "stars",
    [
        Attribute(
            "Stars", ("1", "2", "3", "4", "5"), rule={"source": "review.stars", "aggregation": "mean_round_half_up"}
        )
    ],
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", KEY)
    return tmp_path / "cache"


def yelp_people(folder: Path) -> Path:
    """Prepare 24 users of a Yelp-like city; the text of each review names its writer."""
    raw = city(folder / "yelp", users=PEOPLE)
    path = raw / "yelp_academic_dataset_review.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [row | {"text": f"{TEXT} said {row['user_id']}"} for row in rows])
    return run(str(raw), split=SIZES)


def own_people(folder: Path, reverse: bool = False) -> Path:
    """Prepare 24 users of own data; photos lie in a folder of their person."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(PEOPLE):
        photo = folder / f"u{number}" / "me.jpg"
        photo.parent.mkdir(exist_ok=True)
        photo.write_bytes(jpeg((number, 60, 40)))
        rows.append(
            {"user_id": f"u{number}", "text": f"{TEXT} said u{number}", "stars": 3, "photos": [f"u{number}/me.jpg"]}
        )
    write_lines(folder / "reviews.jsonl", rows[::-1] if reverse else rows)
    source = {"kind": "custom", "reviews": str(folder / "reviews.jsonl")}
    return prepare(source, {"min_reviews": 1, "photo_reviews": 0}, SIZES, schema=STARS, progress=False)


def truth(folder: Path) -> list[str]:
    """Return the raw ids in the order of the rows, which only the texts tell."""
    return [row["reviews"][0]["text"].rsplit(" ", 1)[1] for rows in rows_of(folder).values() for row in rows]


RAW = [f"u{number}" for number in range(PEOPLE)]


def by_public_hash(raw: list[str]) -> list[str]:
    return sorted(raw, key=lambda user: hashlib.sha256(f"{SIZES['seed']}:{user}".encode()).digest())


@pytest.mark.parametrize("people", [yelp_people, own_people])
def test_raw_ids_do_not_tell_who_a_row_is(people: Callable[[Path], Path], tmp_path: Path) -> None:
    """Sorting the raw ids by the hash that used to order the rows named all 24 users."""
    folder = people(tmp_path)
    rows = truth(folder)
    assert sorted(rows) == sorted(RAW)
    guesses = {
        "as they were ordered": by_public_hash(RAW),
        "as they are": RAW,
        "sorted": sorted(RAW),
        "by HMAC with the demo's key": sorted(RAW, key=lambda user: hashed_id(DEMO_KEY, user)),
    }
    found = {name: sum(map(str.__eq__, guess, rows)) for name, guess in guesses.items()}
    assert max(found.values()) <= 6, found  # of 24; by chance one


def test_no_raw_id_stands_in_the_prepared_data(tmp_path: Path) -> None:
    """Neither ids of reviews nor, in own data, hashes of the photos' paths, nor an order by either."""
    yelp, own = (open_prepared(people(tmp_path)) for people in (yelp_people, own_people))
    for prepared, written in ((yelp, {f"r{u}-{n}" for u in range(PEOPLE) for n in range(5)}), (own, {"row-000000000"})):
        reviews = [review for rows in prepared.datasets.values() for row in rows for review in row["reviews"]]
        ids = [review["review_id"] for review in reviews]
        assert len(set(ids)) == len(ids)
        assert not {*ids} & written
        assert all(len(name) == 22 for name in ids)
    paths = {hashlib.sha256(f"u{number}/me.jpg".encode()).hexdigest()[:22]: number for number in range(PEOPLE)}
    assert not {*own.photos["photo_id"]} & {*paths}
    assert [*own.photos["photo_id"]] == sorted(own.photos["photo_id"])
    assert set(yelp.photos["photo_id"]) == {"-p1", "p2", "p3"}  # of businesses, which are nobody


def test_reviews_of_one_day_are_in_the_order_of_their_hashes(tmp_path: Path) -> None:
    raw = city(tmp_path / "yelp")
    path = raw / "yelp_academic_dataset_review.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [row | {"date": "2020-01-01", "text": f"{TEXT} in {row['review_id']}"} for row in rows])
    names = Pseudonyms.of("yelp")
    for row in itertools.chain(*rows_of(run(str(raw))).values()):
        ids = [review["review_id"] for review in row["reviews"]]
        assert ids == sorted(ids)
        for review in row["reviews"]:
            assert review["review_id"] == names.review(review["text"].rsplit(" ", 1)[1])


def test_one_key_is_one_split_whatever_the_order_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines, each with a cache of its own, and the lines of the file the other way round."""
    here = rows_of(own_people(tmp_path / "here"))
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "other machine"))
    there = rows_of(own_people(tmp_path / "there", reverse=True))
    assert here == there
    monkeypatch.setenv("MMPROFILE_USER_KEY", OTHER)
    other = own_people(tmp_path / "here")
    ids = {name: {row["user_id"] for row in rows} for name, rows in here.items()}
    assert not ids["train"] & {row["user_id"] for row in rows_of(other)["train"]}
    assert truth(other)[:16] != [row["reviews"][0]["text"].rsplit(" ", 1)[1] for row in here["train"]]


def test_user_ids_are_hashed_with_a_key_of_the_owner(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMPROFILE_USER_KEY")
    [row, *_] = rows_of(yelp_people(tmp_path))["train"]
    key = cache / "user_id.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(key.read_text())) == 32
    raw_id = row["reviews"][0]["text"].rsplit(" ", 1)[1]
    assert row["user_id"] == Pseudonyms(key.read_text().encode()).user(raw_id) == Pseudonyms.of("yelp").user(raw_id)
    monkeypatch.setenv("MMPROFILE_USER_KEY", OTHER)
    assert Pseudonyms.of("yelp").user(raw_id) == Pseudonyms(OTHER.encode()).user(raw_id) != row["user_id"]


@pytest.mark.parametrize(
    "key",
    [
        "mine",
        "benchmark",
        "x" * 64,
        "0123456789abcdef",
        "abcdefghijklmnopqrstuvwxyz",
        "passwordpassword",
        "correct horse battery staple",
        "3kd9 3kd9 3kd9 3kd9 ",
        "qwertyuiopasdfghjkl",
        "1234567890" * 3,
        "change-me change-me",
        "MMPROFILE_USER_KEY",
        "2024-01-01",
    ],
)
def test_a_weak_key_is_refused(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_USER_KEY", key)
    with pytest.raises(UserError, match="MMPROFILE_USER_KEY can be guessed") as refused:
        yelp_people(tmp_path)
    assert key not in str(refused.value).replace("MMPROFILE_USER_KEY", "", 1)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "cache" / "prepared").exists()


@pytest.mark.parametrize(
    "key", [KEY, "7f3c9a0e51b2d864", "k9Qz!4vLp2Xw8RtY", "marmot violin gravel teapot", "f" + "0a9c3b71e5d2486f" * 2]
)
def test_a_key_that_is_hard_to_guess(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_USER_KEY", key)
    assert Pseudonyms.of("custom").user("ann") != Pseudonyms.of("demo").user("ann")


def test_the_manifest_tells_nothing_that_is_quick_to_try(tmp_path: Path) -> None:
    """The fingerprint and the ids are of what scrypt makes of the key: each guess costs its time and memory."""
    prepared = open_prepared(own_people(tmp_path))
    fingerprint = prepared.manifest["user_key"]
    stretched = hashlib.scrypt(KEY.encode(), salt=b"mmprofile user ids", n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    assert fingerprint == f"scrypt-{hashed_id(stretched, 'key')}"
    everything = "".join(path.read_text(errors="replace") for path in prepared.folder.rglob("*") if path.is_file())
    assert fingerprint in everything
    for quick in ("key", *RAW):
        assert hashed_id(KEY.encode(), quick) not in everything


def test_data_of_an_earlier_version_are_prepared_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the cache a line says so; in a folder of one's own it is an error that says what to do."""
    folder = own_people(tmp_path / "data")
    source = {"kind": "custom", "reviews": str(tmp_path / "data" / "reviews.jsonl")}
    how: dict[str, Any] = {"selection": {"min_reviews": 1, "photo_reviews": 0}, "split": SIZES, "schema": STARS}
    earlier = preparation_of(source, how).earlier
    assert earlier is not None
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["user_key"] = hashed_id(KEY.encode(), "key")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    folder.rename(earlier)
    capfd.readouterr()
    assert prepare(source, **how) == folder
    assert f"{earlier} was prepared by an earlier version" in capfd.readouterr().err
    (earlier / ".fingerprint").write_text("of then")
    with pytest.raises(UserError, match="by an earlier version, in an order that raw ids reveal"):
        prepare(source, folder=earlier, **how)


def preparation_of(source: dict[str, Any], how: dict[str, Any]) -> Any:
    options = Options.checked(source, how["selection"], how["split"], None, "duckdb")
    return Preparation(options, how["schema"], None, Progress(False))


def test_the_demo_city_stays_as_it_was(tmp_path: Path) -> None:
    """All published figures stand on its order, its split and its ids; its people are invented, and its key is public."""
    folder = prepare({"kind": "demo", "users": 60}, folder=tmp_path / "demo", schema=yelp_schema(), progress=False)
    prepared = open_prepared(folder)
    rows = [row for split in SPLITS for row in prepared.datasets[split]]
    digest = hashlib.sha256(json.dumps([rows, list(prepared.photos["photo_id"])], sort_keys=True).encode())
    assert digest.hexdigest() == "b2f852ecb15cb189c59372fbe20387c0c6ec96121452981a12570c75f058ff85"
    assert prepared.manifest["user_key"] == hashed_id(DEMO_KEY, "key")
