"""A run that was killed, told to end, or out of disk goes on to the very same model, predictions and scores."""

import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mmprofile.files import lock_of
from tests.support.diskfaults import Fault
from tests.support.forkedruns import ForkedRuns, result_of
from tests.support.preparing import digests

SMALL = [
    "experiment=smoke",
    "trainer.progress=false",
    "data.prepare.source.users=40",
    "data.prepare.split={train: 0.6, validation: 0.2, test: 0.2}",
    "evaluation.resamples=100",
    "loader.batch_size=4",
]
SEED = 24


@pytest.fixture(scope="module")
def runs() -> Iterator[ForkedRuns]:
    with ForkedRuns() as forked:
        yield forked


class Case:
    """A training and its undisturbed result."""

    def __init__(self, runs: ForkedRuns, folder: Path, *words: str) -> None:
        self.runs, self.folder, self.words = runs, folder, [*SMALL, f"out={folder}", *words]
        answer = runs.run([*self.words, "name=undisturbed"])
        assert answer.status == 0, answer.said
        self.seconds, self.result = answer.seconds, result_of(folder / "undisturbed")

    def train(self, name: str, **how: Any) -> Any:
        return self.runs.run([*self.words, f"name={name}"], **how)

    def goes_on(self, name: str) -> list[str]:
        """Run the same command again; return what it printed. The result is that of the undisturbed run."""
        answer = self.train(name)
        assert answer.status == 0, answer.said
        result = result_of(self.folder / name)
        assert [part for part, content in self.result.items() if result.get(part) != content] == []
        return answer.said


@pytest.fixture(scope="module")
def case(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(runs, tmp_path_factory.mktemp("resume"), "trainer.checkpoint_every=2")


MOMENTS = {
    "in the first step": ("mmprofile.train.module:joint_loss", 1),
    "in the middle of an epoch": ("mmprofile.train.module:joint_loss", 4),
    "in the validation after a step that had a checkpoint": ("mmprofile.train.module:ProfileModule.validation_step", 1),
    "after validation": ("mmprofile.train.module:ProfileModule.end_epoch", 1),
    "before a checkpoint is renamed": ("mmprofile.files:_to_disk", 12),
    "between two epochs": ("mmprofile.train.module:joint_loss", 7),
    "when the last epoch has ended": ("mmprofile.train.run:load_weights", 1),
    "while the test users are scored": ("mmprofile.train.run:write_predictions", 1),
    "before the report": ("mmprofile.train.run:write_report", 1),
    "before metrics.json": ("mmprofile.train.run:write_card", 1),
}


HOURS = pytest.mark.timeout(4 * 3600)
SOME = ["in the validation after a step that had a checkpoint"]
"""Moments that every run of the tests tries; the others are slow."""


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=[] if moment in SOME else [pytest.mark.slow]) for moment in MOMENTS]
)
def test_killed(moment: str, case: Case) -> None:
    name = moment.replace(" ", "-")
    assert case.train(name, kill_in=MOMENTS[moment]).status == -9
    case.goes_on(name)


def test_asked_to_end(case: Case) -> None:
    """By the signal that schedulers send; then by another in the middle of a validation, and by Ctrl-C."""
    for moment, number, status in (
        ("in the middle of an epoch", signal.SIGTERM, 143),
        ("in the validation after a step that had a checkpoint", signal.SIGTERM, 143),
        ("in the first step", signal.SIGINT, 130),
    ):
        answer = case.train("asked", kill_in=MOMENTS[moment], number=number)
        assert answer.status == status, answer.said
        assert answer.said[-1] == "interrupted; the same command goes on from there"
        assert not [line for line in answer.said if "Traceback" in line]
    assert any("continuing from" in line for line in case.goes_on("asked"))


