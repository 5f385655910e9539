"""SynthPAI's comments as people: the humans' revised labels, or the profiles that the authors were generated from."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.synthpai import read_seed, read_synthpai
from datamodules.gold import split_of
from datamodules.people import read_people
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm import stage
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.benchmarks import SEED, label, synthpai_comment, synthpai_person, write_lines

pytestmark = pytest.mark.fast

SYNTHPAI = Schema.from_yaml(conf_dir() / "profile" / "synthpai.yaml")
BEN = SEED | {
    "username": "RustySpanner", "age": 20, "sex": "male", "education": "studying towards a Bachelors in Robotics",
    "income_level": "low", "relationship_status": "in a relationship",
}  # fmt: skip
CLEO = SEED | {
    "username": "MoonGarden", "age": 71, "education": "apprenticed to a baker", "income_level": "very high",
    "relationship_status": "Widowed",
}  # fmt: skip
TEXTS: tuple[tuple[str, dict[str, Any], str, dict[str, Any]], ...] = (
    ("pers1", SEED, "The seals had their lunch before me again.", {}),
    ("pers2", BEN, "my gearbox prototype ate its own bolts lol", {"education": label("degree in robotics", 3, 3)}),
    (
        "pers1",
        SEED,
        "Signed the last of the papers, the flat is mine now.",
        {"relationship_status": label("single", 2, 4)},
    ),
    ("pers3", CLEO, "At my age the garden keeps you.", {"age": label("70", 3, 2)}),
    ("pers2", BEN, "exam week. send noodles", {"education": label("in college", 1, 4)}),
    ("pers1", SEED, "Tuition for a thesis on plankton.", {"relationship_status": label("Divorced", 1, 3)}),
    ("pers2", BEN, "she says the drone may not fly indoors", {"education": label("phd", 1, 5)}),
    ("pers3", CLEO, " ", {"sex": label("female", 2, 5)}),
    ("pers3", CLEO, "I never needed a diploma to know bread.", {"education": label("trained baker", 1, 4)}),
)


@pytest.fixture
def comments(tmp_path: Path) -> Path:
    rows = [synthpai_comment(author, text, n, seed, **given) for n, (author, seed, text, given) in enumerate(TEXTS)]
    return write_lines(tmp_path / "comments.jsonl", rows)


def test_gold_of_comments_is_what_humans_labelled(comments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the seed profile, and not the guesses of the model, which say Male of everybody."""
    people = read_people(comments, SYNTHPAI, "synthpai")
    assert [person.user_id for person in people] == ["pers1", "pers2", "pers3"]
    anna, ben, cleo = people
    assert anna.reviews == tuple(text for author, _, text, _ in TEXTS if author == "pers1")
    assert len(cleo.reviews) == 2
    assert anna.split == split_of("pers1")
    nothing = {"Gender": (), "Age": (), "Education Level": (), "Relationship Status": (), "Income Level": ()}
    assert anna.gold == nothing | {"Relationship Status": ("Divorced",)}, "the label of least hardness"
    assert ben.gold == nothing | {"Education Level": ("In College",)}, "the first of equal hardness"
    assert cleo.gold == {"Gender": ("Female",), "Relationship Status": (), "Income Level": ()}
    assert capsys.readouterr().err.splitlines() == [
        f"{comments}: 9 comments of 3 people; 1 comments without text",
        f"  1 labels of a certainty below 3: no gold, the first: {comments}, line 4: age",
        f"  1 gold values not understood and left out, the first: {comments}, line 4: education 'trained baker'",
    ]


