"""Votes, worked by hand and against the definition; the table that comes of them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.journal import Record
from mmprofile.llm.labels import Vote, load_labels, save_labels
from mmprofile.llm.people import Person
from mmprofile.llm.vote.voting import NO_EVIDENCE, collect_ballots, find_winner, vote, vote_settings, vote_weights
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

pytestmark = pytest.mark.fast

VALUES = ("a", "b", "c")
SCHEMA = Schema("toy", [Attribute("Letter", VALUES, unknown=True), Attribute("Digit", ("1", "2"), unknown=True)])
PLAIN = replace(vote_settings(load_config("llm", [])), calibration="none", gamma=1.0)


def votes(*pairs: tuple[str, float]) -> list[Vote]:
    return [Vote(i, value, confidence) for i, (value, confidence) in enumerate(pairs)]


def test_confidence_decides_where_numbers_would_not() -> None:
    cast = votes(("a", 0.9), ("b", 0.3), ("b", 0.4))  # S(a) = 0.9, S(b) = 0.7
    winner = find_winner(cast, VALUES)
    assert winner.value == "a"
    assert winner.q == pytest.approx(0.9 / 1.6)
    assert winner.m == pytest.approx(0.9)
    winner = find_winner(cast, VALUES, "majority")
    assert (winner.value, winner.q) == ("b", pytest.approx(2 / 3))
    assert winner.m == pytest.approx(0.35)


def test_a_power_of_the_confidence_holds_back_those_that_saw_nothing() -> None:
    cast = votes(("a", 0.8), ("Unknown", 0.4), ("Unknown", 0.4), ("Unknown", 0.4))
    assert find_winner(cast, VALUES).value == UNKNOWN  # 1.2 against 0.8
    winner = find_winner(cast, VALUES, gamma=2.0)
    assert (winner.value, winner.q) == ("a", pytest.approx(0.64 / (0.64 + 3 * 0.16)))
    assert find_winner(cast, VALUES, gamma=0.0).value == UNKNOWN  # 0: a plain majority


def test_cisc_is_a_softmax_of_confidences() -> None:
    cast = votes(("a", 0.9), ("b", 0.3), ("b", 0.4))
    raised = [math.exp(c / 0.2) for c in (0.9, 0.3, 0.4)]
    assert vote_weights(cast, "cisc", 0.2) == pytest.approx([term / sum(raised) for term in raised])
    assert find_winner(cast, VALUES, "cisc", 0.2).q == pytest.approx(raised[0] / sum(raised))
    assert find_winner(cast, VALUES, "cisc", 100.0).value == "b"  # towards a majority


@pytest.mark.parametrize(
    ("cast", "value"),
    [
        (votes(("a", 0.6), ("b", 0.3), ("b", 0.3)), "b"),  # as much weight, more votes
        (votes(("a", 0.1), ("a", 0.7), ("b", 0.4), ("b", 0.4)), "a"),  # as many, the higher single one
        (votes(("c", 0.5), ("b", 0.5)), "b"),  # the schema's order
        (votes((UNKNOWN, 0.5), ("c", 0.5)), "c"),  # Unknown comes last
        (votes(("c", 0.0), ("c", 0.0), ("a", 0.0)), "c"),  # nobody is confident: plain counts
        ([], UNKNOWN),
    ],
)
def test_ties(cast: list[Vote], value: str) -> None:
    assert find_winner(cast, VALUES).value == value


def test_common_values_are_held_back() -> None:
    cast = votes(("a", 0.6), ("b", 0.5))
    assert find_winner(cast, VALUES, prior={"a": 0.8, "b": 0.2}, alpha=1.0).value == "b"  # 0.75 against 2.5
    assert find_winner(cast, VALUES, prior={"a": 0.8, "b": 0.2}, alpha=1.0).q == pytest.approx(2.5 / 3.25)
    assert find_winner(cast, VALUES, prior={"a": 0.8, "b": 0.2}, alpha=0.0).value == "a"


@given(st.lists(st.tuples(st.sampled_from((*VALUES, UNKNOWN)), st.integers(0, 20).map(lambda i: i / 20)), min_size=1))
def test_the_winner_has_the_highest_sum(pairs: list[tuple[str, float]]) -> None:
    winner = find_winner(votes(*pairs), VALUES)
    sums = {value: sum(c for v, c in pairs if v == value) for value in {v for v, _ in pairs}}
    if sum(sums.values()):
        assert sums[winner.value] == pytest.approx(max(sums.values()))
        assert winner.q == pytest.approx(sums[winner.value] / sum(sums.values()))
    assert 0 <= winner.q <= 1
    assert 0 <= winner.m <= 1


@pytest.mark.parametrize(("method", "temperature"), [("plurality", 1.0), ("cisc", 0.0), ("cisc", -1.0)])
def test_settings_without_meaning(method: str, temperature: float) -> None:
    with pytest.raises(UserError, match=r"vote\.(method|temperature)="):
        vote_weights(votes(("a", 1.0)), method, temperature)


def record(user: str, sample: int, claims: dict[str, Claim], **more: str) -> Record:
    answer = render_answer(claims, SCHEMA)
    return Record(user, sample, f"{user}-{sample}", "p", "m", sample, "", 0.0, answer, **{"origin": "now"} | more)  # type: ignore[arg-type]


def test_from_answers_to_labels(tmp_path: Path) -> None:
    people = [Person("u1", ("x",)), Person("u2", ("y",)), Person("u3", ("z",))]
    records = [
        record("u1", 0, {"Letter": Claim("a", 0.5, "first"), "Digit": Claim("1", 1.0, "one")}),
        record("u1", 1, {"Letter": Claim("a", 0.75, "second")}),
        record("u1", 2, {"Letter": Claim("b", 0.25, "other"), "Digit": Claim(UNKNOWN, 0.5)}),
        record("u2", 0, {"Letter": Claim(UNKNOWN, 0.5, "nothing")})._replace(answer='{"Letter": {"value": "z"}}'),
        record("gone", 0, {"Letter": Claim("c", 1.0)}),
    ]
    labels, calibration = vote(people, collect_ballots(people, SCHEMA, records), SCHEMA, PLAIN)
    by_key = {(label.user_id, label.attribute): label for label in labels}
    assert len(by_key) == 6
    letter = by_key["u1", "Letter"]
    assert (letter.label, letter.rationale) == ("a", "second")
    assert letter.q == pytest.approx(1.25 / 1.5)
    assert letter.m == pytest.approx(0.625)
    assert letter.confidence == pytest.approx(1.25 / 1.5 * 0.625, abs=1e-6)
    assert [cast.request for cast in letter.votes] == ["u1-0", "u1-1", "u1-2"]
    assert by_key["u1", "Digit"].label == "1"
    for key in (("u2", "Letter"), ("u3", "Digit")):  # a value outside the schema votes for nothing; nobody answered
        assert (by_key[key].label, by_key[key].confidence, by_key[key].votes) == (UNKNOWN, 0.0, ())
    assert by_key["u3", "Digit"].rationale == NO_EVIDENCE
    assert calibration["kind"] == "none"
    save_labels(tmp_path / "labels.parquet", labels)
    assert load_labels(tmp_path / "labels.parquet") == labels


def test_a_share_of_unknown_is_reached_by_the_least_confident() -> None:
    people = [Person(f"u{i}", ("x",)) for i in range(10)]
    records = [record(f"u{i}", 0, {"Letter": Claim("a", 0.1 * (i + 1), f"why {i}")}) for i in range(9)]  # u9 is silent
    labels, calibration = vote(
        people, collect_ballots(people, SCHEMA, records), SCHEMA, replace(PLAIN, unknown_rate=0.4)
    )
    letters = [label for label in labels if label.attribute == "Letter"]
    assert [label.user_id for label in letters if label.label == UNKNOWN] == ["u0", "u1", "u2", "u9"]
    assert [label.voted for label in letters[:3]] == ["a", "a", "a"]
    assert {label.rationale for label in letters if label.label == UNKNOWN} == {NO_EVIDENCE}
    assert [label.confidence for label in letters[:4]] == pytest.approx([0.9, 0.8, 0.7, 0.4])  # 1 - that of the value
    assert 0.3 < calibration["thresholds"]["Letter"] < 0.4
    with pytest.raises(UserError, match=r"vote\.unknown_rate=2"):
        vote(people, {}, SCHEMA, replace(PLAIN, unknown_rate=2))


def test_gold_of_one_split_calibrates_all() -> None:
    """Raw confidence 0.2 is right in one of four, 0.8 in three of four."""
    people, records = [], []
    for i in range(16):
        right = i % 4 == 0 if i < 8 else i % 4 != 0
        split = "validation" if i % 8 < 4 else "test"
        people.append(
            Person(f"u{i}", ("x",), {}, split, {"Letter": ("a",) if right else ("b",)} if split == "validation" else {})
        )
        records.append(record(f"u{i}", 0, {"Letter": Claim("a", 0.2 if i < 8 else 0.8)}))
    settings = replace(PLAIN, calibration="isotonic")
    labels, calibration = vote(people, collect_ballots(people, SCHEMA, records), SCHEMA, settings)
    confidences = {label.m: label.confidence for label in labels if label.attribute == "Letter"}
    assert confidences == pytest.approx({0.2: 0.25, 0.8: 0.75})
    assert json.loads(json.dumps(calibration))["kind"] == "isotonic"
    unsure = [*records, record("u0", 1, {"Letter": Claim(UNKNOWN, 0.5)})]
    labels, _ = vote(people, collect_ballots(people, SCHEMA, unsure), SCHEMA, settings)
    assert (labels[0].label, labels[0].confidence) == (UNKNOWN, pytest.approx(0.5 / 0.7 * 0.5, abs=1e-6))  # as voted
    with pytest.raises(UserError, match="needs gold values of the split"):
        vote([replace(p, gold={}) for p in people], collect_ballots(people, SCHEMA, records), SCHEMA, settings)
