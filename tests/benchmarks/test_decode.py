"""The benchmark of decoding runs, at a tiny shape, and writes what it promises; what it measures is nobody's promise."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_decode(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n<!-- other -->\nstays\n<!-- /other -->\n")
    sizes = ["--shape", "tiny", "--users", "2", "--states", "7", "--compared", "3", "--repeats", "1"]
    command = [sys.executable, "benchmarks/decode.py", *sizes, "--json", str(tmp_path / "d.json"), "--page", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "d.json").read_text())
    for dtype in ("bf16", "fp32"):
        for name in (dtype, f"{dtype}_full", f"{dtype}_flat"):
            assert set(figures[name]) == {"vs_generate", "vs_prefix_fn"}
            assert all(value > 0 for value in figures[name].values())
    assert figures["parse_fault_rate"] == 0
    assert 0 <= figures["logprob_not_below"] <= 1
    assert figures["compared"] == 3
    text = page.read_text()
    assert "<!-- other -->\nstays\n<!-- /other -->" in text
    assert text.count("| bf16, ") == text.count("| fp32, ") == 3
    assert "tiny" in text.partition("<!-- decode -->")[2]
