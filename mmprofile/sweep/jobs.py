"""Runs as processes of their own, started by Hydra's launcher. The files that a run leaves tell what is done.

A finished run has ``metrics.json``; a failed one has ``failure.txt`` with the reason in one line. Every process holds a
lock on its run's folder (:mod:`mmprofile.sweep.locked_run`). So two sweeps never write to the same run, nor do a sweep and
a run that outlived a killed sweep.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hydra
from filelock import Timeout
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from mmprofile.config.compose import HYDRA_QUIET, explain
from mmprofile.errors import UserError
from mmprofile.evaluate.score_table import NOT_MEASURED
from mmprofile.files import lock_of, read_json
from mmprofile.sweep.locked_run import MODULE, done

GRACE_SECONDS = 20.0  # what a run gets to end by itself after an interrupt


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        command: ``train``, or another command that takes ``name=`` and ``out=``.
        overrides: its words, without ``name`` and ``out``.
        folder: where it writes.
        needs: the runs that it reads.
    """

    command: str
    overrides: tuple[str, ...]
    folder: Path
    needs: tuple["Job", ...] = ()

    def command_line(self) -> list[str]:
        """Return the process that runs it under the lock of its folder."""
        quiet = ["trainer.progress=false"] if self.command == "train" else []  # a log is no terminal
        place = [f"name={quoted(self.folder.name)}", f"out={quoted(str(self.folder.parent))}"]
        locked = [sys.executable, "-m", MODULE, str(self.folder), f"mmprofile.{self.command}"]
        return [*locked, *self.overrides, *quiet, *place]


def quoted(text: str) -> str:
    """Return a value as Hydra's grammar takes it, whatever characters it holds."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def slug(command: str, overrides: Sequence[str]) -> str:
    """Return the name of the run that ``overrides`` define: readable, with a hash where the readable part is not unique."""
    values = dict(word.lstrip("+").split("=", 1) for word in overrides)
    seed = values.pop("seed", "0")
    parts = [] if command == "train" else [command]
    parts += [values.pop(key) for key in ("model", "paradigm") if key in values]
    # The run that it reads has a long name of its own.
    shown = sorted((key, value) for key, value in values.items() if key != "run")
    parts += [f"{key.rsplit('.', 1)[-1]}-{Path(value).name}" for key, value in shown]
    name = re.sub(r"[^\w.=-]+", "+", "-".join(parts)).strip("+") or "default"
    if values or command != "train" or name != "-".join(parts):
        sorted_words = sorted(word.lstrip("+") for word in overrides if not word.startswith("seed="))
        digest = hashlib.sha256("\n".join([command, *sorted_words]).encode()).hexdigest()
        name = f"{name[:70]}-{digest[:8]}"
    return f"{name}-seed{seed}"


def why_not(job: Job) -> str | None:
    """Return why the job has no result; None where it has one."""
    if done(job.folder):
        return None
    for need in job.needs:
        if reason := why_not(need):
            return f"{need.folder.name}, which it reads: {reason}"
    return failure(job.folder) or "not run"


def failure(folder: Path) -> str | None:
    """Return why the run's last process ended without a result; None where none did."""
    with suppress(OSError):
        return (folder / "failure.txt").read_text(encoding="utf-8").strip()
    return None


def score(folder: Path) -> float | None:
    """Return the macro-F1 of a finished run."""
    value = read_json(folder / "metrics.json")["test"]["macro_f1"]
    return None if value is None else float(value)


def run_jobs(jobs: Sequence[Job], launcher: Sequence[str], threads: int | None, out: Path) -> None:
    """Run the jobs that are not done; a failure is left in the run's folder.

    Args:
        jobs: in any order; a job whose needs are not done when its turn comes is not run.
        launcher: words for Hydra, e.g. ``hydra/launcher=joblib``; without any, one run after the other.
        threads: ``OMP_NUM_THREADS`` of each run; None leaves it.
        out: where a launcher may put files of its own.

    Raises:
        UserError: the launcher is unknown.
    """
    distinct = list({job.folder: job for asked in jobs for job in (*asked.needs, asked)}.values())
    waiting = [job for job in distinct if not done(job.folder)]
    print(f"{len(distinct)} runs: {len(distinct) - len(waiting)} done, {len(waiting)} to do", flush=True)
    if not waiting:
        return
    for job in waiting:
        (job.folder / "failure.txt").unlink(missing_ok=True)
    # What others read first; each stage is whole before the next begins.
    stages = [[job for job in waiting if not job.needs], [job for job in waiting if job.needs]]
    folders, began = [job.folder for stage in stages for job in stage], time.time()
    for stage in stages:
        ready = [job for job in stage if all(done(need.folder) for need in job.needs)]
        if ready:
            task = partial(run_numbered, jobs=ready, folders=folders, began=began, threads=threads)
            multirun(task, len(ready), launcher, out)


