"""People: JSON lines of reviews and of cues, the demo city's, and SynthPAI's comments."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.gold import split_of
from datamodules.people import read_people
from datamodules.synthpai import read_synthpai
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm import stage
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Attribute, Schema

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


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_people(tmp_path / "none.jsonl", SCHEMA)
    with pytest.raises(UserError, match="nobody in it"):
        read_people(write(tmp_path / "empty.jsonl", [""]), SCHEMA)
    twice = write(tmp_path / "twice.jsonl", [{"user_id": "a", "reviews": "x"}, {"user_id": "a", "reviews": "y"}])
    with pytest.raises(UserError, match="user_id 'a' stands there more than once"):
        read_people(twice, SCHEMA)
    with pytest.raises(UserError, match="input_format='csv' is none of people, synthpai"):
        read_people(twice, SCHEMA, "csv")
    with pytest.raises(UserError, match="is a folder; give input="):
        read_people(tmp_path, SCHEMA, "synthpai")
    with pytest.raises(UserError, match="no prepared data set"):
        read_people(tmp_path, SCHEMA)


def test_splits_are_a_matter_of_the_id() -> None:
    found = [split_of(f"user {i}") for i in range(2000)]
    assert found == [split_of(f"user {i}") for i in range(2000)]
    assert {split: round(found.count(split) / 2000, 1) for split in set(found)} == {
        "train": 0.7, "validation": 0.1, "test": 0.2,
    }  # fmt: skip


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


SYNTHPAI = Schema.from_yaml(conf_dir() / "profile" / "synthpai.yaml")
ANNA = {
    "username": "QuietHarbour",
    "age": 46,
    "sex": "female",
    "city_country": "Ghent, Belgium",
    "birth_city_country": "Ghent, Belgium",
    "education": "Masters in Marine Biology",
    "occupation": "aquarium keeper",
    "income": "48 thousand euros",
    "income_level": "middle",
    "relationship_status": "divorced",
    "style": "short and dry",
}
BEN = ANNA | {
    "username": "RustySpanner", "age": 20, "sex": "male", "education": "studying towards a Bachelors in Robotics",
    "income_level": "low", "relationship_status": "in a relationship",
}  # fmt: skip
CLEO = ANNA | {
    "username": "MoonGarden", "age": 71, "education": "apprenticed to a baker", "income_level": "very high",
    "relationship_status": "Widowed",
}  # fmt: skip


def comment(author: str, profile: Mapping[str, Any], text: str, number: int) -> dict[str, Any]:
    return {
        "author": author, "username": profile["username"], "profile": profile, "text": text, "guesses": [],
        "reviews": {"human": {}}, "id": f"c{number}", "parent_id": None, "thread_id": "thread_age_1", "children": [],
    }  # fmt: skip


TEXTS = (
    ("pers1", ANNA, "The seals had their lunch before me again."),
    ("pers2", BEN, "my gearbox prototype ate its own bolts lol"),
    ("pers1", ANNA, "Signed the last of the papers, the flat is mine now."),
    ("pers3", CLEO, "At my age the garden keeps you, not the other way round."),
    ("pers2", BEN, "exam week. send noodles"),
    ("pers2", BEN, "she says the drone may not fly indoors"),
    ("pers1", ANNA, "Tuition for a thesis on plankton, money well spent."),
    ("pers3", CLEO, "He would have loved these roses."),
    ("pers3", CLEO, " "),
    ("pers1", ANNA, "Night shift with the octopus."),
    ("pers2", BEN, "robot club tonight"),
    ("pers3", CLEO, "I never needed a diploma to know bread."),
)


@pytest.fixture
def comments(tmp_path: Path) -> Path:
    return write(tmp_path / "comments.jsonl", [comment(*row, number) for number, row in enumerate(TEXTS)])


def test_synthpai_comments_become_people(comments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = read_people(comments, SYNTHPAI, "synthpai")
    assert people == read_synthpai(comments, SYNTHPAI)
    assert [person.user_id for person in people] == ["pers1", "pers2", "pers3"]
    anna, ben, cleo = people
    assert anna.reviews == tuple(text for author, _, text in TEXTS if author == "pers1")
    assert len(cleo.reviews) == 3
    assert anna.split == split_of("pers1")
    assert anna.gold == {
        "Gender": ("Female",),
        "Age": ("35-49",),
        "Education Level": ("Master's Degree",),
        "Relationship Status": ("Divorced",),
        "Income Level": ("Middle",),
    }
    assert ben.gold["Education Level"] == ("In College",)
    assert ben.gold["Relationship Status"] == ("In Relationship",)
    assert cleo.gold == {
        "Gender": ("Female",), "Age": ("65+",), "Relationship Status": ("Widowed",), "Income Level": ("Very High",),
    }  # fmt: skip
    said = capsys.readouterr().err.splitlines()[:2]
    assert said == [
        f"{comments}: 12 comments of 3 people; 1 comments without text",
        f"  1 gold values not understood and left out, the first: {comments}, line 4: education 'apprenticed to a baker'",
    ]


@pytest.mark.parametrize(
    ("key", "given", "attribute", "value"),
    [
        ("age", 18, "Age", "18-24"),
        ("age", 34, "Age", "25-34"),
        ("age", 64, "Age", "50-64"),
        ("age", 65, "Age", "65+"),
        ("age", 17, "Age", None),
        ("age", True, "Age", None),
        ("age", "46", "Age", None),
        ("sex", "Male", "Gender", "Male"),
        ("sex", "non-binary", "Gender", None),
        ("education", "High School Diploma", "Education Level", "HS Diploma"),
        ("education", "No Highschool", "Education Level", "No Highschool"),
        ("education", "in high school", "Education Level", "In Highschool"),
        ("education", "Currently studying Bachelors in Film Studies", "Education Level", "In College"),
        ("education", "studying towards a Masters in Law", "Education Level", None),
        ("education", "Bachelor’s degree in History", "Education Level", "College Degree"),
        ("education", "Diploma in Nursing", "Education Level", "College Degree"),
        ("education", "Law Degree", "Education Level", "College Degree"),
        ("education", "Doctorate in Physics", "Education Level", "PhD"),
        ("education", "mastered the oboe", "Education Level", None),
        ("relationship_status", "engaged", "Relationship Status", "Engaged"),
        ("relationship_status", "complicated", "Relationship Status", None),
        ("income_level", "medium", "Income Level", "Middle"),
        ("income_level", "no", "Income Level", "No Income"),
        ("income_level", "enormous", "Income Level", None),
    ],
)
def test_synthpai_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, given: Any, attribute: str, value: str | None
) -> None:
    path = write(tmp_path / "one.jsonl", [comment("pers1", ANNA | {key: given}, "Hello.", 0)])
    person = read_synthpai(path, SYNTHPAI)[0]
    assert person.gold.get(attribute) == (None if value is None else (value,))
    assert ("not understood" in capsys.readouterr().err) == (value is None)


def test_synthpai_values_that_are_not_given_are_no_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = dict.fromkeys(ANNA) | {"username": "x", "income_level": ""}
    person = read_synthpai(write(tmp_path / "one.jsonl", [comment("pers1", bare, "Hello.", 0)]), SYNTHPAI)[0]
    assert person.gold == {}
    assert "not understood" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: no JSON"),
        ({"author": "pers9", "text": "x"}, "line 2: expected a comment with author and text, texts, and profile"),
        (comment("pers9", ANNA, "", 1) | {"text": None}, "line 2: expected a comment"),
        (comment("pers9", BEN, " ", 1), "line 2: author 'pers9' has no text at all"),
        (comment("pers1", ANNA | {"age": 47}, "x", 1), "line 2: author 'pers1' has another profile than in .* line 1"),
    ],
)
def test_synthpai_refusals(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "comments.jsonl", [comment("pers1", ANNA, "Hello.", 0), row])
    with pytest.raises(UserError, match=message):
        read_synthpai(path, SYNTHPAI)


def test_synthpai_of_nobody_or_for_another_schema(tmp_path: Path, comments: Path) -> None:
    with pytest.raises(UserError, match="nobody in it"):
        read_synthpai(write(tmp_path / "empty.jsonl", []), SYNTHPAI)
    with pytest.raises(UserError, match='gold Education Level "Master\'s Degree" is not in the schema: High School'):
        read_synthpai(comments, Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml"))


def test_synthpai_by_the_configuration(comments: Path) -> None:
    words = [f"input={comments}", "input_format=synthpai", "profile=synthpai", "purpose=a test"]
    cfg = load_config("llm", words)
    assert len(stage.read_people(cfg, stage.open_schema(cfg))) == 3
    with pytest.raises(
        UserError, match="Gender, Age, Education Level, Relationship Status, Income Level are sensitive"
    ):
        stage.open_schema(load_config("llm", words[:3]))
