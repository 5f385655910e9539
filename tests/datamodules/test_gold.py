"""Gold values and splits of people."""

from typing import Any

import pytest

from datamodules.gold import AGES, age_group, spelled, split_of

pytestmark = pytest.mark.fast


def test_splits_are_a_matter_of_the_id() -> None:
    splits = [split_of(f"user {i}") for i in range(2000)]
    assert splits == [split_of(f"user {i}") for i in range(2000)]
    assert {split: round(splits.count(split) / 2000, 1) for split in set(splits)} == {
        "train": 0.7, "validation": 0.1, "test": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "group"),
    [
        (18, "18-24"),
        (34.0, "25-34"),
        (" 70 ", "65+"),
        ("26-33", "25-34"),
        ("26 – 33", "25-34"),
        ("٣٠", "25-34"),
        ("33-36", None),
        ("16-20", None),
        (17, None),
        (130, None),
        (30.5, None),
        (True, None),
        (float("nan"), None),
        ("thirty", None),
        ("30 years", None),
        (["30"], None),
        (None, None),
    ],
)
def test_ages(value: Any, group: str | None) -> None:
    assert age_group(value) == group


def test_every_age_has_one_group() -> None:
    assert [sum(age in years for years in AGES.values()) for age in range(18, 130)] == [1] * 112


def test_spellings() -> None:
    read = spelled({"Master's": r"master'?s( in .*)?", "None": "no|none"})
    assert [read(raw) for raw in ("MASTERS", " Master’s  in\nlaw", "none", "no master", "", None, 7, ["no"])] == [
        "Master's", "Master's", "None", None, None, None, None, None,
    ]  # fmt: skip
