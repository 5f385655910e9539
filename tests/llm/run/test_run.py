"""The whole stage in one command, on a small city with a random student: what it computes; it goes on where it stopped."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mmprofile.llm.answers import Claim
from mmprofile.llm.people import Person
from mmprofile.llm.run.run import TITLES, describe, resample, score
from mmprofile.llm.scores import score_labels
from mmprofile.llm.student import build_model, build_tokenizer
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Attribute, Schema

TEXT_ONLY = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")


def run(arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", "mmprofile.llm.run", "progress=false", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_ends_in_a_table(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["I am a student who waits for my wife."], TEXT_ONLY, size=300)
    torch.manual_seed(0)
    build_model(tokenizer, width=32, layers=1).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    how = [
        "data=demo", "data.prepare.source.users=30", f"out={tmp_path / 'out'}", f"student={tmp_path / 'student'}", "samples=3",
        "students.other.reads=first_person", "students.other.prompt.system=''", "students.other.prompt.user='{person}'",
        "students.other.dtype=float32", "students.other.lora=0", "students.other.epochs=1", "students.other.max_new_tokens=300",
        "reinforce.rollouts=2", "reinforce.steps=1", "reinforce.group=2", "reinforce.people=1", "reinforce.low=0",
    ]  # fmt: skip
    printed = run(how)
    folder = tmp_path / "out" / "demo"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["rows"]) == list(TITLES)
    assert all(set(row) == {"f1", "ece", "aurc", "interval"} for row in metrics["rows"].values())
    assert metrics["minutes"] > 0
    assert metrics["unread"] == 0
    for name in ("sft", "ttrl"):
        found = metrics["differences"][f"ours - {name}"]
        assert found["f1"] == pytest.approx(metrics["rows"]["ours"]["f1"] - metrics["rows"][name]["f1"], abs=1e-3)
    for title in TITLES.values():
        assert title in printed
    rows = metrics["rows"]
    assert rows["voted"]["f1"] == rows["calibrated"]["f1"] > rows["teacher"]["f1"] > rows["sft"]["f1"] == 0.0
    low, high = rows["voted"]["interval"]
    assert low < rows["voted"]["f1"] < high
    again = run(how)
    assert ", 90 of them from before" in again
    assert again.count(": found") == 3
    assert json.loads((folder / "metrics.json").read_text())["rows"] == rows


def test_a_row_is_the_mean_of_its_draws() -> None:
    schema = Schema("toy", [Attribute("Letter", ("a", "b"), unknown=True)])
    people = [Person(f"u{i}", gold={"Letter": ("a",)}) for i in range(8)]
    right, wrong = [{"Letter": Claim("a", 0.9)}] * 8, [{"Letter": Claim("b", 0.9)}] * 8
    mixed = [*right[:6], *wrong[:2]]
    draws = [right, wrong, mixed]
    found = score(schema, people, draws, resample(schema, people, draws, 0))
    assert found["f1"] == pytest.approx((100 + 0 + 75) / 3, abs=1e-3)
    assert found["ece"] == pytest.approx((0.1 + 0.9 + 0.15) / 3, abs=1e-4)
    own = score_labels(schema.names, [person.gold for person in people], mixed).interval
    assert own is not None
    assert found["interval"] == pytest.approx([(100 + end) / 3 for end in own], abs=1e-3)
    assert np.isfinite(found["aurc"])
    assert (resample(schema, people, [right], 0) - resample(schema, people, [wrong], 0) == 100).all()


def test_it_is_said_plainly_which_is_above() -> None:
    assert describe("SFT", 1.25, [0.5, 2.0]) == "SFT + ours is above SFT: +1.25 F1, 95 % +0.50 to +2.00"
    assert "is below SFT + TTRL: -1.25" in describe("SFT + TTRL", -1.25, [-2.0, -0.5])
    assert "is neither above nor below (within chance) SFT" in describe("SFT", 1.0, [-0.5, 2.0])
