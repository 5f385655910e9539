"""People from JSON lines of reviews and of cues, and the demo city's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.gold import split_of
from datamodules.people import read_people
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm import stage
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast

SCHEMA = Schema(
    "toy", [Attribute("Age", ("young", "old"), unknown=True), Attribute("Pet", ("cat", "dog"), unknown=True)]
)


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_reviews_and_cues(tmp_path: Path) -> None:
    path = write(
        tmp_path / "people.jsonl",
        [
            {"user_id": "ann", "reviews": ["Good  soup.\nCame back.", " "], "split": "test", "gold": {"Pet": "cat"}},
            "",
            {
                "user_id": "bob",
                "watched": ["goal", "derby"],
                "signature": "Grandpa of two",
                "age": 71,
                "gold": {"Age": None},
            },
            '{"user_id": "cem", "posted": "a line\u2028separator"}',
        ],
    )
    ann, bob, cem = read_people(path, SCHEMA)
    assert (ann.user_id, ann.reviews, ann.cues, ann.split) == ("ann", ("Good  soup.\nCame back.",), {}, "test")
    assert ann.gold == {"Pet": ("cat",)}
    assert ann.text() == "- Good soup. Came back."
    assert bob.cues == {"watched": ("goal", "derby"), "signature": ("Grandpa of two",), "age": ("71",)}
    assert bob.gold == {"Age": ()}
    assert bob.split == split_of("bob")
    assert bob.text() == "watched: goal, derby\nage: 71\nsignature: Grandpa of two"
    assert cem.cues == {"posted": ("a line\u2028separator",)}
    assert cem.gold == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON"),
        ("[1]", r"expected an object, not '\[1\]'"),
        ({"reviews": ["x"]}, "expected an object with user_id"),
        ({"user_id": 7, "reviews": ["x"]}, "expected an object with user_id"),
        ({"user_id": "b", "review": ["x"]}, "'review' is none of user_id, reviews, watched"),
        ({"user_id": "b", "reviews": [" "]}, "nothing is known of 'b'"),
        ({"user_id": "b", "reviews": [["x"]]}, "reviews: expected a text or a list of texts"),
        ({"user_id": "b", "reviews": "x", "split": "dev"}, "split 'dev' is none of train, validation, test"),
        ({"user_id": "b", "reviews": "x", "gold": ["cat"]}, "gold has"),
        ({"user_id": "b", "reviews": "x", "gold": {"Car": "red"}}, "gold has 'Car'"),
        ({"user_id": "b", "reviews": "x", "gold": {"Pet": "cow"}}, "gold Pet 'cow' is not in the schema: cat, dog"),
    ],
)
def test_a_bad_line_is_one_clear_line(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "people.jsonl", [{"user_id": "a", "reviews": "x"}, line])
    with pytest.raises(UserError, match=message) as caught:
        read_people(path, SCHEMA)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_the_line_ends_of_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "people.jsonl", [{"user_id": name, "reviews": "Très bon"} for name in "ab"])
    people = read_people(path, SCHEMA)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_people(path, SCHEMA) == people


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_people(tmp_path / "none.jsonl", SCHEMA)
    with pytest.raises(UserError, match="nobody in it"):
        read_people(write(tmp_path / "empty.jsonl", [""]), SCHEMA)
    twice = write(tmp_path / "twice.jsonl", [{"user_id": "a", "reviews": "x"}, {"user_id": "a", "reviews": "y"}])
    with pytest.raises(UserError, match="user_id 'a' stands there more than once"):
        read_people(twice, SCHEMA)
    with pytest.raises(UserError, match=r"input_format='csv' is none of people, synthpai, .*, edgewise$"):
        read_people(twice, SCHEMA, "csv")
    with pytest.raises(UserError, match=r"input_format='personamem' is none of .*\(did you mean personamem_v2\?\)"):
        read_people(twice, SCHEMA, "personamem")
    with pytest.raises(UserError, match="no prepared data set"):
        read_people(tmp_path, SCHEMA)


def test_the_demo_city_has_gold_of_all_six() -> None:
    cfg = load_config("llm", ["data.prepare.source.users=30"])
    schema = stage.open_schema(cfg)
    people = stage.read_people(cfg, schema)
    assert {person.split for person in people} == {"train", "validation", "test"}
    assert all(person.reviews and not person.cues for person in people)
    assert all(set(person.gold) == set(schema.names) for person in people)
    values = {name: {value for person in people for value in person.gold[name]} for name in schema.names}
    assert all(values[name] <= set(schema[name].values) and values[name] for name in schema.names)
    tests = stage.read_people(load_config("llm", ["data.prepare.source.users=30", "splits=[test]"]), schema)
    assert [person.user_id for person in tests] == [person.user_id for person in people if person.split == "test"]
