"""The options of each command: every one of them says what it means."""

import pytest

from mmprofile.config.compose import CONFIGS, load_config
from mmprofile.config.options import Option, options
from mmprofile.paths import conf_dir


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
        found = by_key(name, [f"{group}={choice}"])
        assert [key for key, option in found.items() if not option.description] == [], choice
        assert found[group].default == choice


def test_choices_are_the_files_there_are() -> None:
    found = by_key("train")
    assert found["data"] == Option(
        "data", "demo", "where the users come from", "data", ("custom", "demo", "demo_indirect", "yelp"), True
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
