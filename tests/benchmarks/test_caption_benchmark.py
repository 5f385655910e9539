"""The benchmark of captioning runs, on a few photos, and writes what it promises; what it measures is nobody's promise."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_overhead_memory_and_resume(tmp_path: Path) -> None:
    figures, page = tmp_path / "caption.json", tmp_path / "page.md"
    options = [
        "--photos",
        "24",
        "--many",
        "40",
        "--done",
        "50",
        "--repeats",
        "1",
        "--json",
        str(figures),
        "--page",
        str(page),
    ]
    command = [sys.executable, "benchmarks/caption.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert 0 < found["overhead"] < 1
    assert 0 < found["resume_s"] < 10
    section = page.read_text().partition("<!-- caption -->")[2]
    assert all(
        f"| {row}" in section for row in ("24 photos: loop, s", "40 photos: memory", "50 captions done: resume, s")
    )
