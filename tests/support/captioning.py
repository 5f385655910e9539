"""The caption command as a user runs it, on a CPU."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

QUIET = ["trainer=cpu", "trainer.progress=false", "workers=0"]


def command(*arguments: str) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "mmprofile.caption", *QUIET, *arguments]


def run(*arguments: str, code: int = 0, **options: Any) -> str:
    """Run the command and return what it printed."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the captions file."""
    return pq.read_table(folder / "captions.parquet").to_pylist()
