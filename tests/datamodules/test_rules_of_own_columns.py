"""Rules for labels from any column of one's own tables, against plain Python on random tables."""

import json
import random
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.prepare import Prepared, open_prepared, prepare
from mmprofile.errors import UserError
from mmprofile.profile.schema import Attribute, Schema
from tests.support.rawdata import write_lines

OPEN = {"min_words": 1, "max_words": 300, "min_reviews": 1, "photo_reviews": 0, "min_labels": 0}
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")


def tables(seed: int) -> tuple[Rows, Rows]:
    """Random reviews and shops: values, ties, nulls, missing keys, few that cannot be read, shops that are not listed."""
    draw = random.Random(seed)
    channels = ["shop", "Web", "phone", "mail", None]
    reviews = []
    for user in range(25):
        for _ in range(draw.randint(1, 6)):
            row: dict[str, Any] = {
                "user_id": f"u{user}",
                "text": f"review of u{user}",
                "business_id": f"b{draw.randint(0, 6)}",
            }
            row["price"] = draw.choice([None, draw.randint(1, 9), draw.randint(2, 18) / 2, str(draw.randint(1, 9)), ""])
            row["channel"] = draw.choice(channels)
            row["tags"] = draw.choice([None, [], ["new"], ["Red", "new"], ["red", "OLD", "new"]])
            if draw.random() < 0.7:
                row["helpful"] = draw.choice([True, False, None])
            reviews.append(row)
    reviews[3]["price"] = "cheap"
    shops = [{"business_id": f"b{b}", "rent": draw.choice([None, 10 * b, 5.5]), "area": draw.choice([None, "North", "south"])}
             for b in range(5)]  # fmt: skip
    return reviews, shops


def run(folder: Path, schema: Schema, reviews: Rows, shops: Rows | None = None, parquet: bool = False) -> Prepared:
    folder.mkdir(exist_ok=True)
    source = {"kind": "custom"}
    for name, rows in (("reviews", reviews), ("businesses", shops)):
        if rows is None:
            continue
        path = folder / f"{name}.{'parquet' if parquet else 'jsonl'}"
        if parquet:
            plain = [{key: str(value) if key == "price" and value is not None else value for key, value in row.items()}
                     for row in rows]  # fmt: skip
            pq.write_table(pa.Table.from_pylist(plain), path)
        else:
            write_lines(path, list(rows))
        source[name] = str(path)
    return open_prepared(
        prepare(source, OPEN, {"train": 0.8, "validation": 0.1, "test": 0.1}, schema=schema, progress=False)
    )


def found_labels(prepared: Prepared) -> dict[str, dict[str, list[str] | None]]:
    return {
        row["reviews"][0]["text"].removeprefix("review of "): row["profile"]
        for split in prepared.datasets.values()
        for row in split
    }


def numbers(values: list[Any]) -> list[float]:
    read = []
    for value in values:
        try:
            read.append(float(value))
        except (TypeError, ValueError):
            continue
    return read


def items(value: Any) -> list[str]:
    given = value if isinstance(value, list) else [value]
    return [str(item).lower() for item in given]


def value_of(number: float | None, cuts: list[float]) -> list[str] | None:
    return None if number is None else ["low", "middle", "high"][sum(cut <= number for cut in cuts)]  # type: ignore[return-value]


Oracle = Callable[[list[Any]], float | None]
"""The values of a user's visits, None where nothing is given -> the number of the rule."""
NUMBERS: list[tuple[dict[str, Any], Oracle]] = [
    ({"source": "review.price", "aggregation": "mean"}, lambda v: statistics.mean(numbers(v)) if numbers(v) else None),
    (
        {"source": "review.price", "aggregation": "quantile", "q": 0.25},
        lambda v: float(np.quantile(numbers(v), 0.25)) if numbers(v) else None,
    ),
    ({"source": "review.price", "aggregation": "count"}, lambda v: sum(value not in (None, "") for value in v)),
    ({"source": "review.helpful", "aggregation": "count", "of": "True"}, lambda v: sum(value is True for value in v)),
    (
        {"source": "review.channel", "aggregation": "share", "of": "web"},
        lambda v: statistics.mean(x == "Web" for x in v if x) if any(v) else None,
    ),
    (
        {"source": "review.tags", "aggregation": "share", "of": "RED"},
        lambda v: (
            statistics.mean("red" in items(x) for x in v if x is not None) if any(x is not None for x in v) else None
        ),
    ),
    ({"source": "business.rent", "aggregation": "mean"}, lambda v: statistics.mean(numbers(v)) if numbers(v) else None),
    (
        {"source": "business.area", "aggregation": "count", "of": "South"},
        lambda v: sum(value == "south" for value in v),
    ),
]


