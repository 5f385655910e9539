"""Runs as processes of their own, started by Hydra's launcher; what is done is known by the files they leave.

A run that is finished has ``metrics.json``, one that failed has ``failure.txt`` with the reason in one line. Every process
holds a lock on its run's folder, so two sweeps, or a sweep and what a killed one left running, never write to the same run.
"""

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import hydra
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from mmprofile.config.compose import HYDRA_QUIET, explain
from mmprofile.errors import UserError

GRACE_SECONDS = 20.0  # what a run gets to end by itself after an interrupt


@dataclass(frozen=True)
class Job:
    """A run: its command, its overrides (without ``name`` and ``out``), its folder, and the runs it reads."""

    command: str
    words: tuple[str, ...]
    folder: Path
    needs: tuple["Job", ...] = ()

    def argv(self) -> list[str]:
        """The process."""
        quiet = ["trainer.progress=false"] if self.command == "train" else []  # a log is no terminal
        place = [f"name={quoted(self.folder.name)}", f"out={quoted(str(self.folder.parent))}"]
        return [sys.executable, "-m", f"mmprofile.{self.command}", *self.words, *quiet, *place]


def quoted(text: str) -> str:
    """A value as Hydra's grammar takes it, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def slug(command: str, words: Sequence[str]) -> str:
    """The name of the run that ``words`` define: readable, and a hash where that does not tell all."""
    given = dict(word.lstrip("+").split("=", 1) for word in words)
    seed = given.pop("seed", "0")
    parts = [] if command == "train" else [command]
    parts += [given.pop(key) for key in ("model", "paradigm") if key in given]
    shown = sorted(
        item for item in given.items() if item[0] != "run"
    )  # the run that it reads has a long name of its own
    parts += [f"{key.rsplit('.', 1)[-1]}-{Path(value).name}" for key, value in shown]
    name = re.sub(r"[^\w.=-]+", "+", "-".join(parts)).strip("+") or "default"
    if given or command != "train" or name != "-".join(parts):
        same = "\n".join([command, *sorted(word.lstrip("+") for word in words if not word.startswith("seed="))])
        name = f"{name[:70]}-{hashlib.sha256(same.encode()).hexdigest()[:8]}"
    return f"{name}-seed{seed}"


def done(folder: Path) -> bool:
    """Whether the run is finished."""
    return (folder / "metrics.json").exists()


def why_not(job: Job) -> str | None:
    """Why the job has no result; None where it has one."""
    if done(job.folder):
        return None
    for need in job.needs:
        if reason := why_not(need):
            return f"{need.folder.name}, which it reads: {reason}"
    return failure(job.folder) or "not run"


def failure(folder: Path) -> str | None:
    """Why the run's last process ended without a result; None where none did."""
    with suppress(OSError):
        return (folder / "failure.txt").read_text(encoding="utf-8").strip()
    return None


def run_jobs(jobs: Sequence[Job], launcher: Sequence[str], threads: int | None, out: Path) -> None:
    """Runs what is not done; failures are left in the runs' folders.

    Args:
        jobs: in any order; a job whose needs are not done when its turn comes is not run.
        launcher: words for Hydra, e.g. ``hydra/launcher=joblib``; without any, one run after the other.
        threads: ``OMP_NUM_THREADS`` of each run; None leaves it.
        out: where a launcher may put files of its own.

    Raises:
        UserError: the launcher is unknown.
    """
    distinct = list({job.folder: job for one in jobs for job in (*one.needs, one)}.values())
    waiting = [job for job in distinct if not done(job.folder)]
    print(f"{len(distinct)} runs: {len(distinct) - len(waiting)} done, {len(waiting)} to do", flush=True)
    if not waiting:
        return
    for job in waiting:
        (job.folder / "failure.txt").unlink(missing_ok=True)
    # What others read first; each stage is whole before the next begins.
    stages = [[job for job in waiting if not job.needs], [job for job in waiting if job.needs]]
    total, began = [job.folder for stage in stages for job in stage], time.time()
    for stage in stages:
        ready = [job for job in stage if all(done(need.folder) for need in job.needs)]
        if ready:
            multirun(partial(_numbered, ready, total, began, threads), len(ready), launcher, out)


