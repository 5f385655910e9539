"""Sentences that look like evidence: how they are learned from quotations, selected, shown and kept with a model."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.inputs.evidence import (
    LEAST_USERS,
    EvidenceSelector,
    load_selector,
    quotes_of,
    sentences_of,
)
from mmprofile.inputs.views import User

pytestmark = pytest.mark.fast


def people(count: int = LEAST_USERS) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Each has two sentences that are quoted (one by a free rationale) and three that are not; and a name of their own."""
    reviews = ("Lovely soup. My husband paid. We sat outside.", "I teach maths! Lovely soup.")
    rationales = ("my husband", 'The writer says "I teach", so probably a teacher')
    return [([*reviews, f"Greetings from Person{i}."], rationales) for i in range(count)]


def test_weights_are_log_ratios_of_the_shares_of_sentences_with_a_word() -> None:
    selector = EvidenceSelector.fit(people(), 2)
    n, quoted, other = LEAST_USERS, 2 * LEAST_USERS, 3 * LEAST_USERS  # "Lovely soup." is one sentence, said twice
    log_ratio = math.log((n + 0.5) / (quoted + 1)) - math.log(0.5 / (other + 1))
    assert selector.weights["husband"] == selector.weights["teach"] == pytest.approx(log_ratio, abs=1e-3)
    log_ratio = math.log(0.5 / (quoted + 1)) - math.log((n + 0.5) / (other + 1))
    assert selector.weights["soup"] == pytest.approx(log_ratio, abs=1e-3)
    assert "person0" not in selector.weights  # one person's word is not kept
    assert not EvidenceSelector.fit(people(LEAST_USERS - 1), 2).weights


def test_the_best_sentences_are_shown_as_one_more_review() -> None:
    selector = EvidenceSelector.fit(people(), 2)
    others = ["We sat at the bar. I teach  art.", "Lovely soup.\nMy husband teach", "I teach art."]
    assert selector.select(others) == ["I teach art.", "My husband teach"]  # in the reviews' order, each once
    user = selector.shown(User("ann", ("Fine.",), photos=("1",)), others)
    assert user == User("ann", ("Fine.", "I teach art.\nMy husband teach"), photos=("1",))
    assert sentences_of(user.reviews[1]) == selector.select(others)  # so that it can be taken apart again
    assert selector.shown(user, []) == user
    assert EvidenceSelector(9, {}).select(["One. Two.", "Three."]) == ["One.", "Two.", "Three."]


def test_sentences_and_quotations() -> None:
    assert sentences_of("It cost $4.50, at 5 p.m.?! Good。Very good\n\n so ") == [
        "It cost $4.50, at 5 p.m.?!", "Good。", "Very good", "so",
    ]  # fmt: skip
    assert sentences_of(" \n") == []
    assert quotes_of('says “my wife” and "I\'m 40"') == ["my wife", "I'm 40"]
    assert (quotes_of(" my wife "), quotes_of(" ")) == (["my wife"], [])


def test_without_quotations_there_is_nothing_to_learn_from() -> None:
    for rationales in ([""], ["something else"], []):
        with pytest.raises(UserError, match=r"inputs\.evidence=4: no rationale of the labels quotes a review"):
            EvidenceSelector.fit([(["My husband paid."], rationales)], 4)


def test_a_selector_is_kept_in_a_file(tmp_path: Path) -> None:
    assert load_selector(tmp_path) is None
    selector = EvidenceSelector(3, {"ehefrau": 1.5, "妻": 2.0})
    selector.save(tmp_path)
    assert load_selector(tmp_path) == selector
    for content in ("{", "[]", json.dumps({"sentences": 3, "weights": {"a": "b"}})):
        (tmp_path / "evidence.json").write_text(content)
        with pytest.raises(UserError, match=r"evidence\.json: damaged"):
            load_selector(tmp_path)
