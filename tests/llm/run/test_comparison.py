"""The table's figures: a row is the mean of its draws, and differences are told in words."""

import numpy as np
import pytest

from mmprofile.llm.answers import Claim
from mmprofile.llm.people import Person
from mmprofile.llm.run.comparison import describe, resample, score
from mmprofile.llm.scores import score_labels
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast


def test_a_row_is_the_mean_of_its_draws() -> None:
    schema = Schema("toy", [Attribute("Letter", ("a", "b"), unknown=True)])
    people = [Person(f"u{i}", gold={"Letter": ("a",)}) for i in range(8)]
    right, wrong = [{"Letter": Claim("a", 0.9)}] * 8, [{"Letter": Claim("b", 0.9)}] * 8
    mixed = [*right[:6], *wrong[:2]]
    draws = [right, wrong, mixed]
    row = score(schema, people, draws, resample(schema, people, draws, 0))
    assert row["f1"] == pytest.approx((100 + 0 + 75) / 3, abs=1e-3)
    assert row["ece"] == pytest.approx((0.1 + 0.9 + 0.15) / 3, abs=1e-4)
    interval = score_labels(schema.names, [person.gold for person in people], mixed).interval
    assert interval is not None
    assert row["interval"] == pytest.approx([(100 + end) / 3 for end in interval], abs=1e-3)
    assert np.isfinite(row["aurc"])
    assert (resample(schema, people, [right], 0) - resample(schema, people, [wrong], 0) == 100).all()


def test_it_is_said_plainly_which_is_above() -> None:
    assert describe("ours - sft", 1.25, [0.5, 2.0]) == "SFT + ours is above SFT: +1.25 F1, 95 % +0.50 to +2.00"
    assert "is below SFT + TTRL: -1.25" in describe("ours - ttrl", -1.25, [-2.0, -0.5])
    assert "is neither above nor below (within chance) SFT" in describe("scrl - sft", 1.0, [-0.5, 2.0])
