"""``--help``: every option is listed with what it means, and it comes at once."""

import re
import statistics
import subprocess
import sys
import time

import pytest

from mmprofile.__main__ import COMMANDS
from mmprofile.config.compose import CONFIGS, load_config
from mmprofile.config.options import Option, options, print_help
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir

pytestmark = pytest.mark.fast
SLACK = 4
"""How much slower than ours a machine under load may be: on an idle one help takes half a second."""


def by_key(name: str, words: list[str] | None = None) -> dict[str, Option]:
    found = options(name, words or [])
    assert len({option.key for option in found}) == len(found)
    return {option.key: option for option in found}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_option_says_what_it_means(name: str) -> None:
    assert [option.key for option in options(name) if not option.description] == []


@pytest.mark.parametrize(
    ("name", "group"),
    [("train", "data"), ("train", "model"), ("train", "paradigm"), ("llm", "teacher"), ("apply", "classifier")],
)
def test_every_choice_of_a_group_says_what_its_options_mean(name: str, group: str) -> None:
    option = by_key(name)[group]
    assert option.group
    for choice in option.choices:
        words = [f"{group}={choice}"]
        assert [option.key for option in options(name, words) if not option.description] == [], words
        assert by_key(name, words)[group].default == choice


def test_choices_are_the_files_there_are() -> None:
    found = by_key("train")
    assert found["data"] == Option(
        "data", "demo", "where the users come from", "data", ("custom", "demo", "yelp"), True
    )
    assert set(found["profile"].choices) == {path.stem for path in (conf_dir() / "profile").iterdir()}
    assert by_key("sweep")["table"].choices == ("2", "3", "4", "5", "7")
    assert "model" in by_key("caption")  # as users write it


def test_defaults_are_those_of_the_command() -> None:
    found, cfg = by_key("train"), load_config("train", [])
    assert found["name"].default == cfg.name
    assert found["trainer.max_epochs"].default == str(cfg.trainer.max_epochs)
    assert found["model.text.instruction"].default == "''"
    assert found["inputs.photos"].default == "null"
    assert {option.key for option in options("predict") if not option.default} == {"run", "input"}
    assert by_key("prepare", ["data=custom"])["data.prepare.source.reviews"].default == ""


def test_a_comment_beside_a_mapping_is_that_of_its_keys() -> None:
    found = by_key("train")
    option = found["data.prepare.split.test"]
    assert (option.described, option.description) == (
        "data.prepare.split",
        "fractions are shares of the users, integers are users",
    )
    assert found["trainer.patience"].described == "trainer.patience"
    assert by_key("apply")["optim.warmup"].description == found["optim.warmup"].description  # said once, in train.yaml


def test_the_page_is_read_by_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    print_help("prepare", "mmprofile.prepare", "Prepare a data set.", ["data=custom"])
    page = capsys.readouterr().out
    assert page.startswith("usage: python -m mmprofile.prepare [key=value ...]\n\nPrepare a data set.\n")
    assert re.search(r"^  data=custom  +where the users come from \[custom, demo, yelp\]$", page, re.M)
    assert "  data.prepare.split={train: 0.7, validation: 0.1, test: 0.2, seed: 0}\n" in page
    assert "reviews: ..., photos: null" in page
    assert max(map(len, page.splitlines())) <= 120
    assert "_target_" not in page
    with pytest.raises(UserError, match="unknown config key 'xyzzy'"):
        print_help("prepare", "mmprofile.prepare", "", ["xyzzy=1"])


def test_help_comes_at_once() -> None:
    """A time, so with much slack; ``benchmarks/predict.py`` measures it."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mmprofile.train", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 1.5 * SLACK


def test_commands_have_help_of_their_own() -> None:
    for name in ("doctor", "llm.vote", "sweep"):
        assert name in COMMANDS
        done = subprocess.run(
            [sys.executable, "-m", f"mmprofile.{name}", "-h"], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(f"usage: python -m mmprofile.{name} [key=value ...]\n\n")