@pytest.mark.parametrize("kind", ["full", pytest.param("io", marks=pytest.mark.slow)])
def test_a_disk_that_fails_is_one_line(kind: str, case: Case) -> None:
    """While it trains; with room made, the same command goes on."""
    name = f"disk-{kind}"
    answer = case.train(name, fault=asdict(Fault(str(case.folder / name), at=40, kind=kind)))
    assert answer.status == 2, answer.said
    assert re.match(
        rf"error: {case.folder / name}.*: (No space left|Input/output error).*run the same command again$",
        answer.said[-1],
    )
    assert not [line for line in answer.said if "Traceback" in line]
    case.goes_on(name)


def test_two_commands_on_one_run(case: Case, tmp_path: Path) -> None:
    """The second one says so at once."""
    with lock_of(case.folder / "undisturbed"):
        answer = case.train("undisturbed")
    assert answer.status == 2
    assert re.match(
        r"error: another process is at work on .*undisturbed: wait for it, or choose another", answer.said[-1]
    )


@HOURS
@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["paired", "sampled"])
def test_killed_at_random(schedule: str, runs: ForkedRuns, tmp_path: Path) -> None:
    """25 moments each, anywhere in a run, with 0 and 2 workers and checkpoints every 1, 2, 7 and 500 steps."""
    rng = random.Random(SEED)
    case = Case(runs, tmp_path, f"paradigm.schedule={schedule}")
    words, seconds, killed = case.words, case.seconds, 0
    for number in range(50):
        workers, every = (0, 2)[number % 2], (1, 2, 7, 500)[number // 2 % 4]
        case.words = [*words, f"loader.workers={workers}", f"trainer.checkpoint_every={every}"]
        answer = case.train(f"run-{number}", kill_after=rng.uniform(0.02, 1.0) * seconds)
        killed += answer.status == -9
        if answer.status == 0:  # the machine is less busy than it was
            seconds = min(seconds, answer.seconds)
        case.goes_on(f"run-{number}")
        if killed == 25:
            return
    pytest.fail(f"{killed} of 50 were killed")


@HOURS
@pytest.mark.slow
def test_a_fault_at_every_write(case: Case, tmp_path: Path) -> None:
    """The n-th write, rename, removal or sync of a run: the process ends, the disk is full, fails, or takes half of it."""
    count = tmp_path / "count"
    case.train("counted", fault=asdict(Fault(str(case.folder / "counted"), count=str(count))))
    writes, ended = int(count.read_text()), Counter[str]()
    assert writes > 100
    for number in range(1, writes + 1):
        name, kind = f"write-{number}", ("kill", "full", "io", "short")[number % 4]
        answer = case.train(name, fault=asdict(Fault(str(case.folder / name), at=number, kind=kind)))
        assert answer.status in ((-9,) if kind == "kill" else (0, 2)), (number, kind, answer.said)
        assert not [line for line in answer.said if "Traceback" in line], (number, kind, answer.said)
        ended[f"{kind} {answer.status}"] += 1
        case.goes_on(name)
        shutil.rmtree(case.folder / name)
    print(dict(ended))


@HOURS
@pytest.mark.slow
def test_a_preparation_killed_at_random(runs: ForkedRuns, tmp_path: Path) -> None:
    """What is there afterwards is whole, or nothing; the same command ends with the same bytes."""
    rng = random.Random(SEED)
    words = ["data.prepare.source.users=40", "data.prepare.split={train: 0.6, validation: 0.2, test: 0.2}"]

    def prepare(name: str, **how: Any) -> Any:
        return runs.run([*words, f"data.prepare.folder={tmp_path / name}"], command="prepare", **how)

    whole = prepare("whole")
    assert whole.status == 0, whole.said
    killed = 0
    for number in range(25):
        name = f"folder-{number}"
        killed += prepare(name, kill_after=rng.uniform(0.05, 1.0) * whole.seconds).status == -9
        again = prepare(name)
        assert again.status == 0, again.said
        assert digests(tmp_path / name) == digests(tmp_path / "whole")
        assert not [*tmp_path.glob(f"{name}.tmp-*")]
    assert killed >= 20