def test_gold_of_people_is_what_the_revision_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    age, sex, wrong = label("27", 2, 3), label("female", 1, 5), label("married", 3, 5)
    rows = [
        synthpai_person("QuietHarbour", ["One.", "Two.", ""], {"age": age, "relationship_status": wrong}, age=age),
        synthpai_person("RustySpanner", ["Three."], {"sex": sex}, sex=sex, income_level=label("middle", 3, "4")),
    ]
    path = write_lines(tmp_path / "revised.jsonl", rows)
    anna, ben = read_synthpai(path, SYNTHPAI)
    assert (anna.user_id, anna.reviews) == ("QuietHarbour", ("One.", "Two."))
    assert anna.gold == {"Gender": (), "Age": ("25-34",), "Education Level": (), "Income Level": ()}
    assert ben.gold["Gender"] == ("Female",)
    assert ben.gold["Income Level"] == ("Middle",)
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: 4 comments of 2 people; 1 comments without text",
        f"  1 labels that the revision revoked: no gold, the first: {path}, line 1: relationship_status",
    ]
    unrevised = [row | {"reviews": {"human": row["reviews"]["human"]}} for row in rows]
    anna, _ = read_synthpai(write_lines(path, unrevised), SYNTHPAI)
    assert anna.gold["Relationship Status"] == ("Married",)
    with pytest.raises(
        UserError, match=r"nobody in it; 2 lines left out, the first: .* line 1: no profile, from which"
    ):
        read_seed(path, SYNTHPAI)


@pytest.mark.parametrize(
    ("feature", "given", "attribute", "value"),
    [
        ("age", label("20-24", 1, 5), "Age", ("18-24",)),
        ("age", label("20-30", 1, 5), "Age", None),
        ("age", label(52, 1, 5), "Age", ("50-64",)),
        ("age", label(None), "Age", ()),
        ("age", label("25", 1, 2), "Age", None),
        ("age", label("25", 0, 5), "Age", None),
        ("age", label("25", "1", "3"), "Age", ("25-34",)),
        ("age", label("25", [], {}), "Age", None),
        ("age", "25", "Age", ()),
        ("relationship_status", label("No relation", 1, 5), "Relationship Status", ("Single",)),
        ("relationship_status", label("In Relation", 1, 5), "Relationship Status", ("In Relationship",)),
        ("relationship_status", label("engaged/married", 1, 5), "Relationship Status", None),
        ("education", label("studying for bachelor’s degree", 1, 5), "Education Level", ("In College",)),
        ("education", label("studying towards degree in  Botany", 1, 5), "Education Level", ("In College",)),
        ("education", label("MBA", 1, 5), "Education Level", ("Master's Degree",)),
    ],
)
def test_labels(tmp_path: Path, feature: str, given: Any, attribute: str, value: tuple[str, ...] | None) -> None:
    row = synthpai_person("QuietHarbour", ["Hello."], {}, sex=label("female", 1, 5)) | {}
    row["reviews"]["human_evaluated"][feature] = given
    [person] = read_synthpai(write_lines(tmp_path / "one.jsonl", [row]), SYNTHPAI)
    assert person.gold.get(attribute) == value


def test_a_degree_is_looked_up_in_its_category(tmp_path: Path) -> None:
    revised = {"education": label("nursing college", 1, 5), "education_category": label("College Degree", 1, 5)}
    path = write_lines(tmp_path / "one.jsonl", [synthpai_person("a", ["Hello."], {}, **revised)])
    assert read_synthpai(path, SYNTHPAI)[0].gold["Education Level"] == ("College Degree",)


def test_seed_profiles_are_a_switch(comments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anna, ben, cleo = read_people(comments, SYNTHPAI, "synthpai_seed")
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
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"  1 gold values not understood and left out, the first: {comments}, line 4: education 'apprenticed to a baker'",
    ]


