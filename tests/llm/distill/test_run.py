"""Distillation as a user runs it: it goes on where it was killed, and mistakes are one line."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.tinystudent import READ


def command(stage: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mmprofile.llm.{stage}", "progress=false", *arguments]


def run(stage: str, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(command(stage, *arguments), capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Labels of a small city; the words that choose it."""
    out = tmp_path_factory.mktemp("out")
    arguments = ["data=demo", "data.prepare.source.users=30", f"out={out}", "samples=2", "seed=0"]
    run("teacher", *arguments)
    run("vote", *arguments)
    return arguments


def test_the_command_trains_and_goes_on_when_killed(random_student: Path, voted: list[str]) -> None:
    out = Path(voted[2].partition("=")[2]) / "demo"
    arguments = [
        *voted,
        f"student={random_student}",
        *READ,
        "students.other.epochs=8",
        "students.other.batch_size=4",
        "students.other.lr=1e-2",
    ]
    started = subprocess.Popen(command("distill", *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((out / "student.partial").glob("checkpoint-*/trainer_state.json")):
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (out / "student").exists()
    printed = run("distill", *arguments)
    assert "left out: 0 without labels, 0 with texts too long" in printed
    before, after = (
        AutoModelForCausalLM.from_pretrained(random_student),
        AutoModelForCausalLM.from_pretrained(out / "student"),
    )
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert not (out / "student.partial").exists()
    assert "a demonstration on generated people" in (out / "student" / "README.md").read_text()
    assert run("distill", *arguments).endswith("student: found\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["student=/nowhere"], "student='/nowhere' cannot be loaded"),
        (["distill.thin=2"], "distill.thin=2.0 is not a share"),
        (["name=nothing"], "labels.parquet: no table of labels"),
        (["students.other.max_new_tokens=4090"], "too long for the student's context"),
        (["students.other.reads=some"], "students.other.reads=some is not one of first_person, all"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, random_student: Path, voted: list[str]) -> None:
    printed = run("distill", *voted, f"student={random_student}", *READ, *arguments, code=2)
    assert says in printed.splitlines()[-1]
    assert "Traceback" not in printed
