"""The benchmark of the preparation, run for real on a small town: both sides come to the same tables. No time is asserted."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "prepare.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    found = importlib.util.spec_from_file_location("benchmark_prepare", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def town(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    benchmark.cities(folder, 700, 2)  # two towns, as the large one is made of seven
    return folder


def test_pandas_comes_to_the_same_and_any_difference_is_seen(
    benchmark: ModuleType, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")
    benchmark.ours(town, tmp_path / "ours")
    for chunk in (None, 300):
        benchmark.by_pandas(town, tmp_path / "pandas", chunk)
        assert benchmark.differences(tmp_path / "ours", tmp_path / "pandas") == []
    profiles = pd.read_parquet(tmp_path / "pandas" / "profiles.parquet")
    reviews = pd.read_parquet(tmp_path / "pandas" / "reviews.parquet")
    assert len(profiles) > 20
    assert set(profiles["Budget Range"]) == {"High", "Low"}
    changed = profiles.copy()
    changed.iloc[3, changed.columns.get_loc("Stars")] = "9"
    changed.to_parquet(tmp_path / "pandas" / "profiles.parquet")
    assert len(benchmark.differences(tmp_path / "ours", tmp_path / "pandas")) == 1
    profiles.to_parquet(tmp_path / "pandas" / "profiles.parquet")
    reviews.iloc[1:].to_parquet(tmp_path / "pandas" / "reviews.parquet")
    assert len(benchmark.differences(tmp_path / "ours", tmp_path / "pandas")) == 1
    profiles.iloc[1:].to_parquet(tmp_path / "pandas" / "profiles.parquet")
    reviews[reviews["user_id"] != profiles.index[0]].to_parquet(tmp_path / "pandas" / "reviews.parquet")
    [said] = benchmark.differences(tmp_path / "ours", tmp_path / "pandas")
    assert said.startswith(f"{len(profiles)} users here, {len(profiles) - 1} there")


def test_a_commands_peak_is_its_own_not_that_of_who_starts_it(benchmark: ModuleType) -> None:
    held = b"x" * (400 << 20)
    small, large = (
        benchmark.measured([sys.executable, "-c", f"x = b'x' * ({size} << 20)"])["peak_mb"] for size in (1, 200)
    )
    assert len(held) >> 20 == 400
    assert small < 100
    assert 200 < large < 300
    with pytest.raises(SystemExit, match=r"exit\(3\) failed with status 3"):
        benchmark.measured([sys.executable, "-c", "exit(3)"])


def test_the_script_writes_its_figures_and_its_section(town: Path, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text("# Benchmarks\n\n<!-- other -->\nkept\n<!-- /other -->\n")
    options = ["--raw", town, "--large", town, "--repeats", "1", "--photos", "8", "--json", figures, "--page", page]
    subprocess.run(
        [sys.executable, SCRIPT, *map(str, options)],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"MMPROFILE_CACHE": str(tmp_path / "cache")},
    )
    found = json.loads(figures.read_text())
    for name in ("vs_pandas", "memory_vs_pandas", "vs_orjson_floor", "photos_per_s_per_core", "second_run_s"):
        assert found[name] > 0
    for name in ("seven_million", "seven_million_command", "command"):
        assert found[name]["seconds"] > 0
        assert found[name]["peak_mb"] > 50
    text = page.read_text()
    assert "kept" in text
    assert "## Preparation" in text
    assert all(f"| {side} |" in text for side in ("ours", "pandas", "pandas in chunks", "orjson"))
