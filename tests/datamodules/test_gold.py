"""Gold values and splits of people."""

import pytest

from datamodules.gold import split_of

pytestmark = pytest.mark.fast


def test_splits_are_a_matter_of_the_id() -> None:
    splits = [split_of(f"user {i}") for i in range(2000)]
    assert splits == [split_of(f"user {i}") for i in range(2000)]
    assert {split: round(splits.count(split) / 2000, 1) for split in set(splits)} == {
        "train": 0.7, "validation": 0.1, "test": 0.2,
    }  # fmt: skip
