"""PRISM's posts as people."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.prism import read_prism
from datamodules.gold import split_of
from datamodules.people import read_people
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.benchmarks import PRISM_POSTS, PRISM_TARGET, prism, write_object

pytestmark = pytest.mark.fast

SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "prism.yaml")


def test_posts_topics_and_attributes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [person] = read_people(prism(tmp_path, {"person-001": PRISM_POSTS}, {"person-001": PRISM_TARGET}), SCHEMA, "prism")
    assert (person.user_id, person.split) == ("person-001", split_of("person-001"))
    assert person.reviews == ("Third coat of varnish today 🎻", "The valley was grey, I was not.")
    assert person.cues == {"watched": ("Instruments", "How to Tune a Lute", "Hiking", "Boots That Last", "Maps")}
    assert person.gold == {
        "Gender": ("Female",),
        "Age": ("25-34",),
        "Education Level": ("Associate Degree",),
        "Occupation": ("Data Analyst",),
        "Relationship Status": ("Widowed",),
        "Income": ("35000-130000",),
    }
    assert capsys.readouterr().err == f"{tmp_path}: posts of 1 people; 2 images are not read\n"


# The scales of income in the published file, and the cuts that both have.
BRACKETS = {
    "Below 35000": ["<35000"],
    "35000-130000": ["35000-60000", "60000-90000", "90000-130000", "35000-50000", "50000-70000", "70000-100000", "100000-130000"],
    "130000-180000": ["130000-180000"],
    "Above 180000": [">180000", "180000-220000"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "raw", "attribute", "value"),
    [
        *(("income", raw, "Income", value) for value, brackets in BRACKETS.items() for raw in brackets),
        ("income", "lots", "Income", None),
        ("age", "71", "Age", "65+"),
        ("age", 12, "Age", None),
        ("age", {"years": 30}, "Age", None),
        ("education", "PhD", "Education Level", "PhD"),
        ("education", "Bachelor’s  Degree", "Education Level", "Bachelor's Degree"),
        ("education", "no schooling", "Education Level", "No Schooling"),
        ("occupation", "juggler", "Occupation", None),
        ("sex", "unknown", "Gender", None),
    ],
)
def test_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, raw: Any, attribute: str, value: str | None
) -> None:
    [person] = read_prism(prism(tmp_path, {"a": PRISM_POSTS}, {"a": PRISM_TARGET | {key: raw}}), SCHEMA)
    assert person.gold.get(attribute) == (None if value is None else (value,))
    assert ("1 gold values not understood" in capsys.readouterr().err) == (value is None)


def test_people_that_are_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posts = {
        "words": {"posts": {"post1": "Hi.", "post2": None, "post3": " "}, "topics": None},
        "topics": {"topics": {"Bread": None, "Chess": ["Openings", 7]}, "img_urls": []},
        "images": {"posts": {}, "topics": {}, "img_urls": ["./images/1.jpg"]},
        "nothing": None,
        "": PRISM_POSTS,
    }
    targets = {"words": {"sex": "male", "age": None, "education": ""}, "ghost": PRISM_TARGET, "topics": []}
    words, topics = read_prism(prism(tmp_path, posts, targets), SCHEMA)
    assert (words.reviews, words.cues, words.gold) == (("Hi.",), {}, {"Gender": ("Male",)})
    assert (topics.reviews, topics.cues, topics.gold) == ((), {"watched": ("Bread", "Chess", "Openings")}, {})
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: posts of 2 people; 0 images are not read",
        "  1 people without gold, the first: target.json has no object for 'topics'",
        "  3 people without a name, or posts and topics, left out, the first: posts.json, 'images'",
        "  1 people of target.json without posts left out, the first: 'ghost'",
    ]


def test_a_byte_order_mark_and_the_line_ends_of_windows(tmp_path: Path) -> None:
    prism(tmp_path, {"a": PRISM_POSTS}, {"a": PRISM_TARGET})
    people = read_prism(tmp_path, SCHEMA)
    for path in (tmp_path / "posts.json", tmp_path / "target.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_prism(tmp_path, SCHEMA) == people


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder with posts\.json, target\.json; there is no posts\.json"):
        read_prism(tmp_path, SCHEMA)
    write_object(tmp_path / "posts.json", {})
    with pytest.raises(UserError, match=r"there is no target\.json"):
        read_prism(tmp_path, SCHEMA)
    write_object(tmp_path / "target.json", [])
    with pytest.raises(UserError, match=r"target\.json: expected an object, person -> content"):
        read_prism(tmp_path, SCHEMA)
    (tmp_path / "target.json").write_text("{")
    with pytest.raises(UserError, match=r"target\.json: cannot be read \(.*\); download it again"):
        read_prism(tmp_path, SCHEMA)
    with pytest.raises(
        UserError, match="nobody in it; 1 people without a name, or posts and topics, left out, the first: "
    ):
        read_prism(prism(tmp_path, {"a": {}}, {}), SCHEMA)
