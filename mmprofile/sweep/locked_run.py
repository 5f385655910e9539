"""Run a command under the lock of its run's folder: ``python -m mmprofile.sweep.locked_run FOLDER MODULE WORDS...``.

The process that does the work holds the lock itself, so the lock lasts exactly as long as the work, even when the sweep
that started it has been killed.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from mmprofile.files import lock_of

MODULE = "mmprofile.sweep.locked_run"


def done(folder: Path) -> bool:
    """Return whether the run is finished."""
    return (folder / "metrics.json").exists()


def main(folder: Path, module: str, words: Sequence[str]) -> None:
    """Wait for the lock, then run a command in this process, unless another process has finished the run meanwhile.

    Args:
        folder: of the run.
        module: the command, as ``python -m`` takes it.
        words: its command line.
    """
    with lock_of(folder):
        if done(folder):
            return
        sys.argv[1:] = words
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except KeyboardInterrupt:  # while it waits for the lock, or before the command listens
        sys.exit(130)
