"""Errors by groups of people, against scikit-learn and by hand; small groups are not shown."""

from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from mmprofile.evaluate.subgroups import LEAST, subgroup_scores
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.report.card import model_card
from tests.report.test_card import SETTINGS, example_metrics

AGES = Schema(
    "ages",
    [
        Attribute("Age", ("young", "middle", "old"), sensitive=True),
        Attribute("Pet", ("cat", "dog", "bird")),
        Attribute("Town", ("north", "south")),
    ],
)


def rows(counts: dict[str, int], seed: int = 0) -> list[dict[str, Any]]:
    """Random answers about so many people of each age."""
    rng = np.random.default_rng(seed)
    found = []
    for age, users in counts.items():
        for _ in range(users):
            gold, parsed = (
                {"Age": [age], **{a.name: [str(rng.choice(a.values))] for a in AGES.attributes[1:]}} for _ in range(2)
            )
            found.append({"gold": gold, "parsed": parsed})
    return found


def test_each_group_has_scikit_learns_scores() -> None:
    answers = rows({"young": 40, "middle": LEAST, "old": 17})
    groups = subgroup_scores(AGES, answers)["Age"]
    assert {value: group["users"] for value, group in groups.items()} == {"young": 40, "middle": LEAST, "old": 17}
    for value, group in groups.items():
        for name in ("Pet", "Town"):
            pairs = [(r["gold"][name][0], r["parsed"][name][0]) for r in answers if r["gold"]["Age"] == [value]]
            gold, parsed = zip(*pairs, strict=True)
            expected = 100 * f1_score(gold, parsed, labels=sorted(set(gold)), average="macro", zero_division=0)
            one = group["attributes"][name]
            assert abs(one["macro_f1"] - expected) < 1e-9
            assert abs(one["error"] - 100 * np.mean([a != b for a, b in pairs])) < 1e-9
            assert one["users"] == len(pairs)
        assert set(group["attributes"]) == {"Pet", "Town"}


def test_groups_of_fewer_than_ten_are_not_shown() -> None:
    answers = rows({"young": 12, "middle": LEAST - 1, "old": 12})
    for row in answers[:4]:
        del row["gold"]["Town"]  # 8 of the 12 young ones are left
    groups = subgroup_scores(AGES, answers)["Age"]
    assert groups["middle"] == {"users": None}
    assert groups["young"]["attributes"]["Town"] == {"users": None, "macro_f1": None, "error": None}
    card = model_card(AGES, SETTINGS | {"purpose": "a study"}, example_metrics() | {"subgroups": {"Age": groups}}, {})
    [part] = [part for part in card.split("\n## ") if part.startswith("Groups of people")]
    pet = groups["young"]["attributes"]["Pet"]
    assert f"| young | 12 | Pet | {pet['macro_f1']:.1f} | {pet['error']:.1f} |" in part
    assert "| young | 12 | Town" not in part
    assert "Age middle: fewer than 10 test users, not shown." in part
    assert "| old | 12 | Town" in part


def test_without_sensitive_attributes_there_are_no_groups() -> None:
    plain = Schema("plain", [Attribute("Pet", ("cat", "dog", "bird")), Attribute("Town", ("north", "south"))])
    assert subgroup_scores(plain, rows({"young": 20})) == {}
    assert "Groups of people" not in model_card(plain, SETTINGS, example_metrics(), {})
