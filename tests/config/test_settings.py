"""A default stands in one place: the classes have the types, the YAML files have the values."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from omegaconf import OmegaConf

from mmprofile.config.compose import CONFIGS, load_config, typed
from mmprofile.errors import UserError
from mmprofile.paths import ASSETS, conf_dir

# What only the user can say; each has "???" in its YAML, or is missing from the profile.
ASKED = {
    "evaluate": ["run=outputs/both"],
    "apply": ["run=outputs/both"],
    "predict": ["run=outputs/both", "input=users.jsonl"],
    "inspection": ["run=outputs/both"],
    "report": ["run=outputs/both"],
    "forget": ["user=ann"],
}


def classes(config: type) -> Iterator[type]:
    """A configuration's class, and those of its nodes."""
    yield config
    for kind in get_type_hints(config).values():
        for part in (kind, *get_args(kind)):
            if is_dataclass(part):
                yield from classes(part)


ALL = sorted({part for config in CONFIGS.values() for part in classes(config)}, key=lambda part: part.__name__)


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.__name__)
def test_no_field_has_a_value_of_its_own(config: Any) -> None:
    for field in fields(config):
        if field.default_factory is not MISSING:
            assert is_dataclass(field.default_factory), f"{config.__name__}.{field.name}: a node, or a value?"
        else:
            assert field.default == "???", f"{config.__name__}.{field.name} has a value; it belongs in conf/"


def test_names_are_not_used_twice() -> None:
    assert len({config.__name__ for config in ALL}) == len(ALL)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_field_is_set_by_a_file(name: str) -> None:
    words = ASKED.get(name, [])
    assert OmegaConf.missing_keys(load_config(name, words)) == set()
    for word in words:
        with pytest.raises(UserError, match=f"{word.split('=')[0]} is not set"):
            load_config(name, [other for other in words if other != word])


@pytest.mark.parametrize(
    ("name", "words"),
    [("train", []), ("train", ["experiment=paper", "data=demo"]), ("apply", ASKED["apply"])],
    ids=["train", "paper", "apply"],
)
def test_early_stopping_leaves_the_schedule_whole_unless_asked(name: str, words: list[str]) -> None:
    trainer = load_config(name, words).trainer
    assert trainer.patience >= trainer.max_epochs, "rates fall until the last epoch; scores may rise only then"


@pytest.mark.parametrize("path", sorted(conf_dir().glob("model/*.yaml")), ids=lambda path: path.stem)
def test_every_system_has_all_of_a_models_keys(path: Path) -> None:
    model = load_config("train", [f"model={path.stem}"]).model
    shared = OmegaConf.load(conf_dir() / "model/shared/parts.yaml")
    assert set(shared) | {"name", "system"} == set(model)
    assert OmegaConf.missing_keys(model) == set()


@pytest.mark.parametrize(
    ("name", "words", "slow"),
    [
        ("train", [], True),
        ("train", ["model=flan_t5"], True),
        ("train", ["model=base"], False),
        ("apply", ["classifier=t5"], True),
        ("apply", ["classifier=t5", "classifier.size=base"], False),
        ("apply", ["classifier=bert"], False),
        ("apply", ["classifier=causal", "classifier.size=base"], False),
    ],
)
def test_the_queries_of_the_tiny_t5_learn_as_in_its_pretraining(name: str, words: list[str], slow: bool) -> None:
    tiny_t5 = json.loads((ASSETS / "tiny" / "text" / "config.json").read_text())
    optim = load_config(name, [*ASKED.get(name, []), *words]).optim
    assert optim.query_factor == (pytest.approx(tiny_t5["d_kv"] ** -0.5, rel=1e-3) if slow else 1)


def test_a_system_that_is_not_trained_has_no_sizes_to_set() -> None:
    model = load_config("train", ["model=majority"]).model
    assert (model.text.name, model.vision.name, model.sizes, model.fusion.parser) == ("", "", {}, "window")
    for word in ("model.size=base", "model.head=coopnet", "model.text.dtype=bfloat16"):
        with pytest.raises(UserError, match="does not go with the other choices"):
            load_config("train", ["model=majority", word])


def test_a_run_of_an_earlier_version_takes_new_keys_from_the_files() -> None:
    now = load_config("train", ["model=basic", "paradigm=basic", "seed=3"])
    old = OmegaConf.create(OmegaConf.to_container(now))  # as config.yaml has it
    del (
        old.purpose,
        old.probe,
        old.reader,
        old.inputs.redraw,
        old.evaluation.missing,
        old.model.lr,
        old.model.fusion.parser,
    )
    loaded = typed("train", old)
    assert (loaded.model.lr.pretrained, loaded.model.lr.new) == (5e-5, 5e-5)
    loaded.model.lr = now.model.lr
    assert loaded == now
    assert "purpose" not in old


def test_a_key_of_an_earlier_version_need_not_be_known_by_its_size() -> None:
    old = OmegaConf.create(OmegaConf.to_container(load_config("train", ["model.size=base"])))
    del old.model.vision.grid
    assert typed("train", old).model.vision.grid == 7


def test_what_must_be_given_stays_so() -> None:
    cfg = OmegaConf.create(OmegaConf.to_container(load_config("train", [])))
    cfg.seed = "???"
    del cfg.purpose
    with pytest.raises(UserError, match="seed is not set"):
        typed("train", cfg)


@pytest.mark.parametrize("devices", ["2", "-1", "auto", "[0,1]"])
def test_devices_are_a_number_a_list_or_a_word(devices: str) -> None:
    assert OmegaConf.create({"devices": load_config("train", [f"trainer.devices={devices}"]).trainer.devices})
