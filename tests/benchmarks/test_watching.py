"""The benchmark of watching runs, on a small city, and writes what it promises; what it measures is nobody's promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_epochs_with_and_without(tmp_path: Path) -> None:
    figures, page = tmp_path / "watching.json", tmp_path / "page.md"
    options = ["--repeats", "1", "--json", str(figures), "--page", str(page), "experiment=smoke"]
    command = [sys.executable, "benchmarks/watching.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    for kind in ("clock", "processor"):
        (one,), (other,) = (found["seconds"][kind][side] for side in ("with", "without"))
        assert min(one, other) > 0
        assert found["more"][kind] == pytest.approx(one / other - 1)
        assert f"| {kind} | {one:.2f}" in page.read_text().partition("<!-- watching -->")[2]
