"""The doctor as a user calls it: what it says, its exit status, and that it leaves everything as it was."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from omegaconf import OmegaConf

from mmprofile.config.compose import load_config
from mmprofile.doctor.run import main
from mmprofile.errors import UserError
from tests.support.published import save_miniature

Call = Callable[..., tuple[int, str]]
SMALL = ["experiment=smoke", "loader.batch_size=2", "evaluation.batch_size=2"]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and a hub that cannot be reached."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """``doctor(*words)`` -> exit status and screen; in this process, so that libraries are imported once."""

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["doctor", *words])
        code = 0
        try:
            main(load_config("train", [f"out={tmp_path / 'out'}", *words]))
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().out.replace("\n             ", " ")  # lines that are folded

    return call


def files(*folders: Path) -> list[tuple[str, int]]:
    """Return all files below folders, with the time of their last change."""
    return sorted((str(path), path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*"))


def test_the_command_fits_on_a_screen_and_writes_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = os.environ | {"MMPROFILE_CACHE": str(cache), "HF_HOME": str(tmp_path / "hf"), "COLUMNS": "100"}
    words = ["experiment=smoke", "name=first", f"out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mmprofile.doctor", *words],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) < 40
    assert max(len(line) for line in lines[:-1]) <= 100
    assert "  other languages: mT5, 101 of them: model=base model.text.name=google/mt5-small" in done.stdout
    assert lines[-1] == f"ready: python -m mmprofile.train experiment=smoke name=first out={tmp_path / 'out'}"
    assert [line.split()[0] for line in lines if line[:1].isalpha()][:9] == [
        "software", "machine", "device", "disk", "run", "data", "text", "vision", "model",
    ]  # fmt: skip
    assert f"{tmp_path / 'out' / 'first'}: new" in done.stdout.replace("\n             ", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "hub"]
    assert list(cache.iterdir()) == []


def test_weights_that_are_not_here_and_cannot_be_fetched(doctor: Call, hub: Path) -> None:
    code, screen = doctor(*SMALL, "model=base")
    assert code == 1
    assert "google/flan-t5-base: not here; hf download google/flan-t5-base (990 MB, Apache-2.0)" in screen
    assert "338.7 M parameters, 338.7 M trained" in screen
    problems = [line for line in screen.splitlines() if line.startswith("- ")]
    assert "run `hf download google/flan-t5-base` on a machine with network" in problems[0]
    assert "run `hf download timm/vit_base_patch16_224.augreg2_in21k_ft_in1k`" in problems[1]
    assert "not ready: python -m mmprofile.train experiment=smoke" in screen
    assert list(hub.iterdir()) == []


def test_checkpoints_that_nobody_knows(doctor: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, screen = doctor(*SMALL, "model=flan_t5", "paradigm=text", "model.text.name=./nowhere/t5")
    assert code == 1
    assert screen.splitlines()[-1] == (
        "- model.text.name='./nowhere/t5': there is no such folder, and it is no hub id; check the path"
    )
    monkeypatch.setattr("mmprofile.doctor.weights.ask", lambda name, revision: None)
    code, screen = doctor(*SMALL, "model=flan_t5", "paradigm=text", "model.text.name=someone/own-t5")
    assert code == 0
    assert "what it needs is not known before its weights are here" in screen
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "t5"}')
    code, screen = doctor(*SMALL, "model=flan_t5", "paradigm=text", f"model.text.name={tmp_path / 'empty'}")
    assert (code, "without weights" in screen) == (1, True)


def test_a_hub_that_answers_is_enough(doctor: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address is not looked up: the question itself is tested with the hub's functions."""
    monkeypatch.setattr("mmprofile.doctor.weights.ask", lambda name, revision: None)
    code, screen = doctor(*SMALL, "model=flan_t5", "model.size=base", "paradigm=text")
    assert code == 0
    assert "weights to fetch" in screen
    monkeypatch.setattr("mmprofile.doctor.weights.get_token", lambda: None)
    code, screen = doctor(*SMALL, "model=llama", "paradigm=text", "model.text.name=meta-llama/Llama-3.2-1B")
    assert code == 1
    assert "- model.text.name='meta-llama/Llama-3.2-1B' is gated: accept its licence" in screen
    assert "(2.5 GB, Llama 3.2 Community, gated)" in screen


