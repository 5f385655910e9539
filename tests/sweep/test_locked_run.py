"""A run's process holds the lock of its folder: two do not run at once, and a killed one leaves it free."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmprofile.files import lock_of
from mmprofile.sweep.locked_run import MODULE
from tests.support.sweeps import free

pytestmark = pytest.mark.fast

COMMAND = """
import multiprocessing, os, sys, time
from pathlib import Path
import __main__

folder = Path(sys.argv[1])
with (folder / "log").open("a") as file:
    file.write(f"{__main__.__spec__.name} {sys.argv[2:]}\\n")
while not (folder / "go").exists():
    time.sleep(0.01)
(folder / "metrics.json").write_text("{}")
sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toycommand.py").write_text(COMMAND)
    (tmp_path / "run").mkdir()
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start the toy command under the lock of its run."""
    run = str(folder / "run")
    line = [sys.executable, "-m", MODULE, run, "toycommand", run, *words]
    return subprocess.Popen(line, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])})


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_second_process_waits_and_finds_the_run_done(folder: Path) -> None:
    run = folder / "run"
    processes = [start(folder, "a=1"), start(folder, "a=1")]
    wait_for(run / "log")
    assert not free(run)
    (run / "go").touch()
    assert sorted(process.wait(60) for process in processes) == [0, 3]
    assert (run / "log").read_text() == "toycommand ['a=1']\n"  # once, as python -m runs it
    assert free(run)


def test_a_killed_process_leaves_the_lock_free(folder: Path) -> None:
    run = folder / "run"
    process = start(folder)
    wait_for(run / "log")
    assert not free(run)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert (run / "lock").exists()
    assert free(run)


def test_an_interrupt_while_waiting_is_quiet(folder: Path) -> None:
    run = folder / "run"
    with lock_of(run):
        line = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
                f"import runpy, sys; sys.argv[1:] = {[str(run), 'toycommand']!r}\n"
                f"print('ready', flush=True); runpy.run_module({MODULE!r}, run_name='__main__')"]  # fmt: skip
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == b""
