"""Short names of keys, and names that keys had in earlier versions."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mmprofile.config.compose import difference, load_config, typed
from mmprofile.config.words import RENAMED, SHORT, as_words, rename_keys, translate
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.openrun import open_run

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("command", "word", "translated"),
    [
        ("caption", "model=org/blip2", "checkpoint=org/blip2"),
        ("caption", "model.x=1", "model.x=1"),
        ("caption", "--verify", "verify=true"),
        ("caption", "--help", "--help"),
        ("train", "model=tiny", "model=tiny"),
        ("train", "--verify", "--verify"),
        ("llm", "teacher=openai", "llm/teacher@teacher=openai"),
        ("llm", "teacher.name=x", "teacher.name=x"),
        ("train", "evaluation.dev_beams=1,2", "evaluation.validation_beams=1,2"),
        ("train", "++evaluation.dev_beams=1", "++evaluation.validation_beams=1"),
        ("train", "~evaluation.dev_beams", "~evaluation.validation_beams"),
        ("train", "evaluation.dev_beams", "evaluation.dev_beams"),
        ("train", "name=evaluation.dev_beams=1", "name=evaluation.dev_beams=1"),
    ],
)
def test_words(command: str, word: str, translated: str) -> None:
    assert translate(command, [word]) == [translated]


def test_a_schema_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path, or by name from conf/profile of the folder that the command runs in. Values are what was written."""
    mine = """
name: shops
attributes:
  - {name: Parking, values: [yes, no, on]}
  - {name: Opens, values: [010, 1e3, 2020-01-01], unknown: yes}
  - {name: Floors, kind: set, size: 2, values: [1, 010, 1_0]}
"""
    (tmp_path / "conf" / "profile").mkdir(parents=True)
    (tmp_path / "conf" / "profile" / "mine.yaml").write_text(mine)
    (tmp_path / "a b.yaml").write_text(mine)
    (tmp_path / "MINE.YAML").write_text(mine)
    monkeypatch.chdir(tmp_path)
    for word in ("profile=mine", "profile=conf/profile/mine.yaml", f"profile={tmp_path / 'a b.yaml'}"):
        schema = Schema.from_config(load_config("train", [word]).profile)
        assert [attribute.values for attribute in schema.attributes] == [
            ("yes", "no", "on"),
            ("010", "1e3", "2020-01-01"),
            ("1", "010", "1_0"),
        ]
        assert [attribute.unknown for attribute in schema.attributes] == [False, True, False]
    assert load_config("train", ["profile=yelp"]).profile.name == "yelp"
    assert [a.values for a in Schema.from_config(load_config("train", ["profile=MINE.YAML"]).profile).attributes]


def test_a_value_that_looks_like_an_interpolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what was written, also in the config.yaml of a run, which is read again."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "{name: mine, attributes: [{name: 'Costs ${seed}', values: ['${x}', '$ {y}', '\\\\${z}']}]}"
    )
    cfg = load_config("train", ["profile=mine.yaml", "name=run-${profile.name}-${seed}"])
    [attribute] = Schema.from_config(cfg.profile).attributes
    assert (attribute.name, attribute.values) == ("Costs ${seed}", ("${x}", "$ {y}", "\\\\${z}"))
    assert cfg.name == "run-mine-0"
    (open_run(cfg) / "checkpoints").mkdir()
    assert open_run(cfg).name == "run-mine-0"
    assert typed("train", OmegaConf.load(open_run(cfg) / "config.yaml")) == cfg  # type: ignore[arg-type]


