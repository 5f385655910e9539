"""A run's folder may come from anybody: its config.yaml builds nothing but this project's own parts."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mmprofile.config.compose import load_config, read_run_config, typed
from mmprofile.config.targets import OURS, build, trust
from mmprofile.errors import UserError
from mmprofile.evaluate.runs import find_prepared, open_draws
from mmprofile.files import write_json
from mmprofile.inputs.data import find_data
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

pytestmark = pytest.mark.fast


class Attack:
    """Code that runs where it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder that the pickle beside it makes."""
    (tmp_path / "attack.pkl").write_bytes(pickle.dumps(Attack(tmp_path / "made")))
    return tmp_path / "made"


def shared_run(folder: Path, changes: dict[str, Any]) -> Path:
    """A finished run of the majority, with changes in its configuration."""
    folder.mkdir()
    cfg = OmegaConf.create(OmegaConf.to_yaml(load_config("train", ["model=majority", "name=shared"])))
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    write_json(folder / "metrics.json", {})
    (folder / "predictions.jsonl").write_text("")
    return folder


def test_a_shared_run_runs_no_pickle(tmp_path: Path, made: Path) -> None:
    pickled = {"_target_": "joblib.load", "filename": str(tmp_path / "attack.pkl")}
    run = shared_run(tmp_path / "run", {"data.prepare.source": pickled})
    command = [sys.executable, "-m", "mmprofile.report", f"run={run}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not made.exists()
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*_target_: joblib\.load.*--trust=joblib\.load.*\n", done.stderr)


@pytest.mark.parametrize("key", ["data.prepare", "data.prepare.selection", "data.prepare.source.a.b", "reader"])
def test_wherever_it_stands(key: str, tmp_path: Path, made: Path, schema: Schema) -> None:
    node = {"_target_": "os.mkdir", "path": str(made)}
    run = shared_run(tmp_path / "run", {key: node if key != "reader" else {"_target_": "os.mkdir"}})
    cfg = typed("train", OmegaConf.load(run / "config.yaml"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"_target_: os\.mkdir is no part of mmprofile"):
        open_draws(cfg, schema, made) if key == "reader" else find_prepared(cfg, None)
    assert not made.exists()


def test_a_list_or_a_reference_hides_nothing(made: Path) -> None:
    node = {"_target_": "os.mkdir", "path": str(made)}
    hidden = OmegaConf.create({"call": {"_target_": "datamodules.draws.Draws", "a": [[node]]}, "a": node})
    for part in (hidden.call, OmegaConf.create({"x": hidden.a, "_target_": "${x._target_}"})):
        with pytest.raises(UserError, match="_target_"):
            build(part)
    with pytest.raises(UserError, match="_target_: None"):
        build(OmegaConf.create({"path": str(made)}))
    assert not made.exists()


def test_ours_are_those_of_the_shipped_files() -> None:
    words = [path.read_text(encoding="utf-8") for path in conf_dir().rglob("*.yaml")]
    assert set(re.findall(r"_target_: ([\w.]+)", "\n".join(words))) == OURS


def test_ones_own_is_named_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_TRUST", "")  # put back afterwards, whatever trust() sets
    node = OmegaConf.create({"_target_": "fractions.Fraction", "numerator": 3})
    with pytest.raises(UserError, match=r"--trust=fractions\.Fraction"):
        build(node)
    words = ["a=1", "--trust=fractions.Fraction", "--trust=math.gcd", "-m"]
    assert trust(words) == ["a=1", "-m"]
    assert build(node) == 3
    for wrong in ("--trust", "--trust=", "--trust=fractions", "--trust=*"):
        with pytest.raises(UserError, match=r"--trust=package\.module\.name"):
            trust([wrong])


def test_a_run_of_0_1_0_builds_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path))
    cfg = typed("train", read_run_config(Path(__file__).parents[1] / "support" / "run_0_1_0"))
    found = find_data(cfg.data, Schema.from_config(cfg.profile))
    assert (found.there, found.photos, found.captions) == (False, True, True)
