"""Does a long training fill memory or disk? ``python benchmarks/soak/rotation.py``.

A training of the smoke city writes a checkpoint at every step: 1,440 of them, as many as one a minute writes in 24 hours. Its
resident memory, its open files and the size of its ``checkpoints`` folder are read every second. Each has to stay flat: the
medians of the last and of the second quarter of the time differ by at most :data:`MOST`. The exit status is 1 if one grows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

MOST = 0.02
HOURS, A_MINUTE = 24, 60
SIZE = ["data.prepare.source.users=400", "loader.batch_size=8", "probe.users=0", "trainer.progress=false"]


class Sample(NamedTuple):
    """What a process has at a moment: bytes of memory, open files, bytes of checkpoints."""

    memory: int
    files: int
    disk: int


def sample(process: int, folder: Path) -> Sample | None:
    """Return what a process has; None: it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
        memory = int(status.partition("VmRSS:")[2].split()[0]) * 1024
        files = len(os.listdir(f"/proc/{process}/fd"))
    except (OSError, IndexError):
        return None
    disk = 0
    for path in folder.glob("*"):
        try:
            disk += path.stat().st_size
        except FileNotFoundError:  # renamed meanwhile
            continue
    return Sample(memory, files, disk)


def growth(samples: list[Sample], name: str) -> tuple[float, float, float]:
    """Return the medians of the second and the last quarter, and by which share the last is larger."""
    quarter = len(samples) // 4
    values = [getattr(one, name) for one in samples]
    before, after = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
    return before, after, after / before - 1


def watch(epochs: int, folder: Path) -> list[Sample]:
    """Train for so many epochs with a checkpoint at each step; return what was seen once the first checkpoint was there."""
    words = [
        f"trainer.max_epochs={epochs}",
        f"trainer.patience={epochs}",
        "trainer.checkpoint_every=1",
        f"out={folder}",
    ]
    command = [sys.executable, "-m", "mmprofile.train", "experiment=smoke", *SIZE, *words, "name=soak"]
    samples: list[Sample] = []
    with subprocess.Popen(command) as training:
        while (seen := sample(training.pid, folder / "soak" / "checkpoints")) is not None and training.poll() is None:
            if seen.disk:
                samples.append(seen)
            time.sleep(1)
    if training.returncode:
        sys.exit(f"the training ended with {training.returncode}")
    return samples


def main() -> None:
    """Train, and print a table; exit with 1 if anything grows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--checkpoints", type=int, default=HOURS * A_MINUTE, help="about so many are written")
    options.add_argument("--json", type=Path, default=None, help="write every sample here")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        samples = watch(max(1, arguments.checkpoints // 30), Path(name))  # 240 training users are 30 steps of 8
    if arguments.json:
        arguments.json.write_text(json.dumps([one._asdict() for one in samples]) + "\n", encoding="utf-8")
    if len(samples) < 8:
        sys.exit("it was over too soon to tell")
    failed = False
    for field in Sample._fields:
        before, after, more = growth(samples, field)
        failed |= more > MOST
        print(f"{field:<6}  second quarter {before:>13,.0f}   last quarter {after:>13,.0f}   {more:+.1%}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