def multirun(task: Callable[[int], None], count: int, launcher: Sequence[str], out: Path) -> None:
    """``task(0)`` to ``task(count - 1)`` as jobs of Hydra's launcher; ``task`` can be pickled and raises nothing."""

    def job(cfg: Any) -> None:
        task(cfg.job)

    argv, sys.argv = sys.argv, [sys.argv[0], "-m", "+job=" + ",".join(map(str, range(count))), *launcher, *HYDRA_QUIET]
    sys.argv.append(f"hydra.sweep.dir={quoted(str(out))}")
    GlobalHydra.instance().clear()
    try:
        hydra.main(version_base="1.3", config_path=None, config_name=None)(job)()
    finally:
        sys.argv = argv


def check_launcher(launcher: Sequence[str]) -> None:
    """Whether Hydra understands the words.

    Raises:
        UserError: it does not, or the launcher is not installed.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize(version_base="1.3", config_path=None):
            compose(overrides=[*launcher, *HYDRA_QUIET], return_hydra_config=True)
    except HydraException as error:
        line = explain(error, "sweep")
        if line.startswith("hydra/launcher"):
            line += "; joblib comes with pip install 'mmprofile[sweep]', others with hydra-<name>-launcher"
        raise UserError(line) from error
    finally:
        GlobalHydra.instance().clear()


def execute(job: Job, threads: int | None = None) -> None:
    """Runs one job to its end, whatever that is; waits where another process is at it.

    Raises:
        KeyboardInterrupt: the job's process has been ended.
        OSError: the folder cannot be written, or no process started.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "failure.txt").unlink(missing_ok=True)
    with _locked(job.folder) as lock, (job.folder / "log.txt").open("ab") as log:
        if done(job.folder):
            return
        start = log.tell()
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        process = None
        try:
            with _uninterrupted():
                # A session of its own: an interrupt from the terminal reaches it once, through us.
                process = subprocess.Popen(
                    job.argv(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                    pass_fds=[lock.fileno()],  # the lock lives as long as the process
                )
            code = process.wait()
        except BaseException:
            if process is not None:
                _stop(process)
            raise
        if not done(job.folder):
            _fail(job.folder, _reason(job.folder / "log.txt", start, code))


def score(folder: Path) -> float | None:
    """Macro-F1 of a finished run."""
    value = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]["macro_f1"]
    return None if value is None else float(value)


def _numbered(jobs: Sequence[Job], total: Sequence[Path], began: float, threads: int | None, index: int) -> None:
    """Runs ``jobs[index]`` between two lines of progress."""
    job = jobs[index]
    head = f"[{total.index(job.folder) + 1}/{len(total)}] {job.folder.name}"
    _say(f"{time.strftime('%H:%M')} {head} ...")
    clock = time.time()
    try:
        execute(job, threads)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other runs go on
        _fail(job.folder, f"{type(error).__name__}: {error}")
    why = failure(job.folder)
    result = f"failed: {why}" if why else f"macro-F1 {score(job.folder):.2f}"
    ended = sum(done(folder) or failure(folder) is not None for folder in total)
    left = (time.time() - began) / ended * (len(total) - ended) / 60
    tail = f"; {len(total) - ended} left, about {left:.0f} min" if ended < len(total) else ""
    _say(f"{time.strftime('%H:%M')} {head}: {result}, {(time.time() - clock) / 60:.1f} min{tail}")


def _say(line: str) -> None:
    """Prints a line in one piece: several processes may be at it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another process is at {folder.name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """An interrupt waits for the end of this: it must not leave a process behind that nobody knows."""
    if threading.current_thread() is not threading.main_thread():  # only there do signals arrive
        yield
        return
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: caught.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process: asks, then insists."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def _reason(log: Path, start: int, code: int) -> str:
    """One line on a failure: what the command said was wrong, else how it ended and its last line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return f"{end}; its last line: {lines[-1]}" if lines else f"{end} and said nothing"


def _fail(folder: Path, reason: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").write_text(" ".join(reason.split()) + "\n", encoding="utf-8")