@pytest.mark.parametrize(
    ("key", "raw", "attribute", "value"),
    [
        ("age", 18, "Age", "18-24"),
        ("age", 34, "Age", "25-34"),
        ("age", 64, "Age", "50-64"),
        ("age", 65, "Age", "65+"),
        ("age", "46", "Age", "35-49"),
        ("age", 17, "Age", None),
        ("age", True, "Age", None),
        ("age", [46], "Age", None),
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
def test_values_of_a_seed_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, raw: Any, attribute: str, value: str | None
) -> None:
    path = write_lines(tmp_path / "one.jsonl", [synthpai_comment("pers1", "Hello.", seed=SEED | {key: raw})])
    person = read_seed(path, SYNTHPAI)[0]
    assert person.gold.get(attribute) == (None if value is None else (value,))
    assert ("not understood" in capsys.readouterr().err) == (value is None)


def test_values_that_a_seed_profile_does_not_have_are_no_gold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = dict.fromkeys(SEED) | {"username": "x", "income_level": ""}
    path = write_lines(tmp_path / "one.jsonl", [synthpai_comment("pers1", "Hello.", seed=bare)])
    assert read_seed(path, SYNTHPAI)[0].gold == {}
    assert "not understood" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"author": "pers9"}, "1 lines left out, the first: {}, line 2: expected a comment with author and text, or a"),
        ({"username": "a", "comments": 7}, "line 2: expected a comment with author and text, or a person"),
        ({"username": "a", "comments": [{"text": "x"}, "y"]}, "line 2: expected a comment with author and text, or a"),
        (synthpai_comment("", "x") | {"username": ""}, "line 2: expected a comment"),
        (synthpai_comment("pers9", None), "line 2: expected a comment"),
        (synthpai_person("pers1", ["x"], {}), "line 2: 'pers1' was there before"),
        (synthpai_comment("pers9", " "), "1 people without text left out, the first: {}, line 2: 'pers9'"),
    ],
)
def test_a_bad_line_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Any, message: str) -> None:
    path = write_lines(tmp_path / "comments.jsonl", [synthpai_comment("pers1", "Hi.", sex=label("male", 1, 5)), row])
    assert [person.user_id for person in read_synthpai(path, SYNTHPAI)] == ["pers1"]
    assert message.format(path) in capsys.readouterr().err


def test_an_author_of_two_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [synthpai_comment("pers1", "Hi."), synthpai_comment("pers1", "Ho.", seed=SEED | {"age": 47})]
    path = write_lines(tmp_path / "comments.jsonl", rows)
    assert read_seed(path, SYNTHPAI)[0].reviews == ("Hi.",)
    assert f"line 2: author 'pers1' has another profile than in {path}, line 1" in capsys.readouterr().err


def test_a_byte_order_mark_and_the_line_ends_of_windows(tmp_path: Path, comments: Path) -> None:
    windows = tmp_path / "windows.jsonl"
    windows.write_bytes(b"\xef\xbb\xbf" + comments.read_bytes().replace(b"\n", b"\r\n"))
    assert read_synthpai(windows, SYNTHPAI) == read_synthpai(comments, SYNTHPAI)


def test_wrong_files(tmp_path: Path, comments: Path) -> None:
    with pytest.raises(UserError, match="nobody in it"):
        read_synthpai(write_lines(tmp_path / "empty.jsonl", []), SYNTHPAI)
    with pytest.raises(UserError, match="line 1: no JSON"):
        read_synthpai(write_lines(tmp_path / "broken.jsonl", ["{"]), SYNTHPAI)
    with pytest.raises(UserError, match=r"a folder; give a file of it, data/thread/comments_eval_revised\.jsonl"):
        read_synthpai(tmp_path, SYNTHPAI)
    unlabelled = write_lines(tmp_path / "unlabelled.jsonl", [synthpai_comment("a", "Hi.") | {"reviews": None}])
    with pytest.raises(
        UserError, match=r"no line has a human's label .*; input_format=synthpai_seed takes the profiles"
    ):
        read_synthpai(unlabelled, SYNTHPAI)
    assert len(read_seed(unlabelled, SYNTHPAI)) == 1
    with pytest.raises(UserError, match='gold Education Level "Master\'s Degree" is not in the schema: High School'):
        read_seed(comments, Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml"))


def test_by_the_configuration(comments: Path) -> None:
    words = [f"input={comments}", "input_format=synthpai", "profile=synthpai", "purpose=a test"]
    cfg = load_config("llm", words)
    assert len(stage.read_people(cfg, stage.open_schema(cfg))) == 3
    with pytest.raises(
        UserError, match="Gender, Age, Education Level, Relationship Status, Income Level are sensitive"
    ):
        stage.open_schema(load_config("llm", words[:3]))
