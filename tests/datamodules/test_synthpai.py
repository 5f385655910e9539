"""SynthPAI's comments as people."""

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
from mmprofile.profile.schema import Schema

pytestmark = pytest.mark.fast

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


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


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
    printed = capsys.readouterr().err.splitlines()[:2]
    assert printed == [
        f"{comments}: 12 comments of 3 people; 1 comments without text",
        f"  1 gold values not understood and left out, the first: {comments}, line 4: education 'apprenticed to a baker'",
    ]


@pytest.mark.parametrize(
    ("key", "raw", "attribute", "value"),
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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, raw: Any, attribute: str, value: str | None
) -> None:
    path = write(tmp_path / "one.jsonl", [comment("pers1", ANNA | {key: raw}, "Hello.", 0)])
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
