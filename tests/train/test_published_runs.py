"""Miniatures of every published checkpoint through the commands: train, kill -9, resume, evaluate, predict, inspection, report."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmprofile.config.compose import load_config
from mmprofile.evaluate import run as evaluate
from mmprofile.inspection import run as inspection
from mmprofile.predict import run as predict
from mmprofile.profile.schema import Schema
from mmprofile.report import run as report
from mmprofile.train import run as train
from tests.support.published import PUBLISHED, save_miniature
from tests.support.published.chain import COMMANDS, SIBLINGS, WRITERS

VIT = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
CITY = ["data.prepare.source.users=20", "data.prepare.split={train: 12, validation: 4, test: 4}"]
SHORT = ["trainer.max_epochs=2", "trainer.checkpoint_every=1", "loader.batch_size=4", "evaluation.resamples=10"]
READ = ["inputs.max_tokens=96", "trainer.progress=false", "probe.users=2"]
CASES = [pytest.param(name, marks=[pytest.mark.slow] if name in SIBLINGS else []) for name in WRITERS]
KILLED_AFTER = 2  # steps, of 3 in each of 2 epochs


def words_of(name: str, folder: Path, out: Path) -> list[str]:
    """The command line that trains a checkpoint's miniature."""
    words = [*COMMANDS[PUBLISHED[name].kind], *CITY, *SHORT, *READ, f"out={out}", "name=run"]
    text = save_miniature(name, folder / name.rpartition("/")[2])
    vision = save_miniature(VIT, folder / "vit")
    return [*words, f"model.text.name={text}", f"model.vision.name=local-dir:{vision}"]


def run_killed(words: list[str], run: Path) -> None:
    """Train in a process of its own, and kill it as soon as some steps are in a checkpoint."""
    process = multiprocessing.get_context("fork").Process(target=train.main, args=(load_config("train", words),))
    process.start()
    last = run / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        try:
            if torch.load(last, map_location="cpu", weights_only=True)["global_step"] >= KILLED_AFTER:
                break
        except (OSError, EOFError, RuntimeError):  # not there yet, or being written
            time.sleep(0.01)
    assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (run / "metrics.json").exists()


def users_file(path: Path) -> Path:
    rows = [
        {"user_id": "ana", "reviews": ["The soup was warm & cheap!", "5 stars, we'd come back for brunch."]},
        {"user_id": "bo", "reviews": ["Très bon café ☕ — 值得再来。"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_from_training_to_report(name: str, schema: Schema, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of(name, tmp_path, tmp_path / "outputs")
    run, killed = tmp_path / "outputs" / "run", tmp_path / "killed" / "run"
    train.main(load_config("train", words))
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["history"]) == 2

    again = [*words, f"out={tmp_path / 'killed'}"]
    run_killed(again, killed)
    capsys.readouterr()
    train.main(load_config("train", again))
    assert f"continuing from {killed / 'checkpoints' / 'last.ckpt'}" in capsys.readouterr().out
    weights, resumed = (load_file(folder / "model" / "model.safetensors") for folder in (run, killed))
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)
    assert rows_in(run / "predictions.jsonl") == rows_in(killed / "predictions.jsonl")

    evaluate.main(load_config("evaluate", [f"run={run}"]))
    evaluation = json.loads((run / "evaluation-test.json").read_text())
    assert evaluation["test"] == metrics["test"]
    assert rows_in(run / "predictions-test.jsonl") == rows_in(run / "predictions.jsonl")
    evaluate.main(load_config("evaluate", [f"run={run}", "beams=5"]))
    assert all(row["faults"] == [] for row in rows_in(run / "predictions-test.jsonl"))

    given, output = users_file(tmp_path / "users.jsonl"), tmp_path / "profiles.jsonl"
    predict.main(load_config("predict", [f"run={run}", f"input={given}", f"output={output}"]))
    profiles = rows_in(output)
    assert [row["user_id"] for row in profiles] == ["ana", "bo"]
    assert all(row["faults"] == [] and schema.parse(row["text"]).faults == [] for row in profiles)
    assert all(set(row["confidence"]) == set(schema.names) for row in profiles)

    page = (run / "report.html").read_text()
    report.main(load_config("report", [f"run={run}"]))
    assert (run / "report.html").read_text() == page
    if PUBLISHED[name].kind == "seq2seq":  # the others have no gate to look at
        inspection.main(load_config("inspection", [f"run={run}", "count=1"]))
        assert {"gates.json", "gates.png", "counterfactuals.csv"} <= {p.name for p in (run / "inspection").iterdir()}
