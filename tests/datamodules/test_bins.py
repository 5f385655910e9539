"""Labels of every kind from a file, and numbers in bins that the training users alone decide on."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.bins import binned, check_numbers, fewer_bins
from datamodules.label_file import GivenLabels, read_labels
from datamodules.labels import as_label
from mmprofile.errors import UserError
from mmprofile.profile.schema import Attribute, Schema
from tests.support.rawdata import write_lines

pytestmark = pytest.mark.fast

LIKES = Attribute("Likes", ("tea", "cars", "books"), "set", 2, unknown=True, min_size=0)
SIZE = Attribute("Size", ("S", "M", "L"), "ordinal")
SPENDS = Attribute("Spends", kind="number", quantiles=2, unit="€", unknown=True)
VISITS = Attribute("Visits", kind="number", edges=(10, 20))


def read(path: Path, values: list[Any], *attributes: Attribute) -> GivenLabels:
    """The labels of users 0, 1, ..., who have each of ``values``."""
    rows = [{"user_id": str(i), attributes[0].name: value} for i, value in enumerate(values)]
    write_lines(path / "labels.jsonl", rows)
    return read_labels(path / "labels.jsonl", Schema("test", attributes), {str(i) for i in range(len(values))})


def given(found: GivenLabels, name: str) -> dict[int, tuple[str, ...]]:
    return {int(user): profile[name] for user, profile in found.labels.items() if name in profile}


def test_an_empty_list_is_the_empty_set(tmp_path: Path) -> None:
    values: list[Any] = [[], "NONE", ["cars", "Tea"], "tea", None, "", [None], "Unknown", ["tea", "cars", "books"]]
    found = read(tmp_path, values, LIKES)
    none = ("None",)
    assert given(found, "Likes") == {0: none, 1: none, 2: ("tea", "cars"), 3: ("tea",), 7: ()}
    assert found.lines(Schema("test", [LIKES])) == [
        "1 of 6 users: Likes='tea, cars, books' is not 0 to 2 different values of tea, cars, books: these labels are left out"
    ]
    exact = Attribute("Likes", LIKES.values, "set", 2)
    assert given(read(tmp_path, [[], ["tea", "cars"]], exact), "Likes") == {1: ("tea", "cars")}
    assert given(read(tmp_path, ["m", "L"], SIZE), "Size") == {0: ("M",), 1: ("L",)}


def test_a_number_is_a_number_or_a_bin(tmp_path: Path) -> None:
    values: list[Any] = [3, 12.5, "19.99", "20 AND more", [7], None, "Unknown", "many", True, "inf"]
    found = read(tmp_path, values, VISITS)
    assert given(found, "Visits") == {
        0: ("3.0",), 1: ("12.5",), 2: ("19.99",), 3: ("20 and more",), 4: ("7.0",)
    }  # fmt: skip
    schema, labels = binned(Schema("test", [VISITS]), found.labels, ["0", "1", "3", "4"])
    assert [labels[str(user)].get("Visits") for user in range(6)] == [
        ("below 10",), ("10 to 20",), ("10 to 20",), ("20 and more",), ("below 10",), None
    ]  # fmt: skip
    assert schema["Visits"].typical == (5, 12.5, 20)
    assert found.lines(schema) == [
        "3 of 8 users: Visits='many', 'True', 'inf' is not a number: these labels are left out"
    ]
    with pytest.raises(UserError, match=r"1 of 1 user: Spends='below 7' is not a number"):
        read(tmp_path, ["below 7"], SPENDS)  # its bins are not known yet
    assert given(read(tmp_path, ["Unknown", 2], SPENDS), "Spends") == {0: (), 1: ("2.0",)}


def test_quantiles_are_those_of_training_users() -> None:
    labels = {user: {"Spends": as_label(number)} for user, number in zip("abcd", (1, 2, 50.5, 1000), strict=True)}
    schema, found = binned(
        Schema("test", [SPENDS, SIZE]), labels | {"e": {"Spends": ()}, "f": {}}, ["a", "c", "e", "f"]
    )
    assert schema.attributes == (
        Attribute("Spends", kind="number", edges=(50,), typical=(1, 50.5), unit="€", unknown=True),
        SIZE,
    )
    assert [found[user].get("Spends") for user in "abcdef"] == [
        ("below 50",), ("below 50",), ("50 and more",), ("50 and more",), (), None
    ]  # fmt: skip
    assert labels["a"] == {"Spends": ("1.0",)}
    assert fewer_bins(SPENDS, schema["Spends"]) is fewer_bins(SIZE, SIZE) is None
    thirds = Attribute("Spends", kind="number", quantiles=3)
    schema, _ = binned(Schema("test", [thirds]), {user: {"Spends": as_label(user == "d")} for user in "abcd"}, "abcd")
    assert fewer_bins(thirds, schema["Spends"]) == (
        "Spends: 2 bins instead of 3, because many training users have the same number: below 1; 1 and more"
    )
    with pytest.raises(UserError, match="Spends: the numbers of the training users are all 1"):
        binned(Schema("test", [SPENDS]), labels, ["a"])


def test_quantiles_need_labels() -> None:
    check_numbers(Schema("test", [SPENDS, VISITS, SIZE]), {"Spends"})
    with pytest.raises(UserError, match="there are no labels of Spends, so it has no quantiles"):
        check_numbers(Schema("test", [VISITS, SPENDS]), {"Visits"})