def multirun(task: Callable[[int], None], count: int, launcher: Sequence[str], out: Path) -> None:
    """Run ``task(0)`` to ``task(count - 1)`` as jobs of Hydra's launcher; ``task`` can be pickled and raises nothing."""

    def job(cfg: DictConfig) -> None:
        task(cfg.job)

    argv, sys.argv = sys.argv, [sys.argv[0], "-m", "+job=" + ",".join(map(str, range(count))), *launcher, *HYDRA_QUIET]
    sys.argv.append(f"hydra.sweep.dir={quoted(str(out))}")
    GlobalHydra.instance().clear()
    try:
        hydra.main(version_base="1.3", config_path=None, config_name=None)(job)()
    finally:
        sys.argv = argv


def check_launcher(launcher: Sequence[str]) -> None:
    """Check that Hydra understands the words.

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


def run_numbered(
    index: int, *, jobs: Sequence[Job], folders: Sequence[Path], began: float, threads: int | None
) -> None:
    """Run ``jobs[index]`` between two lines of progress.

    Args:
        index: of the job.
        jobs: that run in this stage.
        folders: of the runs of all stages, in order.
        began: when the first stage began, in seconds as of ``time.time``.
        threads: see :func:`run_jobs`.
    """
    job = jobs[index]
    head = f"[{folders.index(job.folder) + 1}/{len(folders)}] {job.folder.name}"
    _print_line(f"{time.strftime('%H:%M')} {head} ...")
    clock = time.time()
    try:
        execute(job, threads)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other runs go on
        _write_failure(job.folder, f"{type(error).__name__}: {error}")
    result = f"macro-F1 {_shown(score(job.folder))}" if done(job.folder) else f"failed: {failure(job.folder)}"
    ended = sum(done(folder) or failure(folder) is not None for folder in folders)
    left = (time.time() - began) / ended * (len(folders) - ended) / 60
    tail = f"; {len(folders) - ended} left, about {left:.0f} min" if ended < len(folders) else ""
    _print_line(f"{time.strftime('%H:%M')} {head}: {result}, {(time.time() - clock) / 60:.1f} min{tail}")


def execute(job: Job, threads: int | None = None) -> None:
    """Run one job to its end, whatever that is; wait where another process is at work on it.

    Raises:
        KeyboardInterrupt: the job's process has been ended.
        OSError: the folder cannot be written, or no process started.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with _others_waited_for(job.folder):
        if done(job.folder):
            return
        (job.folder / "failure.txt").unlink(missing_ok=True)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with (job.folder / "log.txt").open("ab") as log:
        start = log.tell()
    code = _run_process(job.command_line(), job.folder / "log.txt", environment)
    if not done(job.folder):
        _write_failure(job.folder, _reason(job.folder / "log.txt", start, code))


def _run_process(command_line: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """Run a process to its end and return its exit status; an exception here ends the process first."""
    process = None
    try:
        with log.open("ab") as file, _uninterrupted():
            # A session of its own: an interrupt from the terminal reaches it once, through us.
            process = subprocess.Popen(
                command_line,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return process.wait()
    except BaseException:
        if process is not None:
            _stop(process)
        raise


def _shown(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f}"


def _print_line(line: str) -> None:
    """Print a line in one piece: several processes may print at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _others_waited_for(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; say so in one line where another process holds it, and wait.

    The run's own process takes the lock over: it holds it by itself, and checks once more whether the run is done.
    """
    lock = lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _print_line(f"another process is at work on {folder.name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let interrupts wait for the end of this block: they must not leave a process behind that nobody knows."""
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
    """End a process: ask first, then insist."""
    try:
        if sys.platform == "win32":  # which sends no interrupt to another process
            process.terminate()
        else:
            process.send_signal(signal.SIGINT)
        process.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def _reason(log: Path, start: int, code: int) -> str:
    """Return one line on a failure: the error that the command printed, else how it ended and its last line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return f"{end}; its last line: {lines[-1]}" if lines else f"{end} and printed nothing"


def _write_failure(folder: Path, reason: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").write_text(" ".join(reason.split()) + "\n", encoding="utf-8")
