"""The benchmark of prediction runs and writes what it promises; what it measures is nobody's promise."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mmprofile.model.model import ProfileModel

ROOT = Path(__file__).parents[2]


def test_figures(tiny_model: Callable[..., ProfileModel], tmp_path: Path) -> None:
    model = tiny_model("xattn")
    model.settings["inputs"]["encoding"] = "segments"
    model.save_pretrained(tmp_path / "model")
    figures, page = tmp_path / "predict.json", tmp_path / "page.md"
    options = [
        str(tmp_path / "model"),
        "experiment=smoke",
        "--repeats=1",
        "--users=300",
        f"--json={figures}",
        f"--page={page}",
    ]
    done = subprocess.run(
        [sys.executable, "benchmarks/predict.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert len(found["one person"]) == 5
    for name in ("import mmprofile", "Profiler ready", "predict --help", "the first person", "one person"):
        assert all(min(times) > 0 for times in found[name])
    assert found["memory"]["users"] == 300
    assert max(found["memory"]["memory_mb"]) > 100
    assert "| import mmprofile |" in page.read_text().partition("<!-- predict -->")[2]
