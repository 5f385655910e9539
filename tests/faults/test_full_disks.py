"""Real file systems that are full, out of inodes or read-only: one line, and with room made the same command goes on."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from mmprofile.files import write_json_lines
from mmprofile.train.checkpoints import newest_checkpoint
from tests.faults.test_resume_others import files
from tests.support.forkedruns import Answer, ForkedRuns, result_of
from tests.support.preparing import digests
from tests.support.realdisks import NAMESPACE, Disk, may_mount
from tests.support.tinystage import make_stage

pytestmark = pytest.mark.skipif(not may_mount(), reason="needs a namespace in which it may mount")

CITY = ["data.prepare.source.users=24", "data.prepare.split={train: 0.6, validation: 0.2, test: 0.2}"]
SMALL = [
    "experiment=smoke", *CITY, "paradigm=text", "loader.batch_size=4", "evaluation.resamples=50", "trainer.progress=false",
    "trainer.checkpoint_every=2", "name=run",
]  # fmt: skip
ROOM = "rw,size=1g,nr_inodes=100000"
HOURS = pytest.mark.timeout(4 * 3600)


@pytest.fixture(scope="module")
def runs() -> Iterator[ForkedRuns]:
    with ForkedRuns(inside=NAMESPACE) as forked:
        yield forked


def is_one_line(answer: Answer, says: str) -> None:
    """Check the exit status, and that nothing is said of the fault but one line."""
    assert answer.status == 2, answer.said
    (line,) = [line for line in answer.said if line.startswith("error: ")]
    assert re.search(says, line)
    assert not [line for line in answer.said if "Traceback" in line or "Exception" in line], answer.said


FULL, READ_ONLY = "No space left on device", "Read-only file system"


class Training:
    """A training on disks of a few sizes, and its undisturbed result."""

    def __init__(self, runs: ForkedRuns, folder: Path) -> None:
        self.runs, self.folder = runs, folder
        assert self.train("undisturbed").status == 0
        run = folder / "undisturbed" / "run"
        self.result = result_of(run)
        self.bytes = sum(path.stat().st_size for path in run.rglob("*"))
        self.inodes = sum(1 for _ in run.rglob("*"))

    def train(self, name: str) -> Answer:
        return self.runs.run([*SMALL, f"out={self.folder / name}"])

    def fails(self, name: str, disk: Disk, says: str = FULL) -> bool:
        """Train until the disk is at its end; return whether it came to that. The last good checkpoint is kept."""
        answer = self.train(name)
        if answer.status:
            is_one_line(answer, says)
        newest_checkpoint(disk.seen / "run" / "checkpoints")  # fails where there are only damaged ones
        return answer.status != 0

    def goes_on(self, name: str, disk: Disk) -> list[str]:
        disk.remount(ROOM)
        answer = self.train(name)
        assert answer.status == 0, answer.said
        result = result_of(disk.seen / "run")
        assert [part for part, content in self.result.items() if result.get(part) != content] == []
        assert not [*disk.seen.rglob("*.tmp")]
        return answer.said


@pytest.fixture(scope="module")
def training(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(runs, tmp_path_factory.mktemp("training"))


def test_a_disk_that_becomes_full_in_a_training(training: Training, runs: ForkedRuns) -> None:
    """Behind the first checkpoint; and it is still full when the command is given again."""
    disk = Disk(runs, training.folder / "full", f"size={training.bytes // 2}")
    assert training.fails("full", disk)
    assert (disk.seen / "run" / "checkpoints" / "last.ckpt").exists()
    assert training.fails("full", disk)
    assert any("continuing from" in line for line in training.goes_on("full", disk))


def test_a_training_on_a_read_only_disk(runs: ForkedRuns, tmp_path: Path) -> None:
    disk = Disk(runs, tmp_path / "disk", "size=1m")
    disk.remount("ro")
    is_one_line(runs.run([*SMALL, f"out={disk.folder}"]), f"{READ_ONLY}; choose another name= or out=")


@HOURS
@pytest.mark.slow
@pytest.mark.parametrize("limit", ["size", "late", "inodes"])
def test_a_disk_of_each_size(limit: str, training: Training, runs: ForkedRuns) -> None:
    """Of bytes; of bytes where checkpoints have a disk of their own, so that it is full behind the training; of inodes."""
    ended = Counter[bool]()
    if limit == "inodes":
        options = [f"size=1g,nr_inodes={count}" for count in range(2, training.inodes + 3)]
    else:
        whole = training.bytes * (1.4 if limit == "size" else 0.14)
        options = [f"size={int(whole * i / 12)}" for i in range(1, 13)]
    for number, option in enumerate(options):
        name = f"{limit}-{number}"
        disk = Disk(runs, training.folder / name, option)
        if limit == "late":
            Disk(runs, disk.folder / "run" / "checkpoints", "size=1g")
        ended[training.fails(name, disk)] += 1
        training.goes_on(name, disk)
    print(dict(ended))
    assert ended[True] > len(options) // 2


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_in_a_training(training: Training, runs: ForkedRuns) -> None:
    """The disk of the checkpoints: that of the run cannot, while its lock is open."""
    name = "read-only"
    Disk(runs, training.folder / name, "size=1g")
    disk = Disk(runs, training.folder / name / "run" / "checkpoints", "size=1g")

    def remount() -> None:
        while not (disk.seen / "last.ckpt").exists():
            time.sleep(0.002)
        while True:
            try:
                disk.remount("ro")
                return
            except CalledProcessError:  # a checkpoint is being written
                time.sleep(0.002)

    thread = threading.Thread(target=remount, daemon=True)
    thread.start()
    is_one_line(training.train(name), READ_ONLY)
    thread.join(1)
    is_one_line(training.train(name), READ_ONLY)
    disk.remount("rw")
    answer = training.train(name)
    assert answer.status == 0, answer.said
    assert result_of(disk.seen.parent) == training.result


@pytest.mark.slow
def test_a_disk_that_is_read_only_after_a_kill(training: Training, runs: ForkedRuns) -> None:
    name = "stopped"
    disk = Disk(runs, training.folder / name, "size=1g")
    moment = ("mmprofile.train.module:joint_loss", 6)
    assert runs.run([*SMALL, f"out={disk.folder}"], kill_in=moment).status == -9
    disk.remount("ro")
    assert training.fails(name, disk, READ_ONLY)
    assert any("continuing from" in line for line in training.goes_on(name, disk))


@pytest.fixture(scope="module")
def prepared(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "whole"
    assert prepare(runs, folder).status == 0
    return folder


def prepare(runs: ForkedRuns, folder: Path, **how: Any) -> Answer:
    return runs.run([*CITY, f"data.prepare.folder={folder}"], command="prepare", **how)


@HOURS
@pytest.mark.slow
@pytest.mark.parametrize("limit", ["size", "inodes", "read-only"])
def test_a_preparation(limit: str, prepared: Path, runs: ForkedRuns, tmp_path: Path) -> None:
    """What is there afterwards is whole, or nothing."""
    whole = sum(path.stat().st_size for path in prepared.rglob("*"))
    options = {
        "size": [f"size={whole * i // 12}" for i in range(1, 14)],
        "inodes": [f"size=1g,nr_inodes={count}" for count in range(2, 3 + sum(1 for _ in prepared.rglob("*")))],
        "read-only": ["size=1g"],
    }[limit]
    ended = Counter[bool]()
    for number, option in enumerate(options):
        disk = Disk(runs, tmp_path / f"disk-{number}", option)
        if limit == "read-only":
            disk.remount("ro")
        answer = prepare(runs, disk.folder / "data")
        if answer.status:
            is_one_line(answer, READ_ONLY if limit == "read-only" else FULL)
            assert not [*disk.seen.iterdir()]
        ended[answer.status != 0] += 1
        disk.remount(ROOM)
        assert prepare(runs, disk.folder / "data").status == 0
        assert digests(disk.seen / "data") == digests(prepared)
    print(dict(ended))
    assert ended[True] > len(options) // 2


@HOURS
@pytest.mark.slow
@pytest.mark.parametrize("command", ["llm.run", "predict"])
def test_other_commands_on_a_disk_of_each_size(command: str, runs: ForkedRuns, tmp_path: Path) -> None:
    """The whole text-only stage, and the profiles of 300 people."""
    if command == "llm.run":
        words, out = [*make_stage(tmp_path), "samples=4"], "out={}"
    else:
        assert runs.run([*SMALL, f"out={tmp_path}"]).status == 0
        rows = [{"user_id": str(n), "reviews": [f"good soup {n}", "bad bread"]} for n in range(300)]
        write_json_lines(tmp_path / "people.jsonl", rows)
        words, out = [f"run={tmp_path / 'run'}", f"input={tmp_path / 'people.jsonl'}"], "output={}/profiles.jsonl"

    def run(name: str) -> Answer:
        return runs.run([*words, out.format(tmp_path / name)], command=command)

    whole = tmp_path / "whole"
    whole.mkdir()
    assert run("whole").status == 0
    expected, size, ended = files(whole), sum(path.stat().st_size for path in whole.rglob("*")), Counter[bool]()
    for number in range(1, 9):
        disk = Disk(runs, tmp_path / f"disk-{number}", f"size={int(1.4 * size * number / 8)}")
        answer = run(disk.folder.name)
        ended[answer.status != 0] += 1
        if answer.status:
            is_one_line(answer, FULL)
        disk.remount(ROOM)
        assert run(disk.folder.name).status == 0
        found = files(disk.seen, disk.folder)
        assert sorted(name for name in expected | found if found.get(name) != expected.get(name)) == []
    print(dict(ended))
    assert ended[True] > 3
