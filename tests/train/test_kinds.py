"""Attributes of every kind through the commands, with the sample people of docs/own_data."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmprofile import Profiler
from mmprofile.config.compose import load_config
from mmprofile.config.settings import TrainConfig
from mmprofile.doctor.run import main as doctor
from mmprofile.errors import UserError
from mmprofile.evaluate.run import main as evaluate
from mmprofile.inputs.data import prepare_data
from mmprofile.predict.run import main as predict
from mmprofile.profile.schema import Schema
from mmprofile.report.run import main as report
from mmprofile.sweep.results import read_run
from mmprofile.train.run import keep_schema
from mmprofile.train.run import main as train

SAMPLE = Path(__file__).resolve().parents[2] / "docs" / "own_data"
SCHEMA = """
name: kinds
attributes:
  - {name: Budget, kind: ordinal, values: [low, middle, high]}
  - {name: Likes, kind: set, size: 2, min_size: 0, values: [cycling, early hours, pizza]}
  - {name: Spends, kind: number, quantiles: 3, unit: €}
  - {name: Visits, kind: number, edges: [10, 30]}
"""
SPENDS = {"low": 8, "middle": 25, "high": 70}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews, a schema of all kinds, and labels that follow from the sample's."""
    folder = tmp_path_factory.mktemp("kinds") / "data"
    shutil.copytree(SAMPLE, folder)
    (folder / "kinds.yaml").write_text(SCHEMA, encoding="utf-8")
    rows = [json.loads(line) for line in (SAMPLE / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    labels = []
    for number, row in enumerate(rows):
        new: dict[str, Any] = {"user_id": row["user_id"]}
        if budget := row.get("Budget"):
            new |= {"Budget": budget, "Spends": SPENDS[budget] + number % 10 / 4, "Visits": "30 and more"}
            new["Visits"] = {"low": 3, "middle": 12}.get(budget, new["Visits"])
        if "Travels By" in row and "Shops In The" in row:
            tastes = ("cycling", row["Travels By"] == "bicycle"), ("early hours", row["Shops In The"] == "morning")
            new["Likes"] = [taste for taste, has in tastes if has]
        labels.append(new)
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels), encoding="utf-8")
    return folder


def settings(folder: Path, name: str, *overrides: str) -> TrainConfig:
    words = ["data=custom", f"data.prepare.source.reviews={folder / 'reviews.jsonl'}", "paradigm=text", f"name={name}"]
    words += [f"data.prepare.source.labels={folder / 'labels.jsonl'}", f"profile={folder / 'kinds.yaml'}"]
    cfg: TrainConfig = load_config(
        "train", [*words, f"out={folder.parent / 'outputs'}", "trainer.progress=false", *overrides]
    )
    return cfg


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    train(settings(folder, "kinds", "trainer.max_epochs=2", "evaluation.resamples=50"))
    return folder.parent / "outputs" / "kinds"


def check_order(scores: dict[str, Any]) -> None:
    """Only attributes whose values are in order have distances, in their unit."""
    units = {name: one.get("unit") for name, one in scores["per_attribute"].items()}
    assert units == {"Budget": "steps", "Likes": None, "Spends": "€", "Visits": ""}
    for name in ("Budget", "Spends", "Visits"):
        assert scores["per_attribute"][name]["mean_absolute_error"] >= 0
        assert -1 <= scores["per_attribute"][name]["quadratic_kappa"] <= 1


def test_a_model_learns_bins_of_the_training_users(trained: Path, folder: Path) -> None:
    asked = Schema.from_yaml(folder / "kinds.yaml")
    schema = Schema.from_yaml(trained / "schema.yaml")
    assert asked["Spends"].values == ()
    assert len(schema["Spends"].values) == len(schema["Spends"].typical) == 3
    assert Schema.from_dict(json.loads((trained / "model" / "config.json").read_text())["schema"]) == schema
    prepared = prepare_data(settings(folder, "kinds").data, asked)
    assert Schema.from_yaml(prepared / "schema.yaml") == schema
    for line in (trained / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert all(schema[name].allows(values) for part in ("gold", "parsed") for name, values in row[part].items())
        assert schema.parse(row["text"]).faults == row["faults"] == []
    metrics = json.loads((trained / "metrics.json").read_text())
    for scores in (metrics["test"], *metrics["baselines"].values()):
        check_order(scores)
    assert metrics["baselines"]["tfidf_lr"]["per_attribute"]["Spends"]["quadratic_kappa"] > 0.5
    assert read_run(trained).schema == schema


def test_it_is_scored_again_and_reported(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(load_config("evaluate", [f"run={trained}"]))
    again = json.loads((trained / "evaluation-test.json").read_text())["test"]
    assert again == json.loads((trained / "metrics.json").read_text())["test"]
    assert "mean error, €" in capsys.readouterr().out
    written = (trained / "report.md").read_text(encoding="utf-8")
    (trained / "report.md").unlink()
    report(load_config("report", [f"run={trained}"]))
    assert (trained / "report.md").read_text(encoding="utf-8") == written
    assert re.search(r"\| Spends \| mean error, € \| \d", written)
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "Likes</strong>, 0 to 2 values for each user" in page
    assert page.count("quadratic kappa</td>") == 3


def test_it_predicts(trained: Path, folder: Path) -> None:
    output = trained / "new.jsonl"
    predict(load_config("predict", [f"run={trained}", f"input={folder / 'new.jsonl'}", f"output={output}"]))
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert all(isinstance(row["profile"]["Likes"], list) and "None" not in row["profile"]["Likes"] for row in rows)
    known = Profiler.from_pretrained(trained).predict(reviews=["Teuer."], known={"Spends": 3, "Likes": []})
    assert known.values["Likes"] == []
    assert known.values["Spends"].startswith("below ")


@pytest.mark.parametrize("system", ["majority", "tfidf_lr", "late_fusion"])
def test_other_systems_know_the_bins(system: str, folder: Path) -> None:
    words = {"late_fusion": ["model=late_fusion", "trainer.max_epochs=1"]}.get(system, [f"model={system}"])
    train(settings(folder, system, "evaluation.resamples=0", *words))
    check_order(json.loads((folder.parent / "outputs" / system / "metrics.json").read_text())["test"])


def test_the_doctor_knows_them_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is prepared, too."""
    doctor(settings(folder, "new", "data.prepare.split.seed=7"))
    assert "would be prepared" in (said := capsys.readouterr().out)
    assert "ready: " in said


def test_a_run_keeps_its_bins(trained: Path) -> None:
    schema = Schema.from_yaml(trained / "schema.yaml")
    keep_schema(trained, schema)
    other = Schema(schema.name, [replace(a, typical=()) if a.kind == "number" else a for a in schema.attributes])
    with pytest.raises(UserError, match="the data have changed since this run began, and with them the bins"):
        keep_schema(trained, other)