def test_a_snapshot_in_the_cache_is_found_with_its_revision(doctor: Call, hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub / "models--google--flan-t5-base"
    save_miniature("google/flan-t5-base", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    before = files(hub)
    words = (*SMALL, "model=flan_t5", "model.size=base", "paradigm=text")
    code, screen = doctor(*words)
    assert code == 0
    assert "google/flan-t5-base: in the cache, revision 0123456789ab" in screen
    assert files(hub) == before
    (weights,) = (repository / "snapshots" / commit).glob("model.safetensors")
    weights.unlink()
    code, screen = doctor(*words)
    assert code == 1
    assert "has no weights (model.safetensors" in screen


def test_systems_that_are_not_trained(doctor: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    code, screen = doctor("experiment=smoke", "model=majority")
    assert code == 0
    assert "needs no checkpoint and no GPU" in screen
    assert "memory" not in screen.split("system ")[1]
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, screen = doctor("experiment=smoke", "model=gpt")
    assert code == 1
    assert "the environment variable OPENAI_API_KEY with the key is not set" in screen


def test_the_run_folder_and_the_data_are_looked_at(doctor: Call, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "one"
    (folder / "checkpoints").mkdir(parents=True)
    words = ["experiment=smoke", "model=majority", "name=one"]
    assert ": new" in doctor(*words)[1]
    (folder / "checkpoints" / "last.ckpt").touch()
    assert "the same command goes on from" in doctor(*words)[1]
    (folder / "metrics.json").write_text(json.dumps({}))
    code, screen = doctor(*words)
    assert (code, ": finished;" in screen) == (0, True)
    other = load_config("train", [*words, "seed=5", f"out={folder.parent}"])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(other))
    code, screen = doctor(*words)
    assert code == 1
    assert "holds a run with other settings" in screen.splitlines()[-1]
    code, screen = doctor("model=majority", "data=yelp", "data.prepare.source.path=/nowhere")
    assert code == 1
    assert screen.splitlines()[-1] == "- raw data: /nowhere does not exist: check data.prepare.source.path"
    (tmp_path / "yelp").mkdir()
    code, screen = doctor("model=majority", "data=yelp", f"data.prepare.source.path={tmp_path / 'yelp'}")
    assert (code, "not complete in" in screen) == (1, True)


def test_no_key_for_user_ids_is_made(doctor: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPROFILE_USER_KEY", raising=False)
    reviews = tmp_path / "reviews.jsonl"
    reviews.write_text('{"user_id": "a", "text": "good soup"}\n')
    code, screen = doctor("model=majority", "data=custom", f"data.prepare.source.reviews={reviews}")
    assert (code, "custom: would be prepared in" in screen) == (0, True)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_without_room_is_a_reason(doctor: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, screen = doctor("experiment=smoke", "model=majority", f"out={tmp_path / 'file'}")
    assert code == 1
    assert f"{tmp_path / 'file'} is a file; choose another folder" in screen.splitlines()[-1]
    if Path("/proc/self").exists():  # a file system on which nothing is ever free
        code, screen = doctor(*SMALL, "paradigm=text", "out=/proc/runs")
        assert code == 1
        assert "checkpoints and model need" in screen.splitlines()[-1]


def test_a_training_that_does_not_fit_is_refused(doctor: Call) -> None:
    code, screen = doctor(*SMALL, "model=chatglm", "model.size=large", "paradigm=text", "model.text.lora.rank=0")
    assert code == 1
    assert "a training needs about" in screen
    assert "not enough" in screen


def test_mistakes_are_those_of_train(doctor: Call) -> None:
    with pytest.raises(UserError, match=r"did you mean model.size\?"):
        doctor("model.siz=base")
    with pytest.raises(UserError, match="T5 overflows to NaN in fp16"):
        doctor("trainer.precision=16-mixed")
    with pytest.raises(UserError, match="it has no fusion and sees no photos"):
        doctor("model=flan_t5", "paradigm=both")


def test_no_connection_is_made_for_what_is_here(doctor: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *place, **_: asked.append(place))
    assert doctor(*SMALL)[0] == 0
    assert asked == []
