"""The commands as a user runs them: processes of their own, on a small city."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from mmprofile.config.command import run_command
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.evaluate.runs import load_run
from mmprofile.inspection import run as inspection_run
from mmprofile.report import run as report_run
from tests.support.htmlpage import Page

SMOKE = ["experiment=smoke", "trainer.progress=false"]
ATTRIBUTES = (
    "Stars", "Favorite Category", "Preferred Meal", "Budget Range", "Discount Preference", "Service Preference",
)  # fmt: skip


def run(command: str, *arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m mmprofile.<command>`` and checks its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", f"mmprofile.{command}", *arguments], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Path, str]:
    """One smoke training; the run's folder and what was printed."""
    done = run("train", *SMOKE, "name=smoke", "out=out", cwd=folder)
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return folder / "out" / "smoke", done.stdout


def metrics_of(run_folder: Path) -> dict[str, Any]:
    return json.loads((run_folder / "metrics.json").read_text())


def test_train_writes_what_other_tools_read(trained: tuple[Path, str]) -> None:
    path, printed = trained
    metrics = metrics_of(path)
    test = metrics["test"]
    assert 0 <= test["macro_f1"] <= 100
    assert 0 <= test["macro_f1_all"] <= test["macro_f1"]
    assert set(test["per_attribute"]) == set(ATTRIBUTES)
    for scores in test["per_attribute"].values():
        assert {"macro_f1", "support", "interval"} <= set(scores)
        assert scores["interval"][0] <= scores["macro_f1"] <= scores["interval"][1]
    assert np.mean([s["macro_f1"] for s in test["per_attribute"].values()]) == pytest.approx(test["macro_f1"])
    assert test["parse_fault_rate"] == 0
    assert test["n_users"] == 12
    assert 0 <= test["unpaired"]["macro_f1"] <= 100
    assert all(0 <= metrics["baselines"][name]["macro_f1"] <= 100 for name in ("majority", "tfidf_lr", "ceiling"))
    assert set(metrics["seconds"]) == {"prepare", "train", "evaluate"}
    assert metrics["peak_rss_mb"] > 100
    assert (path / "config.yaml").is_file()
    report = (path / "report.md").read_text()
    assert "Favorite Category" in report
    assert f"{test['macro_f1']:.2f}" in report
    for figure in re.findall(r"!\[[^]]*\]\(([^)]+)\)", report):
        assert Image.open(path / figure).size[0] > 300
    page = Page((path / "report.html").read_text(encoding="utf-8"))
    assert {"scores", "confusion", "confidence", "learning", "gates", "users"} <= page.ids
    assert f"{test['macro_f1']:.2f}" in page.text
    assert f"{test['macro_f1']:.2f}" in printed