def visits(source: str, reviews: Rows, shops: Rows) -> dict[str, list[Any]]:
    table, _, key = source.partition(".")
    by_id = {shop["business_id"]: shop for shop in shops}
    result: dict[str, list[Any]] = {}
    for review in reviews:
        row = review if table == "review" else by_id.get(review["business_id"], {})
        result.setdefault(review["user_id"], []).append(row.get(key))
    return result


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("seed", range(1, 4))
def test_numbers_by_given_cuts(tmp_path: Path, seed: int, parquet: bool) -> None:
    reviews, shops = tables(seed)
    every = [sorted({number for number in map(oracle, visits(rule["source"], reviews, shops).values()) if number is not None})
             for rule, oracle in NUMBERS]  # fmt: skip
    # The upper cut is a number that occurs, so that ties with it are tried; the lower one lies between two.
    cuts = [[(found[0] + found[1]) / 2, found[-2] if len(found) > 3 else found[-1]] for found in every]
    attributes = [
        Attribute(f"A{n}", ("low", "middle", "high"), rule=rule | {"cuts": cuts[n]})
        for n, (rule, _) in enumerate(NUMBERS)
    ]
    found = found_labels(run(tmp_path / "data", Schema("own", attributes), reviews, shops, parquet))
    assert len(found) == 25
    for n, (rule, oracle) in enumerate(NUMBERS):
        for user, values in visits(rule["source"], reviews, shops).items():
            wanted = value_of(oracle(values), cuts[n])
            assert found[user][f"A{n}"] == (None if wanted is None else [wanted]), (rule, user, values)


@pytest.mark.parametrize("seed", range(1, 4))
def test_modes(tmp_path: Path, seed: int) -> None:
    reviews, shops = tables(seed)
    schema = Schema("own", [
        Attribute("Channel", ("web", "shop", "Phone"), rule={"source": "review.channel", "aggregation": "mode"}),
        Attribute("Tags", ("new", "red", "old"), kind="set", size=2, rule={"source": "review.tags", "aggregation": "mode"}),
        Attribute("Price", ("1", "2", "3"), rule={"source": "review.price", "aggregation": "mode"}),
        Attribute("Area", ("South", "North"), rule={"source": "business.area", "aggregation": "mode"}),
    ])  # fmt: skip
    found = found_labels(run(tmp_path / "data", schema, reviews, shops))
    for attribute in schema.attributes:
        assert attribute.rule is not None
        for user, values in visits(attribute.rule["source"], reviews, shops).items():
            spelled = [known.lower() for known in attribute.values]
            counts = Counter(item.removesuffix(".0") for value in values for item in items(value))
            ranked = sorted((-counts[word], place) for place, word in enumerate(spelled) if counts[word])[
                : attribute.size
            ]
            wanted = sorted(place for _, place in ranked) if len(ranked) == attribute.size else None
            assert found[user][attribute.name] == ((wanted and [attribute.values[place] for place in wanted]) or None)


