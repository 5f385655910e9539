"""The benchmark of training steps runs, at toy shapes, and writes what it promises; what it measures is nobody's promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_steps(tmp_path: Path) -> None:
    figures, page = tmp_path / "steps.json", tmp_path / "page.md"
    options = ["--size", "toy", "--repeats", "1", "--json", str(figures), "--page", str(page)]
    command = [sys.executable, "benchmarks/train_step.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    for name in ("multi", "both", "multi_segments", "both_segments", "multi_full", "both_full"):
        assert set(found[name]) == {"vs_literal", "vs_good", "peak_mb_ratio"}
        assert min(found[name].values()) > 0
    for differences in found["loss_difference"].values():
        assert 0 <= differences["fp32"] < 1e-5
        assert 0 <= differences["bf16"] < 1e-2
    assert {tuple(name.split(", ")) for name in found["growth"]} == {
        (what, encoding) for what in ("users", "reviews", "photos") for encoding in ("joint", "segments")
    }
    section = page.read_text().partition("<!-- train_step -->")[2]
    for modality in ("multi", "both"):
        assert section.count(f"| {modality}, ") == 5