def test_tensorboard_reads_a_run(trained: tuple[Path, str], folder: Path) -> None:
    """What ``tensorboard --logdir outputs`` would show."""
    command = [sys.executable, "-m", "tensorboard.main", "--inspect", "--logdir", "out/smoke"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    tags = {line.strip() for line in done.stdout.splitlines()}
    asked = ("paired", "unpaired", "unpaired_pixels", "gap", "gap_pixels")
    assert {
        "validation/macro_f1",
        *(f"validation/{name}" for name in ATTRIBUTES),
        *(f"probe/{name}" for name in asked),
    } <= tags


def test_predictions_hold_gold_text_and_parse(trained: tuple[Path, str]) -> None:
    rows = [json.loads(line) for line in (trained[0] / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    for row in rows:
        assert list(row) == ["user_id", "gold", "text", "parsed", "faults", "confidence", "uncalibrated", "sets"]
        assert list(row["confidence"]) == list(row["uncalibrated"]) == list(row["sets"]) == list(ATTRIBUTES)
        assert all(row["parsed"][name] in values for name, values in row["sets"].items())
        assert all(0 < share <= 1 for share in row["confidence"].values())
        assert row["faults"] == []
        assert set(row["gold"]) == set(row["parsed"]) == set(ATTRIBUTES)
        assert f"Stars: {row['parsed']['Stars'][0]};" in row["text"]


def test_evaluate_prints_the_same_figure(trained: tuple[Path, str], folder: Path) -> None:
    run("evaluate", "run=out/smoke", cwd=folder)
    again = json.loads((trained[0] / "evaluation-test.json").read_text())
    first = metrics_of(trained[0])
    assert again["test"]["macro_f1"] == pytest.approx(first["test"]["macro_f1"], abs=0.01)
    assert again["test"]["unpaired"]["macro_f1"] == pytest.approx(first["test"]["unpaired"]["macro_f1"], abs=0.01)
    assert again["baselines"]["tfidf_lr"]["macro_f1"] == pytest.approx(first["baselines"]["tfidf_lr"]["macro_f1"])


def test_the_same_command_again_does_nothing_more(trained: tuple[Path, str], folder: Path) -> None:
    before = (trained[0] / "metrics.json").stat().st_mtime_ns
    done = run("train", *SMOKE, "name=smoke", "out=out", cwd=folder)
    assert "is finished" in done.stdout
    assert (trained[0] / "metrics.json").stat().st_mtime_ns == before


def test_a_run_folder_is_not_overwritten_by_other_settings(trained: tuple[Path, str], folder: Path) -> None:
    done = run("train", *SMOKE, "name=smoke", "out=out", "seed=1", cwd=folder, code=2)
    assert "seed: 0 -> 1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_golden_loss_curve(trained: tuple[Path, str]) -> None:
    """Recorded once; a change of data, views, model or optimiser moves it. Tolerance: other machines and versions."""
    losses = [row["loss"] for row in metrics_of(trained[0])["history"]]
    assert losses == pytest.approx(GOLDEN, rel=0.03)


def test_a_killed_training_goes_on_to_the_same_result(trained: tuple[Path, str], folder: Path) -> None:
    command = [sys.executable, "-m", "mmprofile.train", *SMOKE, "name=killed", "out=out"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch   1/2"):
            break
    last = folder / "out" / "killed" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "out" / "killed" / "metrics.json").exists()
    done = run("train", *SMOKE, "name=killed", "out=out", cwd=folder)
    assert "continuing from" in done.stdout
    undisturbed, resumed = metrics_of(trained[0]), metrics_of(folder / "out" / "killed")
    for one, other in zip(resumed["history"], undisturbed["history"], strict=True):
        assert {"validation_loss_paired", "validation_loss_unpaired", "validation_loss_unpaired_pixels"} <= set(other)
        assert one == pytest.approx(other | {"seconds": one["seconds"]}, abs=1e-5)
    first, second = (p / "predictions.jsonl" for p in (trained[0], folder / "out" / "killed"))
    assert first.read_text() == second.read_text()


def test_inspection_of_a_run(trained: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained[0]
    ids = [json.loads(line)["user_id"] for line in (path / "predictions.jsonl").read_text().splitlines()]
    done = run("inspection", "run=out/smoke", f"users=[{ids[3]},{ids[0]}]", cwd=folder)
    assert "2 users, and the gates of all 12 of the test split with photos: out/smoke/inspection" in done.stdout
    assert "Warning" not in done.stderr
    found = path / "inspection"
    names = {"counterfactuals.csv", "gates.json", "gates.png"}
    each = {
        f"{name}{end}" for name in (ids[0], ids[3]) for end in (".npz", "-words.png", "-photos.png", "-effects.png")
    }
    assert {file.name for file in found.iterdir()} == names | each
    gates = json.loads((found / "gates.json").read_text())
    assert list(gates["by_view"]) == ["fusion", "text", "masked_image", "masked_profile"]
    assert gates["by_view"]["text"]["added"] == 0
    assert all(gates["by_photos"][name]["added"] > 0 for name in ("paired", "unpaired", "unpaired pixels", "black"))
    monkeypatch.chdir(folder)
    for words, said in (
        (["run=out/smoke", "users=[nobody]"], "user 'nobody' is not one of the 12 here"),
        (["run=out/smoke", "split=dev"], "run=out/smoke: .*the split 'dev' has no users"),
        (["run=out/nowhere"], "run=out/nowhere: no run there"),
        (["run=out/smoke", "folder=elsewhere"], "run=out/smoke: elsewhere is no prepared data set"),
        (["run=out/smoke", "count=0"], "count=0: give 1 or more"),
    ):
        with pytest.raises(UserError, match=said):
            inspection_run.main(load_config("inspection", words))


def test_the_benchmark_of_inspection(trained: tuple[Path, str], tmp_path: Path) -> None:
    """It writes what it promises; what it measures is nobody's promise."""
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    words = ["--run", str(trained[0]), "--timed", "5", "--users", "8", "--json", str(figures), "--page", str(page)]
    root = Path(__file__).parents[2]
    command = [sys.executable, "benchmarks/inspection.py", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert set(found) == {"gates", "attention", "cues", "time"}
    assert found["time"]["users"] == 5
    assert 0 <= found["attention"]["black"]["larger"] <= 1
    assert found["gates"]["black"]["low"] <= found["gates"]["black"]["difference"] <= found["gates"]["black"]["high"]
    assert sum(share * count for count, share in found["cues"]["shares"].values()) == pytest.approx(8, abs=1e-4)
    assert "| `unpaired` |" in page.read_text()


def test_inspection_of_a_run_whose_data_moved(
    trained: tuple[Path, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    trained_run = load_run(str(trained[0]))
    cfg, model = trained_run.cfg, trained_run.model
    prepare = instantiate(cfg.data.prepare, _partial_=True)
    shutil.copytree(prepare(schema=model.schema.observed), tmp_path / "here")
    inspection_run.main(load_config("inspection", ["run=out/smoke", "count=1", f"folder={tmp_path / 'here'}"]))
    city = {"kind": "demo", "users": 40, "seed": 1, "keep_raw": False}
    other = prepare(schema=model.schema.observed, source=city, folder=tmp_path / "other")
    said = r"^run=out/smoke: 12 of its 12 test users are not among the \d+ of .*other: .* folder=/path/to/prepared$"
    with pytest.raises(UserError, match=said):
        inspection_run.main(load_config("inspection", ["run=out/smoke", f"folder={other}"]))
    shutil.copytree(trained[0], tmp_path / "custom")  # a run on own data whose files are gone
    cfg.data.prepare.source = {"kind": "custom", "reviews": "gone.jsonl"}
    OmegaConf.save(cfg, tmp_path / "custom" / "config.yaml")
    with pytest.raises(UserError, match=r"^run=.*gone\.jsonl.*: folder=/path/to/prepared$"):
        inspection_run.main(load_config("inspection", [f"run={tmp_path / 'custom'}"]))


def test_report_of_a_run_again(
    trained: tuple[Path, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained[0]
    first = {name: (path / name).read_bytes() for name in ("report.html", "report.md", "report.png")}
    assert len(first["report.html"]) < 10e6
    done = run("report", "run=out/smoke", cwd=folder)
    assert "report: out/smoke/report.html (" in done.stdout
    assert "Warning" not in done.stderr
    assert {name: (path / name).read_bytes() for name in first} == first
    monkeypatch.chdir(folder)
    report_run.main(load_config("report", ["run=out/smoke", "count=0"]))
    page = Page((path / "report.html").read_text(encoding="utf-8"))
    assert "No user is shown." in page.text
    assert "test users with photos" in page.text  # gates are of many
    (path / "report.html").write_bytes(first["report.html"])

    # A system that leaves no model, and data or files that are not there any more: one line.
    run("train", *SMOKE, "name=tfidf", "model=tfidf_lr", "out=out", cwd=folder)
    system = (folder / "out" / "tfidf" / "report.html").read_bytes()
    report_run.main(load_config("report", ["run=out/tfidf"]))
    assert (folder / "out" / "tfidf" / "report.html").read_bytes() == system
    said = Page(system.decode())
    assert "the system is no model that was trained here" in said.text
    assert "There are no confidences" in said.text
    assert sum(alt.startswith(("Captioned", "Photo ")) for alt in said.images) >= 5
    moved = tmp_path / "moved"
    shutil.copytree(path, moved)
    cfg = OmegaConf.load(moved / "config.yaml")
    cfg.data.prepare.source = {"kind": "custom", "reviews": "gone.jsonl"}
    OmegaConf.save(cfg, moved / "config.yaml")
    shutil.copytree(moved, tmp_path / "bare")
    (tmp_path / "bare" / "predictions.jsonl").unlink()
    for words, expected in (
        ([f"run={moved}"], r"run=.*gone\.jsonl.*: folder=/path/to/prepared"),
        ([f"run={tmp_path / 'bare'}"], r"predictions\.jsonl: cannot be read"),
        (["run=out/nowhere"], r"run=out/nowhere: no finished run there"),
        (["run=out/smoke", "folder=elsewhere"], "run=out/smoke: elsewhere is no prepared data set"),
        (["run=out/smoke", "count=-1"], "count=-1: give 0 or more"),
    ):
        with pytest.raises(UserError, match=expected):
            report_run.main(load_config("report", words))


def test_predict_from_reviews_and_photos(trained: tuple[Path, str], folder: Path) -> None:
    (folder / "photos").mkdir()
    Image.new("RGB", (200, 150), "orange").save(folder / "photos" / "one.jpg")
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    users = [
        {"user_id": "ann", "reviews": ["Loved the pizza.", "Cheap and good."], "photos": ["photos/one.jpg"]},
        {"user_id": "bob", "reviews": ["Terrible service."], "photos": ["photos/broken.jpg", "photos/gone.jpg"]},
        {"reviews": ["Fine."]},
    ]
    (folder / "users.jsonl").write_text("\n".join(json.dumps(user) for user in users))
    done = run("predict", "run=out/smoke", "input=users.jsonl", cwd=folder)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["user_id"] for row in rows] == ["ann", "bob", "row-3"]
    assert all(set(row["profile"]) == set(ATTRIBUTES) and row["faults"] == [] for row in rows)
    assert all(len(row["profile"]["Favorite Category"]) == 2 for row in rows)
    assert all(0 < share <= 1 for row in rows for share in row["confidence"].values())
    assert all(list(row["confidence"]) == list(row["profile"]) for row in rows)
    assert rows[0]["used"] == {"reviews": 2, "photos": 1, "captions": 0, "unusable_photos": {}}
    assert rows[1]["used"]["unusable_photos"] == {"photos/broken.jpg": "truncated", "photos/gone.jpg": "missing"}
    assert "the input has none: on the validation users of its training that costs" in done.stderr
    assert "photos left out: 1 missing, 1 truncated" in done.stderr
    run("predict", "run=out/smoke", "input=users.jsonl", "output=profiles.jsonl", "batch_size=1", cwd=folder)
    assert [json.loads(line) for line in (folder / "profiles.jsonl").read_text().splitlines()] == rows


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("train", ["data=yelp", "data.prepare.source.path=nowhere"], "nowhere"),
        ("train", ["trainer.precision=16-mixed"], "fp16"),
        ("train", ["model.text.name=no/such-model", "paradigm=text"], "model.text.name='no/such-model'"),
        ("train", ["model.vision.name=vit_nothing"], "model.vision.name='vit_nothing'"),
        ("train", [*SMOKE, "data.prepare.split={train: 900, validation: 90, test: 90}"], "900"),
        ("train", ["out=/proc/none"], "choose another name= or out="),
        ("train", ["paradigm.views=[text,colour]"], "colour"),
        ("train", ["paradigm.masking.image=1.5"], "paradigm.masking.image"),
        ("train", ["paradigm.schedule=random"], "paradigm.schedule"),
        ("train", ["text.encoding=segment"], "text.encoding='segment' is not one of joint, segments"),
        ("train", ["probe.users=-1"], "probe.users=-1: give a number of users"),
        ("train", ["trainer.on_nan=ignore"], "trainer.on_nan='ignore' is not one of stop, skip"),
        ("train", ["trainer.checkpoint_every=-1"], "trainer.checkpoint_every=-1: give a number of steps"),
        ("train", ["loader.micro_batch_size=0"], "loader.micro_batch_size=0: give 1 or more, or null"),
        (
            "train",
            ["trainer.strategy=fsdp_cpu_offload"],
            "trainer.strategy=fsdp_cpu_offload: give fsdp, without an ending",
        ),
        ("train", ["evaluation.beams=0"], "evaluation.beams=0 is not a number of beams"),
        ("evaluate", ["run=nowhere"], "no run there"),
        ("predict", ["run=nowhere", "input=gone.jsonl"], "gone.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    command: str,
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In this process, since each of its own would import everything again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    with patch.dict(os.environ), pytest.raises(SystemExit) as left:  # a command sets variables for its libraries
        run_command(command, import_module(f"mmprofile.{command}.__main__").run)
    assert left.value.code == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]


GOLDEN = [0.4140, 0.2322]


def test_what_lightning_says_of_itself_is_not_printed(tmp_path: Path) -> None:
    words = ["experiment=smoke", "trainer.progress=false", "trainer.max_epochs=1", "trainer=cpu"]
    command = [sys.executable, "-m", "mmprofile.train", "paradigm=text", "name=quiet", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for noise in ("GPU available", "TPU available", "Tip:", "Trainer.fit", "Warning"):
        assert noise not in done.stdout + done.stderr
