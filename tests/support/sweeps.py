"""Sweeps as a user runs them, and folders of runs made by hand."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from mmprofile.files import lock_of
from mmprofile.profile.schema import Profile, Schema
from mmprofile.sweep.jobs import Job
from mmprofile.sweep.tables import Planned, RowConfig

USERS = 40
MakeRun = Callable[..., Path]
TABLE = """
title: Small
reference: majority
rows:
  - {system: majority, label: majority class, overrides: [model=majority, paradigm=text], paper: {mean: 20.0}}
  - {system: tfidf_lr, overrides: [model=tfidf_lr, paradigm=text]}
  - {system: typo, overrides: [model=tfidf_rl]}
  - {system: gone, overrides: [model=gpt, paradigm=text, model.system=file, model.options.path=gone.jsonl]}
  - {system: gpt, overrides: [model=gpt], needs: [model.options.url=http://...]}
  - {system: ceiling, baseline: ceiling}
"""
SEARCH = """
overrides: [model=flan_t5, paradigm=text, trainer.max_epochs=1]
space:
  optim.lr_new: {low: 1.0e-4, high: 1.0e-2, log: true}
  loader.batch_size: {choices: [8, 16]}
"""


def command(*words: str) -> list[str]:
    """Return the command line of a sweep over a small city."""
    return [sys.executable, "-m", "mmprofile.sweep", *words, "experiment=smoke", "resamples=200"]


def sweep(folder: Path, *words: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run a sweep to its end and check its exit status."""
    done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def started(folder: Path, *words: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a sweep and wait for its first run to begin; return the sweep and that run's folder."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Tests that run in the background of a shell ignore interrupts, and so would what they start.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command(*words), cwd=folder, **pipes, preexec_fn=listening)
    assert process.stdout is not None
    name = next(line.split()[2] for line in process.stdout if line.endswith("...\n"))
    run = folder / words[-1].partition("=")[2] / "runs" / name
    deadline = time.monotonic() + 60
    while not (run / "lock").exists() or free(run):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, run


def free(run: Path) -> bool:
    """Return whether no process is at work in the run's folder."""
    try:
        with lock_of(run).acquire(timeout=0):
            return True
    except Timeout:
        return False


def rows(out: Path) -> dict[str, Any]:
    """Return the rows of a sweep's small table."""
    return {row["system"]: row for row in json.loads((out / "small" / "table.json").read_text())["rows"]}


def profiles(schema: Schema, seed: int, like: Sequence[Profile] = (), share: float = 0.0) -> list[Profile]:
    """Return random profiles; each value is that of ``like`` with probability ``share``."""
    rng = np.random.default_rng(seed)
    drawn_profiles = []
    for user in range(USERS):
        profile: Profile = {}
        for a in schema.attributes:
            drawn = a.canonical(rng.choice(a.values, a.size, replace=False).tolist())
            profile[a.name] = like[user][a.name] if like and rng.random() < share else drawn
        drawn_profiles.append(profile)
    return drawn_profiles


def planned(row: RowConfig, *folders: Path) -> Planned:
    """Return a row whose runs are in the folders."""
    return Planned(row, [Job("train", (), folder) for folder in folders])


def predictions(folder: Path) -> list[Profile]:
    """Return the predicted profiles of a run."""
    rows = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    return [{name: tuple(values) for name, values in row["parsed"].items()} for row in rows]