def test_quantiles_of_the_training_users_alone(tmp_path: Path) -> None:
    reviews = [{"user_id": f"u{n}", "text": f"review of u{n}", "price": n * n} for n in range(40)]
    rule = {"source": "review.price", "aggregation": "mean", "cuts": "train_quantiles"}
    schema = Schema("own", [Attribute("Spends", ("low", "middle", "high"), rule=rule)])
    prepared = run(tmp_path / "data", schema, reviews)
    train = [int(row["reviews"][0]["text"].removeprefix("review of u")) ** 2 for row in prepared.datasets["train"]]
    cuts = [float(cut) for cut in np.quantile(train, [1 / 3, 2 / 3])]
    assert prepared.manifest["labels"]["cuts"] == {"Spends": cuts}
    for user, profile in found_labels(prepared).items():
        assert profile["Spends"] == [value_of(int(user[1:]) ** 2, cuts)]
    card = (prepared.folder / "README.md").read_text()
    assert f"`mean` of `review.price`, cuts {cuts[0]:g}, {cuts[1]:g} (quantiles of the training users)" in card


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviews, shops = tables(0)
    shops += [{"business_id": "b0", "rent": 1}]
    schema = Schema("own", [
        Attribute("Spends", ("low", "high"), rule={"source": "review.price", "aggregation": "mean", "cuts": 4}),
        Attribute("Rent", ("low", "high"), rule={"source": "business.rent", "aggregation": "mean", "cuts": 4}),
    ])  # fmt: skip
    folder = tmp_path / "data"
    manifest = run(folder, schema, reviews, shops).manifest
    given = sum(row["price"] not in (None, "") for row in reviews)
    assert manifest["notes"]["columns"]["review.price"] == {
        "given": given, "wrong": 1, "examples": ["cheap"], "expected": "a number",
    }  # fmt: skip
    assert manifest["notes"]["repeated_businesses"] == 1
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row | {"price": "cheap"}) + "\n" for row in reviews))
    source = {
        "kind": "custom",
        "reviews": str(folder / "reviews.jsonl"),
        "photos": str(folder / "not read before.jsonl"),
    }
    (folder / "not read before.jsonl").write_text("{}\n" * 3)
    with pytest.raises(UserError, match=r"values of review\.price are not a number, such as 'cheap'"):
        prepare(source, OPEN, schema=schema, progress=False)


def test_businesses_without_an_id_and_other_columns(tmp_path: Path) -> None:
    reviews, shops = tables(0)
    rule = {"source": "business.Area", "aggregation": "mode"}
    schema = Schema("own", [Attribute("Area", ("north", "south"), rule=rule)])
    with pytest.raises(UserError, match=r"businesses.jsonl: the column 'Area'.* is not there \(did you mean area\?\)"):
        run(tmp_path / "data", schema, reviews, shops)
    with pytest.raises(
        UserError, match=r"businesses.jsonl: 1 of 6 lines are malformed, the first is line 6 \(no business_id"
    ):
        run(tmp_path / "data", schema, reviews, [*shops, {"Area": "north"}])


def test_a_number_goes_into_the_bins_of_its_attribute(tmp_path: Path) -> None:
    reviews = [{"user_id": f"u{n}", "text": f"review of u{n}", "price": n} for n in range(40)]
    rule = {"source": "review.price", "aggregation": "mean"}
    schema = Schema("own", [Attribute("Spends", kind="number", edges=(10, 30), rule=rule)])
    for user, profile in found_labels(run(tmp_path / "data", schema, reviews)).items():
        assert profile["Spends"] == [
            ["below 10", "10 to 30", "30 and more"][sum(cut <= int(user[1:]) for cut in (10, 30))]
        ]
    with pytest.raises(UserError, match="a number is cut into its own bins"):
        run(
            tmp_path,
            Schema("own", [Attribute("Spends", kind="number", quantiles=2, rule=rule | {"cuts": [1]})]),
            reviews,
        )


def test_a_set_of_any_size_takes_what_there_is(tmp_path: Path) -> None:
    tags = [["a", "b", "c"], ["b"], ["d"], None]
    reviews = [{"user_id": f"u{n}", "text": f"review of u{n}", "tags": item} for n, item in enumerate(tags * 5)]
    rule = {"source": "review.tags", "aggregation": "mode"}
    schema = Schema("own", [Attribute("Tags", ("a", "b", "c"), kind="set", size=2, min_size=1, rule=rule)])
    found = found_labels(run(tmp_path / "data", schema, reviews))
    assert [found[f"u{n}"]["Tags"] for n in range(4)] == [["a", "b"], ["b"], None, None]
