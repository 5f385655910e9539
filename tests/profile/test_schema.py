"""The profile schema: what is rendered is read back, anything else is read without raising, and all of it is data."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.profile.attributes import KINDS
from mmprofile.profile.schema import Attribute, Profile, Schema, check_purpose

pytestmark = pytest.mark.fast

# Words that share beginnings, hold marks, look like numbers or like "Unknown"; names and values are one or two of them.
WORDS = ["a", "ab", "A-b", "Éa", "&", "<x>", "1", "10", "1/2", "(b)", "it's", "True", "Unknowns", "not", "b.c", "日本"]
NAME = st.sampled_from([*WORDS, *(f"{a} {b}" for a in WORDS for b in WORDS)])
EXACT = "Stars: 4; Favorite Category: Pizza, Coffee & Tea; Preferred Meal: Dinner; Budget Range: Low; "
EXACT += "Discount Preference: True; Service Preference: False"


def names(least: int, most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(NAME, min_size=least, max_size=most, unique_by=str.lower)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    attributes = []
    for name in draw(names(1, 4)):
        values, kind, unknown = draw(names(2, 6)), draw(st.sampled_from(KINDS)), draw(st.booleans())
        if kind == "number":
            edges = draw(st.lists(st.floats(-1e6, 1e6) | st.integers(-99, 99), min_size=1, max_size=4, unique=True))
            attributes.append(Attribute(name, kind=kind, edges=tuple(sorted(edges)), unknown=unknown))
            continue
        size = draw(st.integers(1, len(values))) if kind in ("set", "ordered") else 1
        least = draw(st.none() | st.integers(0, size)) if kind == "set" else None
        attributes.append(Attribute(name, tuple(values), kind, size, unknown=unknown, min_size=least))
    return Schema("random", attributes)


@st.composite
def values_of(draw: st.DrawFn, attribute: Attribute) -> tuple[str, ...]:
    size = draw(st.integers(attribute.least, attribute.size))
    return attribute.canonical(draw(st.permutations(attribute.values))[:size]) or attribute.empty


def profiles(schema: Schema) -> st.SearchStrategy[Profile]:
    """Legal profiles."""
    chosen = {a.name: st.just(()) | values_of(a) if a.unknown else values_of(a) for a in schema.attributes}
    return st.fixed_dictionaries(chosen)


@settings(max_examples=50)
@given(st.data())
def test_what_is_rendered_is_read_back_without_faults(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    profile = data.draw(profiles(schema))
    assert schema.parse(schema.render(profile)) == (profile, [])


@settings(max_examples=50)
@given(st.data())
def test_blanks_case_order_and_line_breaks_are_forgiven(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    profile = data.draw(profiles(schema))
    parts = data.draw(st.permutations(schema.render(profile).split("; ")))
    separator = data.draw(st.sampled_from([";", "\n", " ;\n ", "; ;"]))
    text = separator.join(parts).replace(":", " :  ").replace(", ", " ,").replace(" ", "  ")
    assert schema.parse(text.upper()) == (profile, [])


@settings(max_examples=50)
@given(st.data(), st.text(max_size=200))
def test_any_text_is_read_and_only_legal_values_come_out(data: st.DataObject, text: str) -> None:
    schema = data.draw(schemas())
    whole = schema.render(data.draw(profiles(schema)))
    cut = data.draw(st.integers(0, len(whole)))
    for candidate in (text, whole[:cut] + text, text + whole[cut:], whole.replace(";", text)):
        profile, faults = schema.parse(candidate)
        assert tuple(profile) == schema.names
        for attribute in schema.attributes:
            values = profile[attribute.name]
            assert len(values) <= attribute.size
            assert len(set(values)) == len(values)
            assert set(values) <= {*attribute.values, *attribute.empty}
            assert values == attribute.canonical(values)
            spoken_of = any(fault.startswith(f"{attribute.name}: ") for fault in faults)
            assert attribute.allows(values) or (attribute.unknown and not values) or spoken_of


@settings(max_examples=50)
@given(st.data())
def test_masked_attributes_and_nothing_else_are_hidden(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    profile = data.draw(profiles(schema))
    hidden = data.draw(st.sets(st.sampled_from(schema.names)))
    tokens = [f"<{i}>" for i in range(len(schema.names))]
    whole, masked = schema.render(profile).split("; "), schema.mask(profile, hidden, tokens).split("; ")
    left = iter(tokens)
    for name, before, after in zip(schema.names, whole, masked, strict=True):
        assert after == (f"{name}: {next(left)}" if name in hidden else before)
    assert schema.mask(profile, (), tokens) == schema.render(profile)


def test_yelp_profile_exactly(schema: Schema) -> None:
    profile = {
        "Service Preference": ("False",),
        "Favorite Category": ("Coffee & Tea", "Pizza"),
        "Stars": ("4",),
        "Preferred Meal": ("Dinner",),
        "Budget Range": ("Low",),
        "Discount Preference": ("True",),
    }
    assert schema.render(profile) == EXACT
    assert schema.parse(EXACT).profile == {**profile, "Favorite Category": ("Pizza", "Coffee & Tea")}
    assert schema.mask(profile, ["Stars", "Budget Range"], ["<a>", "<b>"]) == EXACT.replace(": 4", ": <a>").replace(
        "Low", "<b>"
    )
    assert schema.mask(profile, schema.names, ["<a>", "<b>"]).count("<b>") == 5
    assert [len(a.values) for a in schema.attributes] == [5, 10, 4, 2, 2, 2]
    assert schema["favorite category"].size == 2


@pytest.mark.parametrize(
    ("change", "profile", "fault"),
    [
        (("Stars: 4", "Stars: 6"), {"Stars": ()}, "Stars: not a value: '6'"),
        (("Stars: 4; ", ""), {"Stars": ()}, "Stars: missing"),
        (("Stars: 4", "Stars: 4, 5"), {"Stars": ("4",)}, "Stars: 2 values, expected 1"),
        (("Stars: 4", "Stars: Unknown"), {"Stars": ()}, "Stars: Unknown is not allowed"),
        (("Stars: 4", "Stars: 4; Stars: 5"), {"Stars": ("4",)}, "Stars: given twice"),
        (("Stars: 4", "Stars 4"), {"Stars": ()}, "not an attribute: 'Stars 4'"),
        (("Stars: 4", "Stars: 4; Mood: good"), {"Stars": ("4",)}, "not an attribute: 'Mood: good'"),
        (("Pizza, C", "Pizza, Pizza, C"), {}, "Favorite Category: 'Pizza' twice"),
        (
            (", Coffee & Tea", ""),
            {"Favorite Category": ("Pizza",)},
            "Favorite Category: 1 of 2 values",
        ),
    ],
)
def test_faults_are_named(schema: Schema, change: tuple[str, str], profile: Profile, fault: str) -> None:
    parsed = schema.parse(EXACT.replace(*change))
    assert fault in parsed.faults
    assert parsed.profile == {**schema.parse(EXACT).profile, **profile}


def test_another_schema_is_data(tmp_path: Path, legal_profiles: Callable[[Schema], list[Profile]]) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "Mood", "kind": "ordered", "size": 2, "values": ["good", "bad", 3], "unknown": True},
        {"name": "Pet", "values": ["cat", "dog"], "text_only": True, "rule": {"source": "review.stars"}},
    ]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "attributes": rows}))
    schema = Schema.from_yaml(path)
    assert schema.render({"Mood": ("3", "good"), "Pet": ("dog",)}) == "Mood: 3, good; Pet: dog"
    assert schema.parse("Pet: CAT\nMood: unknown") == ({"Mood": (), "Pet": ("cat",)}, [])
    assert len({schema.render(profile) for profile in legal_profiles(schema)}) == (6 + 1) * 2
    assert Schema.from_dict(schema.to_dict()) == schema
    assert Schema.from_dict({**schema.to_dict(), "attributes": schema.to_dict()["attributes"][:1]}) != schema


NUMBER: dict[str, Any] = {"kind": "number", "edges": [1], "values": []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "many"}, "kind 'many' is not one of single, set, ordered"),
        ({"values": ["a"]}, "at least two values"),
        ({"values": ["a", "A"]}, "all different"),
        ({"size": 2}, "kind single has size 1"),
        ({"kind": "set", "size": 3}, "size 3 does not fit 2 values"),
        ({"values": ["a", "b; c"]}, "'b; c' is empty, has stray blanks"),
        ({"values": ["a", " b"]}, "stray blanks"),
        ({"name": "A: b"}, "contains one of"),
        ({"values": ["a", "unknown"]}, "set `unknown: true`"),
        ({"min_size": 0}, "min_size 0 should be 0 to size (1), of kind set"),
        ({"kind": "set", "min_size": 2}, "min_size 2 should be 0 to size (1)"),
        ({"kind": "set", "min_size": 0, "values": ["a", "none"]}, "leave 'None' out of the values"),
        ({"kind": "ordinal", "size": 2}, "kind ordinal has size 1"),
        ({"edges": [1]}, "edges goes with kind number, not single"),
        (NUMBER | {"values": ["a", "b"]}, "a number has no values: its bins are its values"),
        (NUMBER | {"edges": []}, "a number has edges, or else quantiles"),
        (NUMBER | {"quantiles": 3}, "a number has edges, or else quantiles"),
        (NUMBER | {"edges": [3, 3]}, "edges must grow: 3, 3"),
        (NUMBER | {"edges": [1, "b"]}, "edges are not all numbers: [1, 'b']"),
        (NUMBER | {"edges": [1, math.inf]}, "edges are not all numbers"),
        (NUMBER | {"edges": 5}, "an attribute has the keys"),
        (NUMBER | {"typical": [1]}, "1 edges make 2 bins, not 1"),
        (NUMBER | {"edges": [], "quantiles": 1}, "quantiles 1 is not a number of bins"),
        (NUMBER | {"edges": [], "quantiles": 2, "text_only": True}, "which have no text-only attributes"),
        ({"colour": "red"}, "an attribute has the keys name, values"),
        ({"values": 3}, "an attribute has the keys"),
    ],
)
def test_contradictions_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Schema.from_dict({"attributes": [{"name": "A", "values": ["a", "b"]} | changes]})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=50)
@given(schemas())
def test_a_schema_is_plain_data(schema: Schema) -> None:
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_a_schema_of_older_kinds_is_the_data_that_it_was(schema: Schema) -> None:
    """Prepared folders are found by a hash of it."""
    keys = {"name", "values", "kind", "size", "unknown", "text_only", "sensitive", "rule"}
    assert all(row.keys() == keys for row in schema.to_dict()["attributes"])


def test_a_number_is_completed_by_prepared_data() -> None:
    asked = Attribute("Spends", kind="number", quantiles=2, unit="€")
    with pytest.raises(UserError, match="Spends: the numbers of the training users are all 7"):
        asked.fitted([7, 7])
    with pytest.raises(UserError, match="Spends: the numbers of the training users are missing"):
        asked.fitted([])
    fitted = asked.fitted([1, 2, 30, 40.5])
    assert (fitted.values, fitted.scale, fitted.unit) == (("below 30", "30 and more"), (1.5, 35.25), "€")
    assert [fitted.bin(number) for number in (29.9, 30)] == ["below 30", "30 and more"]
    assert fitted.fitted([7, 7]) == fitted
    schema = Schema("mine", [asked, Attribute("Pet", ("cat", "dog"))])
    assert schema.completed(Schema("theirs", [fitted])).attributes == (fitted, schema.attributes[1])


def test_unreadable_schemas_are_errors(tmp_path: Path) -> None:
    twice = [{"name": name, "values": ["x", "y"]} for name in ("A", "a")]
    for data in ({"attributes": []}, {"attributes": twice}, {"name": "x"}, {"attributes": ["A"]}, ["A"], None):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump(data))
        with pytest.raises(UserError, match="profile schema"):
            Schema.from_yaml(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    for path in (tmp_path / "bad.yaml", tmp_path / "none.yaml"):
        with pytest.raises(UserError, match="cannot be read"):
            Schema.from_yaml(path)


def test_joined_schemas_come_apart_again() -> None:
    yelp, text_only = (Schema.from_yaml(conf_dir() / "profile" / f"{name}.yaml") for name in ("yelp", "text_only"))
    joined = Schema.from_dict({"parts": {"first": yelp.to_dict(), "second": text_only.to_dict()}})
    assert (joined.name, joined.names) == ("yelp+text_only", (*yelp.names, *text_only.names))
    assert Schema.from_dict(joined.to_dict()) == joined
    # What data are prepared for is the first one, name and all: the prepared folder is the same.
    assert joined.observed.to_dict() == yelp.to_dict()
    assert joined.text_only == text_only
    assert yelp.observed is yelp
    assert yelp.text_only is None
    with pytest.raises(UserError, match="all of its attributes are text-only"):
        _ = text_only.observed
    with pytest.raises(UserError, match="all names different"):
        Schema.from_dict({"parts": {"first": yelp.to_dict(), "second": yelp.to_dict()}})


def test_sensitive_attributes_need_a_purpose() -> None:
    pet, age = Attribute("Pet", ("cat", "dog")), Attribute("Age", ("young", "old"), sensitive=True)
    check_purpose(Schema("harmless", [pet]), None)
    check_purpose(Schema("own", [pet, age]), "a survey")
    for nothing in (None, "", " "):
        with pytest.raises(UserError, match=r'profile own: Age are sensitive: say what they are for, purpose="\.\.\."'):
            check_purpose(Schema("own", [pet, age]), nothing)


def test_the_purpose_of_a_run_holds_for_its_own_people() -> None:
    own = Schema("own", [Attribute("Age", ("young", "old"), sensitive=True)])
    assert check_purpose(own, None, trained_for="a survey") == "a survey"
    assert check_purpose(own, "a check of it", trained_for="a survey") == "a check of it"
    assert check_purpose(own, "  ", trained_for="a survey") == "a survey"
    for nothing in (None, "", "  "):
        with pytest.raises(UserError, match="Age are sensitive"):
            check_purpose(own, nothing, trained_for=nothing)
