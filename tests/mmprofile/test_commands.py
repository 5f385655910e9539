"""The commands as a user runs them: processes of their own, on a small city."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
    assert f"{test['macro_f1']:.2f}" in printed


def test_predictions_hold_gold_text_and_parse(trained: tuple[Path, str]) -> None:
    rows = [json.loads(line) for line in (trained[0] / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    for row in rows:
        assert list(row) == ["user_id", "gold", "text", "parsed", "faults"]
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
    assert "going on from" in done.stdout
    undisturbed, resumed = metrics_of(trained[0]), metrics_of(folder / "out" / "killed")
    assert [r["loss"] for r in resumed["history"]] == pytest.approx(
        [r["loss"] for r in undisturbed["history"]], abs=1e-5
    )
    first, second = (p / "predictions.jsonl" for p in (trained[0], folder / "out" / "killed"))
    assert first.read_text() == second.read_text()


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
    assert [row["user_id"] for row in rows] == ["ann", "bob", "3"]
    assert all(set(row["profile"]) == set(ATTRIBUTES) and row["faults"] == [] for row in rows)
    assert all(len(row["profile"]["Favorite Category"]) == 2 for row in rows)
    assert all(0 < share <= 1 for row in rows for share in row["confidence"].values())
    assert all(list(row["confidence"]) == list(row["profile"]) for row in rows)
    assert rows[0]["used"] == {"reviews": 2, "photos": 1, "captions": 0, "unusable_photos": {}}
    assert rows[1]["used"]["unusable_photos"] == {"photos/broken.jpg": "truncated", "photos/gone.jpg": "missing"}
    assert "the input has none: expect worse" in done.stderr
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
        ("train", ["out=/proc/none"], "choose another out="),
        ("train", ["paradigm.views=[text,colour]"], "colour"),
        ("train", ["paradigm.masking.image=1.5"], "paradigm.masking.image"),
        ("train", ["paradigm.schedule=random"], "paradigm.schedule"),
        ("train", ["text.encoding=segment"], "text.encoding='segment' is not one of joint, segments"),
        ("train", ["evaluation.beams=0"], "evaluation.beams=0 is not a number of beams"),
        ("evaluate", ["run=nowhere"], "no run there"),
        ("predict", ["run=nowhere", "input=gone.jsonl"], "gone.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_status_2(command: str, arguments: list[str], says: str, tmp_path: Path) -> None:
    done = run(command, *arguments, cwd=tmp_path, code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"reviews": ["a"]}\n{"reviews": [', "line 2"),
        ("[1, 2]", "line 1"),
        ('{"user_id": "a"}', "neither reviews nor photos"),
        ('{"user_id": "a", "reviews": ["x"]}\n{"user_id": "a", "reviews": ["y"]}', "second time"),
        ('{"reviews": "x"}', "list of strings"),
        (
            '{"reviews": ["x"], "photos": ["a.jpg"], "captions": []}\n{"photos": ["b"], "captions": ["x", "y"]}',
            "2 captions",
        ),
        ("", "no users"),
    ],
)
def test_bad_users_are_named_by_line(text: str, says: str, tmp_path: Path) -> None:
    from mmprofile.errors import UserError
    from mmprofile.predict import read_users

    (tmp_path / "users.jsonl").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        read_users(tmp_path / "users.jsonl")


GOLDEN = [0.4087, 0.2406]
