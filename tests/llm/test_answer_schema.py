"""The JSON schema of answers against ``jsonschema``, in both directions: what we write is valid, what is valid is understood."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmprofile.llm.answer_schema import answer_schema
from mmprofile.llm.answers import Claim, parse_answer, render_answer
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

pytestmark = pytest.mark.fast

SCHEMA = Schema(
    "toy", [Attribute("Age", ("young", "65+", 'so-"called"'), unknown=True), Attribute("Life Stage", ("a", "A b"))]
)
VALIDATOR = jsonschema.Draft202012Validator(answer_schema(SCHEMA))
CHOICES = {attribute.name: (*attribute.values, UNKNOWN) for attribute in SCHEMA.attributes}


def claims_of(confidence: Any, rationale: Any) -> Any:
    return st.fixed_dictionaries(
        {
            name: st.fixed_dictionaries(
                {"rationale": rationale, "value": st.sampled_from(values), "confidence": confidence}
            )
            for name, values in CHOICES.items()
        }
    )


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(answer_schema(SCHEMA, longest=3))


@given(claims_of(st.integers(0, 100), st.text()))
def test_what_is_written_is_valid(rows: dict[str, Any]) -> None:
    claims = {name: Claim(row["value"], row["confidence"] / 100, row["rationale"]) for name, row in rows.items()}
    VALIDATOR.validate(json.loads(render_answer(claims, SCHEMA)))


@given(claims_of(st.integers(-10, 110) | st.floats(0, 100), st.text() | st.none()))
def test_what_is_valid_is_understood(rows: dict[str, Any]) -> None:
    parsed = parse_answer(json.dumps(rows), SCHEMA)
    if VALIDATOR.is_valid(rows):
        assert parsed.faults == []
        assert {name: claim.value for name, claim in parsed.claims.items()} == {
            n: row["value"] for n, row in rows.items()
        }


def test_reasons_come_before_decisions() -> None:
    made = answer_schema(SCHEMA)
    assert [*made["properties"]] == made["required"] == ["Age", "Life Stage"]
    for claim in made["properties"].values():
        assert [*claim["properties"]] == claim["required"] == ["rationale", "value", "confidence"]


GOOD = {name: {"rationale": "said so", "value": UNKNOWN, "confidence": 40} for name in CHOICES}


@pytest.mark.parametrize(
    "row",
    [
        {"value": "old"},
        {"value": "65+"},  # another attribute's
        {"value": None},
        {"confidence": 101},
        {"confidence": -1},
        {"confidence": "90"},
        {"confidence": 0.5},
        {"rationale": 7},
        {"rationale": "more than allowed"},
        {"more": 1},
    ],
)
def test_what_is_not_valid(row: dict[str, Any]) -> None:
    checked = jsonschema.Draft202012Validator(answer_schema(SCHEMA, longest=10))
    checked.validate(GOOD)
    assert not checked.is_valid(GOOD | {"Life Stage": GOOD["Life Stage"] | row})


def test_every_attribute_is_required() -> None:
    assert not VALIDATOR.is_valid({"Age": GOOD["Age"]})
    assert not VALIDATOR.is_valid(GOOD | {"Gender": GOOD["Age"]})
