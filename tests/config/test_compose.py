"""Every configuration composes, and every mistake on the command line is one line that helps."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mmprofile.config.compose import CONFIGS, chosen_settings, difference, load_config
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.openrun import open_run

GIVEN = {
    "yelp": ["data.prepare.source.path=/raw"],
    "custom": ["data.prepare.source.reviews=reviews.jsonl"],
    "evaluate": ["run=outputs/both"],
    "apply": ["run=outputs/both"],
    "predict": ["run=outputs/both", "input=users.jsonl"],
    "inspection": ["run=outputs/both"],
    "report": ["run=outputs/both"],
    "forget": ["user=ann"],
}
OF_TRAIN = ("data", "experiment", "model", "paradigm", "trainer")  # other commands read the other groups
GROUPS = sorted((group, path.stem) for group in OF_TRAIN for path in conf_dir().glob(f"{group}/*.yaml"))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_command_composes_with_its_defaults(name: str) -> None:
    config = load_config(name, GIVEN.get(name, []))
    assert set(CONFIGS[name].__dataclass_fields__) <= set(config)


@pytest.mark.parametrize(("group", "choice"), GROUPS)
def test_every_group_choice_composes(group: str, choice: str) -> None:
    config = load_config("train", [f"{group}={choice}", *GIVEN.get(choice, [])])
    if group in ("data", "paradigm", "model"):
        assert config[group].name == choice


@pytest.mark.parametrize("path", sorted(conf_dir().glob("profile/*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_a_schema(path) -> None:
    found = Schema.from_dict(load_config("train", [f"profile={path.stem}"]).profile)
    parts = [Schema.from_yaml(path.with_stem(name)) for name in path.stem.split("+")]
    assert found == Schema(path.stem, [attribute for part in parts for attribute in part.attributes])
    assert found.name == path.stem


def test_the_papers_settings() -> None:
    cfg = load_config("train", ["experiment=paper"])
    assert (cfg.model.text.name, cfg.model.vision.name) == ("google/flan-t5-base", "vit_base_patch16_224")
    assert (cfg.inputs.reviews, cfg.inputs.max_tokens, cfg.loader.batch_size) == (3, 600, 4)
    assert (cfg.optim.lr_pretrained, cfg.optim.lr_new, cfg.trainer.max_epochs) == (5e-5, 5e-5, 10)
    assert (cfg.evaluation.beams, cfg.model.fusion.norm, cfg.model.fusion.gate) == (5, "sparsemax", "tanh")
    assert (cfg.text.encoding, cfg.inputs.redraw, cfg.decoder.vocabulary) == ("joint", False, "full")
    split = cfg.data.prepare.split
    assert (split.train, split.validation, split.test) == (3000, 500, 500)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data=yelpp"], "did you mean yelp?"),
        (["paradigm=mutli"], "did you mean multi?"),
        (["paradgim=both"], "did you mean paradigm?"),
        (["paradigm.view=[text]"], "did you mean paradigm.views?"),
        (["model/text=foo"], "did you mean model.text?"),
        (["optim.lr=1"], "unknown config key 'optim.lr'"),
        (["data.prepare.source.user=3"], "did you mean data.prepare.source.users?"),
        (["seed=x"], "could not be converted to Integer"),
        (["optim.lr_new=fast"], "could not be converted to Float"),
        (["trainer.progress=7x"], "trainer.progress"),
        (["+nonsense=1"], "unknown config key 'nonsense'"),
        (["both"], "give key=value"),
        (["paradigm=[a"], "cannot be read"),
        (["seed=0,1"], "seed=0,1: several values are a multirun, which needs -m"),
    ],
)
def test_mistakes_are_one_line_that_names_the_nearest_choice(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config("train", overrides)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(UserError, match="add run="):
        load_config("evaluate", [])


def test_a_folder_keeps_its_settings_once_something_was_trained(tmp_path: Path) -> None:
    first, second = (load_config("train", [f"out={tmp_path}", "name=run", f"seed={seed}"]) for seed in (0, 1))
    folder = open_run(first)
    assert open_run(second) == folder
    assert OmegaConf.load(folder / "config.yaml").seed == 1
    (folder / "checkpoints").mkdir()
    assert open_run(second) == folder
    with pytest.raises(UserError, match=r"holds a run with other settings .seed: 1 -> 0"):
        open_run(first)


def test_a_run_from_before_purposes_goes_on(tmp_path: Path) -> None:
    cfg = load_config("train", [f"out={tmp_path}", "name=run"])
    folder = open_run(cfg)
    (folder / "checkpoints").mkdir()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("purpose: null\n", ""))
    assert "purpose" not in OmegaConf.load(config)
    assert open_run(cfg) == folder
    with pytest.raises(UserError, match=r"purpose: None -> a survey"):
        open_run(load_config("train", [f"out={tmp_path}", "name=run", "purpose=a survey"]))


@pytest.mark.parametrize(
    "words",
    [
        [], ["paradigm=multi", "model=base", "seed=3", "trainer.max_epochs=20"], ["experiment=paper"], ["experiment=smoke"],
        ["model=bart", "model.size=large"], ["model=base", "model.name=mine", "paradigm.name=own"],
        ["paradigm.views=[fusion,text]", "trainer=cpu", "inputs.photos=0"],
    ],
)  # fmt: skip
def test_the_chosen_settings_make_the_configuration_again(words: list[str]) -> None:
    """But for where the data come from, and where the run goes."""
    cfg = load_config("train", [*words, "name=run"])
    chosen = chosen_settings(cfg)
    again = load_config("train", [*chosen, "name=run"])
    again.data, again.profile, again.loader, again.probe = cfg.data, cfg.profile, cfg.loader, cfg.probe
    assert difference(cfg, again) == []
    if not words:
        assert chosen == ["paradigm=both", "model=tiny", "seed=0"]
