"""Answers read and written: nothing raises, nothing is guessed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmprofile.llm.answers import Claim, parse_answer, render_answer
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

pytestmark = pytest.mark.fast

SCHEMA = Schema("toy", [Attribute("Age", ("young", "65+"), unknown=True), Attribute("Life Stage", ("a", "b"))])


def answer(**claim: Any) -> str:
    return json.dumps({"Age": {"rationale": "r", "value": "young", "confidence": 50} | claim})


@given(
    st.dictionaries(
        st.sampled_from(SCHEMA.names),
        st.tuples(st.booleans(), st.integers(0, 100), st.text().map(lambda text: " ".join(text.split()))),
    )
)
def test_what_is_written_is_read(drawn: dict[str, tuple[bool, int, str]]) -> None:
    claims = {
        name: Claim(SCHEMA[name].values[0] if known else UNKNOWN, percent / 100, why)
        for name, (known, percent, why) in drawn.items()
    }
    parsed = parse_answer(render_answer(claims, SCHEMA), SCHEMA)
    assert parsed.claims == claims
    if claims:
        assert parsed.faults == [f"{name}: missing" for name in SCHEMA.names if name not in claims]


@given(
    st.text()
    | st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_nothing_raises_and_nothing_is_guessed(text: str) -> None:
    parsed = parse_answer(text, SCHEMA)
    assert parsed.claims == {}
    assert parsed.faults


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! Here it is:\n```json\n{answer()}\n```\nHope that helps {{smile}}.",
        f'{{"thoughts": "..."}} {answer()}',
        f"<think>As asked: {answer(value='...')}, so {answer(value='Unknown')}</think> {answer()}",
        answer().replace('"Age"', '" AGE "').replace("young", " Young"),
        answer(confidence=50.0, more="?"),
    ],
)
def test_prose_and_spelling_are_forgiven(text: str) -> None:
    assert parse_answer(text, SCHEMA).claims == {"Age": Claim("young", 0.5, "r")}


@pytest.mark.parametrize(
    ("given", "share"),
    [
        (90, 0.9), (90.0, 0.9), ("90", 0.9), (" 90 % ", 0.9), ("85%", 0.85), ("0.9", 0.9), (0.9, 0.9), (1.0, 1.0), (1, 0.01),
        ("1", 0.01), ("1.0", 1.0), ("0.5%", 0.005), (0, 0.0), (0.0, 0.0), (100, 1.0), (1.5, 0.015),
    ],
)  # fmt: skip
def test_confidence_as_models_write_it(given: Any, share: float) -> None:
    """A share is a number with a point, at most 1: no model is 0.9 % sure, and one that is 1 % sure writes 1."""
    assert parse_answer(answer(confidence=given), SCHEMA).claims["Age"].confidence == pytest.approx(share)


def test_names_and_values_as_models_spell_them() -> None:
    """Underscores, hyphens and blanks are one, unless the schema tells them apart."""
    row = {"rationale": "r", "value": "family-with_kids", "confidence": 50}
    schema = Schema("toy", [Attribute("Life Stage", ("Family with Kids", "b")), Attribute("Size", ("1-2", "1 2", "3"))])
    for name in ("Life_Stage", "life-stage", "LIFE  STAGE"):
        assert parse_answer(json.dumps({name: row}), schema).claims["Life Stage"].value == "Family with Kids"
    assert parse_answer(json.dumps({"Size": row | {"value": "1-2"}}), schema).claims["Size"].value == "1-2"
    assert parse_answer(json.dumps({"Size": row | {"value": "1--2"}}), schema).claims == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (answer(confidence="high"), "Age: confidence 'high' is no number from 0 to 100"),
        (answer(confidence="50 of 100"), "Age: confidence '50 of 100' is no number from 0 to 100"),
        (answer(confidence="150%"), "Age: confidence '150%' is no number"),
        (answer(confidence=101), "Age: confidence '101' is no number"),
        (answer(confidence=-1), "Age: confidence '-1' is no number"),
        (answer(confidence=True), "Age: confidence 'True' is no number"),
        (answer(confidence=float("nan")), "Age: confidence 'nan' is no number"),
        (answer(confidence=None), "Age: confidence 'None' is no number"),
        (answer(value="old"), "Age: value 'old' is none of its values"),
        (answer(value=["young"]), "Age: value \"['young']\" is none of its values"),
        ('{"Age": {"confidence": 50}}', "Age: value '' is none of its values"),
        ('{"Age": "young"}', "Age: 'young' is no object"),
        (answer()[:-2], "no JSON object with an attribute of the schema"),
        ("[" * 100_000, "no JSON object"),
    ],
)
def test_what_is_not_understood_is_a_fault(text: str, fault: str) -> None:
    parsed = parse_answer(text, SCHEMA)
    assert parsed.claims == {}
    assert parsed.faults[0].startswith(fault)


def test_null_is_unknown_and_strange_attributes_are_named() -> None:
    parsed = parse_answer('{"Age": {"value": null, "confidence": 0}, "Job": {"value": "x"}}', SCHEMA)
    assert parsed.claims == {"Age": Claim(UNKNOWN, 0.0, "")}
    assert parsed.faults == ["Life Stage: missing", "'job' is no attribute of the schema"]
