"""The GPU's benchmark runs without one, at tiny shapes, and writes what it promises; what it measures is nobody's promise."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SIDES = ("literal", "good", "joint", "segments")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """The script where no GPU is seen."""
    command = [sys.executable, "benchmarks/gpu.py", *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


def leaves(figures: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.slow
def test_all_sides(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = run("--size", "toy", "--repeats", "1", "--json", str(tmp_path / "gpu.json"), "--page", str(page))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert figures["not_measured"] == {}
    assert figures["goals"] == {"matmul_share": 0.35, "vs_good": 4.0}
    assert figures["matmul_tflops"] > 0
    for modality in ("multi", "both"):
        assert 0 <= figures["loss_difference"][modality]["fp32"] < 1e-5
        assert 0 <= figures["loss_difference"][modality]["bf16"] < 1e-2
        assert set(figures[modality]) == set(SIDES)
        for name, side in figures[modality].items():
            for one in (side, side["best"]):
                assert one["peak_mb"] is None  # of a GPU only
                assert min(one["users_per_s"], one["tflop"], one["matmul_share"]) > 0
                assert min(one["vs_literal"], one["vs_good"]) > 0
            assert side["largest"] == side["best"]["users"] == 1
            assert side["largest_ended_by"] == "number"
            peer = {"literal": "vs_literal", "good": "vs_good"}.get(name)
            assert peer is None or side[peer] == 1
        same = {name: figures[modality][name]["tflop"] for name in SIDES}
        assert same["segments"] < same["good"]  # what views share is computed once
        assert same["joint"] < same["good"]
    decode = figures["decode"]
    assert min(decode[f"{side}_users_per_s"] for side in ("ours", "generate", "prefix")) > 0
    assert min(decode["vs_generate"], decode["vs_prefix_fn"]) > 0
    section = page.read_text().partition("<!-- gpu -->")[2]
    assert section.count("best batch |") == section.count("same batch |") == 8


def test_ends_when_the_time_is_up(tmp_path: Path) -> None:
    done = run("--size", "toy", "--minutes", "0", "--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 1
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert list(figures["not_measured"]) == ["model and users"]
    values = leaves({name: figures[name] for name in ("multi", "both")})
    assert len(values) == 2 * len(SIDES) * 18
    assert set(values.values()) == {None}


def test_says_that_there_is_no_gpu() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no GPU" in done.stderr
    assert "--size toy" in done.stderr


@pytest.mark.parametrize("limit", [0, 1, 3, 15, 16, 17, 40, 63, 64, 100, 512, 600])
def test_largest_batch(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu import largest

    asked: list[int] = []

    def fits(users: int) -> bool:
        asked.append(users)
        return users <= limit

    found, ended_by = largest(fits, 16, 512, time.monotonic() + 60)
    assert ended_by == ("number" if limit >= 512 else "memory")
    assert found <= limit
    assert found == min(limit, 512) or found + max(1, found // 8) >= limit
    assert found in (0, *asked)
    assert len(asked) == len(set(asked)) <= 12
    assert largest(fits, 16, 512, time.monotonic() - 1) == (0, "time")
