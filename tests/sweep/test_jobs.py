"""Runs as processes: what a killed or interrupted sweep leaves, what comes first, and names."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.sweep.jobs import Job, check_launcher, run_jobs, run_numbered, slug, why_not
from tests.support.extras import extra
from tests.support.sweeps import free, rows, started, sweep


def test_a_killed_sweep_goes_on_beside_what_it_left_running(folder: Path) -> None:
    process, run = started(folder, "table=small.yaml", "only=[majority,tfidf_lr]", "out=killed")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run / "metrics.json").exists()
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = sweep(folder, "table=small.yaml", "only=[majority,tfidf_lr]", *parallel, "out=killed", code=0)
    assert "2 runs: 0 done, 2 to do" in done.stdout
    assert (run / "log.txt").read_text().count(f"run {run.name} in ") == 1  # not begun a second time beside the first
    assert [row["error"] for row in rows(folder / "killed").values()] == [None, None]
    lines = [line.split()[1] for line in done.stdout.splitlines() if line.endswith("...")]
    ends = [i for i, line in enumerate(done.stdout.splitlines()) if ": macro-F1" in line]
    starts = [i for i, line in enumerate(done.stdout.splitlines()) if line.endswith("...")]
    assert sorted(lines) == ["[1/2]", "[2/2]"]
    assert max(starts) < min(ends)  # side by side


def test_an_interrupt_ends_the_run_too(folder: Path) -> None:
    process, run = started(folder, "table=small.yaml", "only=[majority]", "out=stopped")
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == "interrupted; the same command goes on with what is not done yet\n"
    assert free(run)
    assert not (run / "metrics.json").exists()


def test_what_others_read_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need = Job("train", ("nope=1",), tmp_path / "need")
    later, alone = Job("apply", (), tmp_path / "later", (need,)), Job("train", ("model=nope",), tmp_path / "alone")
    run_jobs([later, alone], [], None, tmp_path)
    assert "3 runs: 0 done, 3 to do" in capsys.readouterr().out
    assert why_not(later) == f"need, which it reads: {why_not(need)}"
    assert str(why_not(need)).startswith("unknown config key 'nope'")
    assert str(why_not(alone)).startswith("model=nope: there is no such choice")
    assert not later.folder.exists()


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("submitit_local", marks=extra("slurm", "submitit")),
        pytest.param("ray", marks=extra("ray", "hydra_plugins.hydra_ray_launcher")),
    ],
)
def test_launchers_of_clusters_run_here(launcher: str, tmp_path: Path) -> None:
    """Each run is begun by a process of the launcher's; why it fails is in its folder, wherever it ran."""
    jobs = [Job("train", ("nope=1",), tmp_path / "a"), Job("train", ("model=nope",), tmp_path / "b")]
    run_jobs(jobs, [f"hydra/launcher={launcher}"], None, tmp_path)
    assert str(why_not(jobs[0])).startswith("unknown config key 'nope'")
    assert str(why_not(jobs[1])).startswith("model=nope: there is no such choice")


@pytest.mark.parametrize("launcher", [pytest.param("submitit_slurm", marks=extra("slurm", "submitit"))])
def test_the_launcher_of_slurm_composes(launcher: str) -> None:
    resources = ["hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", "hydra.launcher.timeout_min=600"]
    check_launcher([f"hydra/launcher={launcher}", *resources])
    with pytest.raises(UserError, match=r"unknown config key 'hydra.launcher.gpus'"):
        check_launcher([f"hydra/launcher={launcher}", "hydra.launcher.gpus=1"])


def test_a_failure_of_before_does_not_hide_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sweeps at one run: the other's failure may be written late."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(
            '{"test": {"macro_f1": ' + ("null" if name == "b" else "12.5") + "}}"
        )
        (tmp_path / name / "failure.txt").write_text("killed\n")
    jobs = [Job("train", (), tmp_path / name) for name in ("a", "b")]
    for index in (0, 1):
        run_numbered(index, jobs=jobs, folders=[job.folder for job in jobs], began=time.time(), threads=None)
    lines = capsys.readouterr().out.splitlines()
    assert "[1/2] a: macro-F1 12.50, " in lines[1]
    assert "[2/2] b: macro-F1 -, " in lines[3]
    assert why_not(jobs[0]) is None


def test_a_run_is_named_by_what_defines_it() -> None:
    assert slug("train", ["paradigm=both", "model=ours", "seed=2"]) == "ours-both-seed2"
    views = [slug("train", ["model=ours", f"paradigm.views=[{v}]", "seed=0"]) for v in ("fusion", "fusion,text")]
    assert re.fullmatch(r"ours-views-\+?fusion\+?-[0-9a-f]{8}-seed0", views[0])
    assert len(set(views)) == 2
    assert slug("train", ["a.x=1", "b.y=2", "seed=0"]) == slug("train", ["b.y=2", "a.x=1", "seed=0"])
    assert slug("train", ["a.x=1", "seed=0"]) != slug("train", ["b.x=1", "seed=0"])
    assert slug("train", ["a.x=1", "seed=0"]) != slug("apply", ["a.x=1", "seed=0"])
    assert len(slug("train", [f"text.name={'x' * 300}", "seed=0"])) < 100
