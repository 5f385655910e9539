"""Spark against DuckDB: prepared folders are equal to the byte, and each fault is one line. In local mode."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.engine import Engine
from datamodules.faults import explained
from datamodules.prepare import prepare
from datamodules.words import count_words
from mmprofile.errors import UserError
from mmprofile.profile.schema import Attribute, Schema
from tests.support.extras import extra
from tests.support.preparing import digests, run
from tests.support.rawdata import TEXT, city, jpeg, write_lines, yelp_schema

SPARK = extra("spark", "pyspark")
TEXTS = [
    "", " ", "one", " two  words\n", "a\tb\rc", "\u00a0no blank", "é 🍕 ok", "北京烤鸭很好吃", "すごい ramen です",
    "한국어 두 단어", "อร่อยมาก", "a 好 b", "好", "ab好cd 𠀀𠀁 x", TEXT,
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", "a key for tests, of some length, 0123456789")


def same(one: Path, other: Path) -> None:
    """Both folders hold the same bytes, but for the versions of libraries in the manifest."""
    found = digests(one), digests(other)
    assert found[0].keys() == found[1].keys()
    assert {name for name in found[0] if found[0][name] != found[1][name]} <= {"manifest.json"}


def test_words(engine: Engine) -> None:
    table = engine.table("texts", pa.table({"n": list(range(len(TEXTS) + 1)), "text": [*TEXTS, None]}))
    rows = engine.rows(table.select("n", words=engine.words(table.text)).order_by("n"))
    assert [row["words"] for row in rows] == [*count_words(pa.array(TEXTS)).to_pylist(), None]


@pytest.mark.parametrize("engine_name", [pytest.param("spark", marks=SPARK)])
def test_yelp(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.getfixturevalue("spark")
    raw = city(tmp_path / "raw")
    (raw / "photos" / "p2.jpg").write_bytes(jpeg()[:-200])  # cut short: an executor finds out
    with (raw / "yelp_academic_dataset_review.json").open("a") as file:
        file.write((raw / "yelp_academic_dataset_review.json").read_text().splitlines()[0] + "\n")  # an id twice
    options: dict[str, Any] = {"selection": {"min_words": 10, "max_words": 30, "min_reviews": 4, "photo_reviews": 2}}
    same(
        run(str(raw), folder=tmp_path / "duckdb", **options),
        run(str(raw), folder=tmp_path / "spark", engine=engine_name, **options),
    )


@pytest.mark.parametrize("ending", [pytest.param(ending, marks=SPARK) for ending in ("jsonl", "parquet")])
def test_custom(ending: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Lists, numbers and names with dots; reviews without ids; a column that is not there."""
    request.getfixturevalue("spark")
    (tmp_path / "1.jpg").write_bytes(jpeg())
    rows = [
        {"user_id": f"u{n % 6}", "text": f"{TEXTS[n % len(TEXTS)]} x", "stars": float(n % 5 + 1), "price": n % 7,
         "tags": [["Wine", "Beer"][n % 2]], "date": f"2020-01-{n % 28 + 1:02}", "photos": ["1.jpg", "gone.jpg"]}
        for n in range(60)
    ]  # fmt: skip
    path = tmp_path / f"reviews.{ending}"
    if ending == "jsonl":
        write_lines(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    rules = {
        "Stars": {"source": "review.stars", "aggregation": "mean_round_half_up"},
        "Price": {"source": "review.price", "aggregation": "mean_above", "threshold": "train_median"},
        "Taste": {"source": "review.tags", "aggregation": "mode"},
        "Most": {"source": "review.price", "aggregation": "quantile", "q": 0.77, "cuts": [3.5, 5.02]},
        "Often": {"source": "review.stars", "aggregation": "count", "cuts": "train_quantiles"},
        "Wine": {"source": "review.tags", "aggregation": "share", "of": "wine", "cuts": [0.5]},
    }
    values = {"Stars": tuple("12345"), "Price": ("Low", "High"), "Taste": ("Wine", "Beer")}
    values |= {"Most": ("Low", "Middle", "High"), "Often": ("Seldom", "Often"), "Wine": ("No", "Yes")}
    schema = Schema("own", [Attribute(name, values[name], rule=rule) for name, rule in rules.items()])

    def by(engine: str) -> Path:
        source = {"kind": "custom", "reviews": str(path)}
        chosen = {"min_words": 1, "min_reviews": 1, "photo_reviews": 1, "min_labels": 1}
        return prepare(
            source, chosen, engine=engine, folder=tmp_path / engine, schema=schema, progress=False,
            split={"train": 4, "validation": 1, "test": 1, "seed": 0},
        )  # fmt: skip

    same(by("duckdb"), by("spark"))


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", [pytest.param("spark", marks=SPARK)])
def test_the_demo_city(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """All 1,500 users with every quirk of the raw files. docs/scale.md has the figures of a million reviews."""
    request.getfixturevalue("spark")
    folders = [
        prepare({"kind": "demo"}, engine=name, folder=tmp_path / name, schema=yelp_schema(), progress=False)
        for name in ("duckdb", engine_name)
    ]
    same(*folders)


@pytest.mark.parametrize("engine_name", [pytest.param("spark", marks=SPARK)])
def test_an_error_of_spark_is_one_line(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    spark = request.getfixturevalue("spark")
    raw = city(tmp_path / "raw")
    with pytest.raises(UserError, match=r"the database engine stopped: .*") as caught, explained():
        spark.read_json(raw / "not there.json", {"a": "VARCHAR"})
    assert "\n" not in str(caught.value)


def test_spark_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.options.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"engine=spark needs PySpark, and Java 17 or later: pip install"):
        run(str(city(tmp_path / "raw")), engine="spark")
