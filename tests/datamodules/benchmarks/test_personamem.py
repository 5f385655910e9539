"""PersonaMem-v2's personas as people: their own words, and what the persona says in closed values."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.personamem import read_personamem
from datamodules.people import read_people
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.benchmarks import CHAT, PERSONA, personamem, personamem_row, write_object

pytestmark = pytest.mark.fast

SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "personamem_v2.yaml")
OWN = (
    "Could you polish this note to the harbour office?",
    "What is on this photo of mine?",
    "Please forget that I fear storms.",
)
GOLD = {
    "Gender": ("Female",), "Age": ("50-64",), "Relationship Status": ("Married",), "Education Level": ("Master's Degree",),
}  # fmt: skip


def test_only_the_users_words_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The system's message holds the persona, and so the gold; the assistant was told it."""
    personamem(tmp_path, [personamem_row(7), personamem_row(7), personamem_row(12)], {7: CHAT, 12: CHAT[:2]})
    first, second = read_people(tmp_path, SCHEMA, "personamem_v2")
    assert (first.user_id, first.reviews, first.cues, first.gold) == ("7", OWN, {}, GOLD)
    assert (second.user_id, second.reviews) == ("12", OWN[:1])
    assert "Inés" not in first.text()
    table = tmp_path / "benchmark" / "text" / "benchmark.csv"
    assert capsys.readouterr().err == f"{table}: 3 rows, chats of 2 personas; 1 images are not read\n"
    table.rename(table.with_name("train.csv"))
    assert read_personamem(table.with_name("train.csv"), SCHEMA) == [first, second]


@pytest.mark.parametrize(
    ("persona", "attribute", "value"),
    [
        ({"gender": "Man"}, "Gender", "Male"),
        ({"gender": "female"}, "Gender", "Female"),
        ({"gender": "Non-binary (they/them)"}, "Gender", "Non-binary"),
        ({"gender": "Transgender woman"}, "Gender", "Female"),
        ({"gender": "prefers not to say"}, "Gender", None),
        ({"demographics": {"gender": "Male"}}, "Gender", "Male"),
        ({"age": "34"}, "Age", "25-34"),
        ({"age": "early thirties"}, "Age", None),
        ({"age": 17}, "Age", None),
        ({"social_life": {"relationship_status": "Single; focused on academics"}}, "Relationship Status", "Single"),
        ({"relationshipStatus": "In a Relationship"}, "Relationship Status", "In Relationship"),
        ({"marital_status": "Never married"}, "Relationship Status", None),
        ({"degree": "Ph.D. in Quantitative Psychology"}, "Education Level", "PhD"),
        ({"highest_degree": "B.Sc. in Physics"}, "Education Level", "Bachelor's Degree"),
        ({"degree": "MBA"}, "Education Level", "Master's Degree"),
        ({"education": {"highest_degree": "Associate’s Degree in Nursing"}}, "Education Level", "Associate Degree"),
        ({"degree": "None, self-taught"}, "Education Level", None),
    ],
)
def test_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], persona: Any, attribute: str, value: str | None
) -> None:
    [person] = read_personamem(personamem(tmp_path, [personamem_row(1, persona)], {1: CHAT}), SCHEMA)
    assert person.gold == ({} if value is None else {attribute: (value,)})
    assert ("1 gold values not understood" in capsys.readouterr().err) == (value is None)


def test_nothing_is_guessed_from_others_in_the_persona(tmp_path: Path) -> None:
    family = {
        "family_background": {"mother": {"age": 44, "gender": "Female"}},
        "education": {"degree": "B.A. in History"},
    }
    [person] = read_personamem(personamem(tmp_path, [personamem_row(1, family)], {1: CHAT}), SCHEMA)
    assert person.gold == {}


def test_rows_and_chats_that_are_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        personamem_row(0, "{"),
        personamem_row(0, PERSONA),
        personamem_row(""),
        personamem_row(1),
        personamem_row(2),
        personamem_row(3, chat_history_32k_link="/etc/passwd"),
        personamem_row(4, chat_history_32k_link="data/../../secret.json"),
        personamem_row(5, chat_history_32k_link=""),
        personamem_row(6),
    ]
    chats = {0: CHAT, 2: CHAT[:1], 6: [None, {"role": "user"}, {"role": "user", "content": [{"type": "text"}, 7, " "]}]}
    [person] = read_personamem(personamem(tmp_path, rows, chats), SCHEMA)
    assert (person.user_id, person.gold) == ("0", {})
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  1 personas without gold: expanded_persona is no JSON object, the first: benchmark.csv, row 1",
        "  1 rows with another persona or chat than the persona's first left out, the first: benchmark.csv, row 2",
        "  1 rows without persona_id left out, the first: benchmark.csv, row 3",
        "  6 personas without a chat left out, the first: benchmark.csv, row 4: "
        "'data/chat_history_32k/chat_history_1_persona1.json': No such file or directory",
    ]


def test_a_byte_order_mark_and_the_line_ends_of_windows(tmp_path: Path) -> None:
    people = read_personamem(personamem(tmp_path, [personamem_row(1)], {1: CHAT}), SCHEMA)
    table = tmp_path / "benchmark" / "text" / "benchmark.csv"
    for path in (table, *tmp_path.rglob("*.json")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_personamem(tmp_path, SCHEMA) == people


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"persona_id,expanded_persona\n1,{}\n",
            r"no column chat_history_32k_link; expected PersonaMem-v2's benchmark/text/",
        ),
        (b"", "no column persona_id"),
        (b"persona_id,chat_history_32k_link,expanded_persona\n\xff,a,b\n", "cannot be read"),
        (b"persona_id,chat_history_32k_link,expanded_persona\n1\n", "nobody in it; 1 personas without a chat left out"),
    ],
)
def test_wrong_tables(tmp_path: Path, content: bytes, says: str) -> None:
    table = tmp_path / "benchmark.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_personamem(table, SCHEMA)


def test_wrong_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder with benchmark/text/benchmark\.csv; there is no"):
        read_personamem(tmp_path, SCHEMA)
    with pytest.raises(UserError, match="cannot be read"):
        read_personamem(tmp_path / "none.csv", SCHEMA)
    personamem(tmp_path, [personamem_row(1)], {})
    write_object(tmp_path / "data" / "chat_history_32k" / "chat_history_1_persona1.json", ["no chat"])
    with pytest.raises(UserError, match=r"nobody in it; 1 personas without a chat left out, .* no message of the user"):
        read_personamem(tmp_path, SCHEMA)
