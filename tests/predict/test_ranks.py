"""``predict`` under torchrun: the rows of a single process, whatever is killed, and one voice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.predict.ranks import Ranks
from mmprofile.predict.run import main, write
from tests.support.rawdata import write_lines

BATCH = 2
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    "-m",
    "mmprofile.predict",
]


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """31 users, so the last batch is not full, and two rows that are none."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "1.jpg")
    rows = [{"user_id": f"u{i}", "reviews": [f"a fine place {i}", "nice"], "photos": ["1.jpg"]} for i in range(31)]
    write_lines(tmp_path / "users.jsonl", [*rows[:7], {"user_id": "nobody"}, *rows[7:], rows[3]])
    return tmp_path / "users.jsonl"


def words(model: Path, source: Path, output: Path) -> list[str]:
    return [f"run={model}", f"input={source}", f"output={output}", f"batch_size={BATCH}"]


@contextmanager
def killed_when(done: int, command: list[str], folder: Path) -> Iterator[None]:
    """Start a command, and kill it and its children, which get no say, when they have written some rows."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[str] = []
    until = time.monotonic() + 240
    while sum(path.read_bytes().count(b"\n") for path in folder.glob("*of2")) < done:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    yield


def marked(path: Path) -> None:
    """Mark the first row of a file, so that one sees whether it is computed again."""
    path.write_bytes(path.read_bytes().replace(b'"text": "', b'"text": "MARK', 1))


def test_the_rows_of_one_process(model_folder: Path, users: Path, tmp_path: Path) -> None:
    main(load_config("predict", words(model_folder, users, tmp_path / "one.jsonl")))
    command = [*TORCHRUN, *words(model_folder, users, tmp_path / "two.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "two.errors.jsonl").read_bytes() == (tmp_path / "one.errors.jsonl").read_bytes()
    assert done.stdout == f"31 profiles in {tmp_path / 'two.jsonl'}\n"
    assert done.stderr.count("rows left out, which are no users: 2") == 1
    assert not [*tmp_path.glob("*.partial*")]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the processes to kill in /proc")
@pytest.mark.parametrize("again", [1, 2])
def test_killed_processes_go_on(again: int, model_folder: Path, users: Path, tmp_path: Path) -> None:
    """As many as before, each with its own batches, or another number of them."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    main(load_config("predict", words(model_folder, users, whole)))
    command = [*TORCHRUN, *words(model_folder, users, out)]
    with killed_when(2 * BATCH, command, tmp_path):
        first = next(path for path in sorted(tmp_path.glob("*of2")) if path.read_bytes().count(b"\n") >= BATCH)
        marked(first)
    if again == 2:
        assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    else:
        main(load_config("predict", words(model_folder, users, out)))
    rows = out.read_bytes()
    if first.name.endswith(".0of2") or again == 2:  # a single process keeps batches up to the first that is missing
        assert rows.count(b"MARK") == 1
    assert rows.replace(b"MARK", b"") == whole.read_bytes()
    assert not [*tmp_path.glob("*.partial*")]
    assert [json.loads(line)["row"] for line in (tmp_path / "out.errors.jsonl").read_text().splitlines()] == [8, 33]


def test_a_mistake_is_said_once(model_folder: Path, tmp_path: Path) -> None:
    command = [*TORCHRUN, *words(model_folder, tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert done.stderr.count("there is no such file") == 1
    assert "mmprofile/predict/run.py" not in done.stderr  # no stack trace of ours


@pytest.mark.parametrize(
    ("source", "output"), [("-", "out.jsonl"), ("users.jsonl", None), ("users.jsonl", "/dev/null")]
)
def test_streams_cannot_be_shared(
    source: str, output: str | None, model_folder: Path, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(users.parent)
    monkeypatch.setattr(sys, "stdin", users.open())
    given = [f"run={model_folder}", f"input={source}", *([f"output={output}"] if output else [])]
    with pytest.raises(UserError, match=r"several processes .* cannot share standard input or output: give files"):
        write(load_config("predict", given), Ranks(0, 2))
