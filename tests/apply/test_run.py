"""The command that tries profiles out: sentiment of reviews with and without them."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import accuracy_score, f1_score

from mmprofile.apply import run as apply
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.files import read_json_lines
from mmprofile.inputs.views import SPLITS
from mmprofile.sweep.results import read_run
from tests.support.tinyclassifiers import KINDS, SENTIMENT

FAST = ["trainer.max_epochs=2", "inputs.train_reviews=1", "inputs.max_tokens=64", "resamples=50"]


@pytest.fixture(scope="module")
def classify(out: Path, trained: Path, checkpoints: dict[str, str]) -> Callable[..., Path]:
    """``classify(kind, name, *overrides)`` runs the command; the folder."""

    def make(kind: str, name: str, *overrides: str) -> Path:
        words = [f"classifier={kind}", f"classifier.text={checkpoints[kind]}", f"run={trained}", f"out={out}"]
        apply.main(load_config("apply", [*words, f"name={name}", *FAST, "trainer.progress=false", *overrides]))
        return out / name

    return make


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_classifier_trains_and_is_scored(kind: str, out: Path, classify: Callable[..., Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / "profiles").glob("*")}
    folder = classify(kind, kind)
    kept = {path: path.stat().st_mtime_ns for path in (out / "profiles").glob("*")}
    assert sorted(path.name.split("-")[0] for path in kept) == sorted(SPLITS)
    assert kept == (before or kept)  # written once for all classifiers

    run, test = read_run(folder), metrics_of(folder)["test"]
    assert run.schema == SENTIMENT
    assert len(run.ids) == len(set(run.ids)) == test["n_users"] == 12
    gold, parsed = ([profile["Sentiment"][0] for profile in part] for part in (run.gold, run.parsed))
    assert [row["text"] for row in read_json_lines(folder / "predictions.jsonl")] == [
        f"Sentiment: {value}" for value in parsed
    ]
    f1 = f1_score(gold, parsed, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert test["macro_f1"] == pytest.approx(100 * f1)
    assert test["accuracy"] == pytest.approx(100 * accuracy_score(gold, parsed))
    assert test["interval"][0] <= test["macro_f1"] <= test["interval"][1]
    assert test["parse_fault_rate"] == 0
    metrics = metrics_of(folder)
    assert set(metrics["seconds"]) == {"prepare", "train", "evaluate"}
    assert set(metrics["baselines"]) == {"majority", "tfidf_lr"}
    assert metrics["n_parameters"] > 10_000
    assert len(metrics["history"]) == 2
    assert metrics["left_out"] == {split: {"no_other_review": 0, "no_stars": 0} for split in SPLITS}
    assert metrics["config"] == {
        "name": kind, "task": "sentiment", "classifier": kind, "profile": "generated", "sentences": None, "data": "demo",
        "run": str(out / "run"), "seed": 0,
    }  # fmt: skip


def test_an_adapter_trains_with_its_head(classify: Callable[..., Path]) -> None:
    folder = classify("causal", "lora", "classifier.lora.rank=2")
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name or "modules_to_save" in name for name in state)
    assert any("score" in name for name in state)
    assert any("lora_" in name for name in state)
    assert len(read_json_lines(folder / "predictions.jsonl")) == 12


def test_what_is_shown_is_what_the_classifier_learns_from(classify: Callable[..., Path]) -> None:
    losses = {}
    for choice in ("none", "gold", "shuffled"):
        history = metrics_of(classify("causal", choice, f"inputs.profile={choice}"))["history"]
        losses[choice] = history[0]["loss"]
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize(
    ("sentences", "shown"),
    [("null", "the review"), ("2", "the review (first sentences: 2)")],
)
def test_what_is_shown_is_said(sentences: str, shown: str) -> None:
    cfg = load_config("apply", ["run=outputs/both", f"inputs.sentences={sentences}"])
    assert f"shown: {shown}, profile generated (run outputs/both)" in apply.describe(cfg, {}, 0, Path("x"), "32-true")


def test_a_killed_training_goes_on_to_the_same_result(
    out: Path, trained: Path, checkpoints: dict[str, str], classify: Callable[..., Path]
) -> None:
    words = ["classifier=causal", f"classifier.text={checkpoints['causal']}", f"run={trained}", f"out={out}"]
    command = [sys.executable, "-m", "mmprofile.apply", *words, "name=killed", *FAST, "trainer.progress=false"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = out / "killed" / "checkpoints" / "last.ckpt"
    for line in process.stdout:
        if line.startswith("epoch   1/2"):
            break
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last.exists()
    assert not (out / "killed" / "metrics.json").exists()
    undisturbed, resumed = metrics_of(classify("causal", "causal")), metrics_of(classify("causal", "killed"))
    losses = [[row["loss"] for row in one["history"]] for one in (undisturbed, resumed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert (out / "causal" / "predictions.jsonl").read_text() == (out / "killed" / "predictions.jsonl").read_text()


def test_the_same_command_again_is_finished_and_another_is_refused(
    classify: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = classify("causal", "none", "inputs.profile=none")
    before = (folder / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    classify("causal", "none", "inputs.profile=none")
    assert "is finished" in capsys.readouterr().out
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"inputs\.profile: none -> gold"):
        classify("causal", "none", "inputs.profile=gold")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run=nowhere"], "run=nowhere: no run there"),
        (["task=humour"], "task=humour: there is no such choice"),
        (["classifier=brt"], "did you mean bert?"),
        (["classifier.size=huge"], "classifier.size=huge: classifier bert has the sizes tiny, base"),
        (["inputs.profile=true"], "inputs.profile='True' is not one of none, generated, gold, shuffled"),
        (["profile=true"], "must be a string or a list"),
        (["inputs.train_reviews=0"], "inputs.train_reviews=0: give 1 or more"),
        (["inputs.sentences=0"], "inputs.sentences=0: give 1 or more"),
        (["classifier.dtype=float16"], "classifier.dtype='float16' is not one of float32, bfloat16"),
        (["classifier.text=no/such"], "classifier.text='no/such' cannot be loaded"),
        (["classifier.text=mmprofile:tiny/vision"], "cannot be loaded"),
        (["trainer.precision=16-mixed"], "fp16"),
        (["optim.schedule=steps"], "optim.schedule='steps'"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, trained: Path, tmp_path: Path) -> None:
    run = [f"run={trained}"] if not words[0].startswith("run=") else []
    with pytest.raises(UserError) as error:
        apply.main(load_config("apply", [*run, f"out={tmp_path}", *words]))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_that_is_not_whole_is_one_line(trained: Path, checkpoints: dict[str, str], tmp_path: Path) -> None:
    def refused(key: str, value: Any, says: str, model: bool = True) -> None:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained, folder)
        if not model:
            shutil.rmtree(folder / "model")
        changed = OmegaConf.load(folder / "config.yaml")
        OmegaConf.update(changed, key, value, merge=False)
        OmegaConf.save(changed, folder / "config.yaml")
        words = [f"run={folder}", f"out={tmp_path}", f"classifier.text={checkpoints['bert']}", *FAST]
        with pytest.raises(UserError, match=says):
            apply.main(load_config("apply", words))

    refused("seed", 0, "its training has not finished", model=False)
    refused("model.system", "tfidf_lr", "system tfidf_lr leaves no model behind")
    refused("data.prepare.source", {"kind": "custom", "reviews": "gone.jsonl"}, "gone")
    refused("inputs.reviews", 1000, "train has no review to classify: of its users, 35 have no review but those")


def test_the_command_line_answers_a_typo_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmprofile.apply", "task=sentimant", "run=x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: task=sentimant: there is no such choice (did you mean sentiment?)")
    assert done.stderr.count("\n") == 1
