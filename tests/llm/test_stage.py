"""The stage's gate: a purpose is asked for by what the data are."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from mmprofile.config.compose import load_config
from mmprofile.config.llm_settings import LlmConfig
from mmprofile.errors import UserError
from mmprofile.llm.stage import DEMO_PURPOSE, open_schema, purpose, stage_folder
from mmprofile.llm.teacher.run import main as teach
from mmprofile.llm.vote.run import main as vote


@pytest.mark.parametrize(
    "words",
    [
        ["data=custom", "data.prepare.source.reviews=reviews.jsonl", "data.name=demo"],
        ["data=yelp", "data.prepare.source.path=yelp", "data.name=demo"],
        ["data.prepare._target_=mine.prepare"],
        ["input=people.jsonl"],
    ],
)
def test_other_people_called_demo_need_a_purpose(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"are sensitive: say what they are for, purpose="):
        open_schema(load_config("llm", words))
    stated = load_config("llm", [*words, "purpose=a survey"])
    open_schema(stated)
    assert purpose(stated) == "a survey"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["students.tiny.micro_batch_size=0"], "students.tiny.micro_batch_size=0: give 1 or more, or null"),
        (
            ["students.other.micro_batch_size=3", "students.other.batch_size=9"],
            r"students.other.micro_batch_size=3 does not divide the 32 answers of a step \(people x group\)",
        ),
    ],
)
def test_settings_that_make_no_sense_are_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_schema(load_config("llm", words))


def test_the_demo_city_needs_none_whatever_it_is_called() -> None:
    cfg = load_config("llm", ["data=demo", "data.name=town"])
    open_schema(cfg)
    assert purpose(cfg) == DEMO_PURPOSE


@pytest.mark.parametrize("command", [teach, vote])
def test_one_command_at_a_time_works_on_a_stage(command: Callable[[LlmConfig], None], tmp_path: Path) -> None:
    """And so nobody is forgotten while it does: ``forget`` heeds the same lock."""
    cfg = load_config("llm", ["data=demo", f"out={tmp_path}"])
    folder = stage_folder(cfg)
    folder.mkdir()
    with (
        FileLock(folder / "lock"),
        pytest.raises(
            UserError, match=r"another process is at work on .*: wait for it, or choose another name= or out="
        ),
    ):
        command(cfg)
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("given", "name"),
    [("people.jsonl", "people"), (".", "homes"), ("../homes/..", "town"), ("../bench-v2", "bench-v2")],
)
def test_the_folder_of_a_stage_is_called_as_its_input(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "town" / "homes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "town" / "homes")
    assert stage_folder(load_config("llm", [f"input={given}", "out=out"])) == Path("out", name)