def test_several_schemas_of_a_multirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "a,b"):
        Path(f"{name}.yaml").write_text(f"{{name: '{name}', attributes: [{{name: X, values: [1, 2]}}]}}")
    assert translate("train", ["profile=a.yaml,b.yaml"]) == ["~profile", '+profile.path="a.yaml","b.yaml"']
    assert load_config("train", ["profile=a,b.yaml"]).profile.name == "a,b"
    assert translate("train", ["profile=yelp,text_only"]) == ["profile=yelp,text_only"]
    with pytest.raises(UserError, match=r"^profile=yelp,b\.yaml: give files only or names only"):
        translate("train", ["profile=yelp,b.yaml"])
    words = ["-m", "profile=a.yaml,b.yaml", "model=majority", "data.prepare.source.users=0", "name=${profile.name}"]
    done = subprocess.run(
        [sys.executable, "-m", "mmprofile.train", *words], capture_output=True, encoding="utf-8", timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")


def test_a_schema_of_ones_own_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout, where conf/profile is ours: schemas that Hydra composes are left to it, the others are as they were."""
    monkeypatch.chdir(conf_dir().parent)
    for name in ("yelp", "text_only", "synthpai", "prism", "personamem_v2", "edgewise", "yelp+text_only"):
        words = translate("train", [f"profile={name}"])
        assert (len(words) == 1) == ("+" in name)
        found = Schema.from_config(load_config("train", [f"profile={name}"]).profile)
        assert "+" in name or found == Schema.from_yaml(conf_dir() / "profile" / f"{name}.yaml")
    assert load_config("llm", ["profile=synthpai"]).profile.name == "synthpai"
    assert len(load_config("train", ["profile=yelp+text_only"]).profile.parts) == 2


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("profile=nowhere.yaml", "profile schema nowhere.yaml: cannot be read"),
        ("profile=list.yaml", "profile schema list.yaml: expected a mapping"),
        ("profile=broken.yaml", "profile schema broken.yaml: cannot be read (while parsing"),
        ("profile=yelpp", "profile=yelpp: there is no such choice (did you mean yelp?); choices: "),
    ],
)
def test_a_schema_that_cannot_be_read(word: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "broken.yaml").write_text("{a: [")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        load_config("train", [word])
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_a_short_name_stands_for_exists() -> None:
    assert load_config("caption", ["model=org/blip2"]).checkpoint == "org/blip2"
    assert load_config("llm", ["teacher=openai", "teacher.name=x"]).teacher.kind == "openai"
    for command in ("train", "prepare", "llm"):
        assert load_config(command, ["photos=none"]).data.prepare.photos.policy == "none"
    assert set(SHORT) == {"train", "prepare", "caption", "llm"}
    for command, keys in RENAMED.items():
        config = load_config(command, [])
        for old, new in keys.items():
            assert OmegaConf.select(config, new, default="absent") != "absent"
            assert OmegaConf.select(config, old, default="absent") == "absent"


def test_an_old_word_is_todays_key() -> None:
    assert load_config("train", ["evaluation.dev_beams=3"]).evaluation.validation_beams == 3
    assert load_config("train", ["experiment=paper"]).evaluation.validation_beams == 1


def test_an_old_configuration_is_todays() -> None:
    now = load_config("train", ["evaluation.validation_beams=3"])
    old = OmegaConf.create(OmegaConf.to_container(now))
    del old.evaluation.validation_beams
    old.evaluation.dev_beams = 3
    assert typed("train", old) == now
    assert difference(old, now) == []
    assert difference(old, load_config("train", [])) == ["evaluation.validation_beams: 3 -> None"]
    assert old.evaluation.dev_beams == 3, "the old one is not touched"


def test_keys_are_renamed_where_they_are() -> None:
    assert rename_keys("train", {"evaluation": {"dev_beams": 2, "beams": 1}}) == {
        "evaluation": {"validation_beams": 2, "beams": 1}
    }
    assert rename_keys("train", {"evaluation": None}) == {"evaluation": None}
    assert rename_keys("train", {}) == {}
    both = {"evaluation": {"dev_beams": 2, "validation_beams": 1}}
    assert rename_keys("train", both) == {"evaluation": {"validation_beams": 1}}


def test_a_run_with_an_old_key_goes_on(tmp_path: Path) -> None:
    cfg = load_config("train", [f"out={tmp_path}", "name=run", "evaluation.validation_beams=2"])
    folder = open_run(cfg)
    (folder / "checkpoints").mkdir()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("validation_beams", "dev_beams"))
    assert open_run(cfg) == folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("purpose", 'a "study" of {shops}, [not more]: 100 %'), ("purpose", "null"), ("purpose", "1e3"), ("purpose", "Größe"),
        ("purpose", None), ("name", "a/b-c_d.e"), ("seed", 3), ("inputs.redraw", False), ("optim.lr_new", 1e-05),
        ("paradigm.views", ["fusion", "text"]), ("inputs", {"reviews": 2, "photos": None}),
    ],
)  # fmt: skip
def test_a_value_as_words_is_that_value(key: str, value: Any) -> None:
    given = OmegaConf.select(load_config("train", as_words(key, value)), key)
    if isinstance(value, dict):
        assert {name: given[name] for name in value} == value
    else:
        assert given == value
