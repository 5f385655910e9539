"""The whole stage in one command, on a small city with a random student: what it computes; it goes on where it stopped."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmprofile.llm.run.comparison import TITLES, title
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.tinystudent import save_random_student

TEXT_ONLY = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")


def run(arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", "mmprofile.llm.run", "progress=false", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_ends_in_a_table(tmp_path: Path) -> None:
    texts = ["I am a student who waits for my wife."]
    save_random_student(tmp_path / "student", texts, TEXT_ONLY, size=300, layers=1)
    arguments = [
        "data=demo", "data.prepare.source.users=30", f"out={tmp_path / 'out'}", f"student={tmp_path / 'student'}", "samples=3",
        "students.other.reads=first_person", "students.other.prompt.system=''", "students.other.prompt.user='{person}'",
        "students.other.dtype=float32", "students.other.lora=0", "students.other.epochs=1", "students.other.max_new_tokens=300",
        "reinforce.rollouts=2", "reinforce.steps=1", "reinforce.group=2", "reinforce.people=1", "reinforce.low=0",
    ]  # fmt: skip
    printed = run(arguments)
    folder = tmp_path / "out" / "demo"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["rows"]) == [*TITLES, "ttrl", "ours"]
    assert all(set(row) == {"f1", "ece", "aurc", "interval"} for row in metrics["rows"].values())
    assert metrics["minutes"] > 0
    assert metrics["unread"] == 0
    for name in ("sft", "ttrl"):
        difference = metrics["differences"][f"ours - {name}"]
        assert difference["f1"] == pytest.approx(metrics["rows"]["ours"]["f1"] - metrics["rows"][name]["f1"], abs=1e-3)
    for name in metrics["rows"]:
        assert title(name) in printed
    rows = metrics["rows"]
    assert rows["voted"]["f1"] == rows["calibrated"]["f1"] > rows["teacher"]["f1"] > rows["sft"]["f1"] == 0.0
    low, high = rows["voted"]["interval"]
    assert low < rows["voted"]["f1"] < high
    printed_again = run(arguments)
    assert ", 90 of them from before" in printed_again
    assert printed_again.count(": found") == 3
    assert json.loads((folder / "metrics.json").read_text())["rows"] == rows
