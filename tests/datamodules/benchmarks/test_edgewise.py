"""EdgeWisePersona's users as people: what they say at home, and what most of their routines set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.edgewise import read_edgewise
from datamodules.people import read_people
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm import stage
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.benchmarks import edgewise, routine, talk, write_lines

pytestmark = pytest.mark.fast

SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "edgewise.yaml")
EVENING = routine("evening", ac={"mode": "cool", "temperature": 21}, lights={"color": "warm", "brightness": 30})


def test_only_the_users_words_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the replies, the summaries, the routines that were applied, the character, or when the talk was."""
    sessions = [[talk("Bit dim in here.", "Thanks."), talk("Quieter, please.")], [talk("Is the door locked?")]]
    folder = edgewise(tmp_path, [[EVENING], []], sessions)
    first, second = read_people(folder, SCHEMA, "edgewise")
    assert (first.user_id, first.reviews, first.cues) == (
        "user1",
        ("Bit dim in here.", "Thanks.", "Quieter, please."),
        {},
    )
    assert (second.user_id, second.reviews) == ("user2", ("Is the door locked?",))
    assert first.gold == {
        "Time of Day": ("Evening",), "AC Mode": ("Cool",), "Light Color": ("Warm",), "Sound": (), "TV Source": (),
    }  # fmt: skip
    assert second.gold == dict.fromkeys(SCHEMA.names, ())
    assert capsys.readouterr().err == f"{folder}: 4 messages of 2 users\n"


@pytest.mark.parametrize(
    ("times", "value"),
    [
        (["evening", "night", "evening"], ("Evening",)),
        (["evening", "night"], None),
        (["night", None, "", None], ("Night",)),
        ([None, None], ()),
        (["EVENING", "evening ", "night"], ("Evening",)),
        (["dawn", "dawn", "night"], ("Night",)),
        (["dawn", 7, ["evening"]], None),
    ],
)
def test_the_most_frequent_value(tmp_path: Path, times: Sequence[Any], value: tuple[str, ...] | None) -> None:
    """One of several that are as frequent is no gold, and neither is one that is not understood."""
    [person] = read_edgewise(edgewise(tmp_path, [[routine(time) for time in times]], [[talk("Hi.")]]), SCHEMA)
    assert person.gold.get("Time of Day") == value


def test_users_that_are_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routines = [None, [EVENING], [7, {"triggers": [], "actions": {"tv": {"input_source": "vcr"}}}], [EVENING]]
    odd = [{"messages": None}, None, talk("Ça va ?", None, " "), {"messages": [{"role": "user"}, 7]}]
    first, third = read_edgewise(edgewise(tmp_path, routines, [[talk("Hi.")], None, odd, [talk()]]), SCHEMA)
    assert (first.user_id, first.gold) == ("user1", {})
    assert (third.user_id, third.reviews) == ("user3", ("Ça va ?",))
    assert third.gold == dict.fromkeys(("Time of Day", "AC Mode", "Light Color", "Sound"), ())
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"  1 users without routines: no gold, the first: {tmp_path / 'routines.jsonl'}, line 1",
        f"  2 users without a message left out, the first: {tmp_path / 'sessions.jsonl'}, line 2",
        f"  1 gold values not understood and left out, the first: {tmp_path / 'routines.jsonl'}, line 3: "
        "actions.tv.input_source 'vcr'",
    ]


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"expected a folder with routines\.jsonl, sessions\.jsonl; there is no routines"
    ):
        read_edgewise(tmp_path, SCHEMA)
    edgewise(tmp_path, [[EVENING], [EVENING]], [[talk("Hi.")]])
    with pytest.raises(UserError, match=r"routines\.jsonl has 2 users, sessions\.jsonl 1; line by line they belong"):
        read_edgewise(tmp_path, SCHEMA)
    write_lines(tmp_path / "sessions.jsonl", ["[]", "{}"])
    with pytest.raises(UserError, match=r"sessions\.jsonl, line 1: expected an object"):
        read_edgewise(tmp_path, SCHEMA)
    with pytest.raises(UserError, match="nobody in it; 1 users without a message left out"):
        read_edgewise(edgewise(tmp_path, [[EVENING]], [[]]), SCHEMA)


def test_the_hours_of_somebody_need_a_purpose() -> None:
    with pytest.raises(UserError, match="Time of Day are sensitive"):
        stage.open_schema(load_config("llm", ["input=homes", "input_format=edgewise", "profile=edgewise"]))
