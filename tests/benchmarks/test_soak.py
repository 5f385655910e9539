"""The soak of checkpoints runs, and tells what grows."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "soak" / "rotation.py"


def test_what_grows_is_told() -> None:
    spec = importlib.util.spec_from_file_location("rotation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    rotation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rotation)
    samples = [rotation.Sample(memory=1000 + number, files=7, disk=50) for number in range(40)]
    assert rotation.growth(samples, "memory") == (1014.5, 1034.5, pytest.approx(20 / 1014.5))
    assert rotation.growth(samples, "files") == (7, 7, 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads memory and open files from /proc")
def test_a_short_one(tmp_path: Path) -> None:
    """Of two epochs, in which memory may still grow: how it ends is nobody's promise."""
    command = [sys.executable, str(SCRIPT), "--checkpoints=60", f"--json={tmp_path / 'samples.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[-3:]] == ["memory", "files", "disk"]
    assert all(one["disk"] > 1_000_000 for one in json.loads((tmp_path / "samples.json").read_text())[3:])
