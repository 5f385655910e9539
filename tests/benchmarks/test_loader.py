"""The benchmark of the loader runs, on a small city, and writes what it promises; what it measures is nobody's promise."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_waits(tmp_path: Path) -> None:
    figures, page = tmp_path / "loader.json", tmp_path / "page.md"
    options = ["--epochs", "2", "--json", str(figures), "--page", str(page), "experiment=smoke"]
    command = [sys.executable, "benchmarks/loader.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert set(found["workers"]) == {"0", "2"}
    shares = [share for epochs in found["workers"].values() for share in epochs]
    assert len(shares) == 4
    assert all(0 < share < 1 for share in shares)
    assert found["step_waits_share"] == max(shares)
    section = page.read_text().partition("<!-- loader -->")[2]
    assert all(f"| {workers}, {epoch} |" in section for workers in (0, 2) for epoch in (1, 2))
