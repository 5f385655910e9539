"""Sweeps as a user runs them: processes of their own, on a small city."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from PIL import Image

from mmprofile.errors import UserError
from mmprofile.sweep.jobs import Job, run_jobs, why_not
from mmprofile.sweep.run import main, names, read_words
from mmprofile.sweep.search import Search, SearchConfig, requeue, space_of

TABLE = """
title: Small
reference: majority
rows:
  - {system: majority, label: majority class, overrides: [model=majority, paradigm=text], paper: {mean: 20.0}}
  - {system: tfidf_lr, overrides: [model=tfidf_lr, paradigm=text]}
  - {system: typo, overrides: [model=tfidf_rl]}
  - {system: gone, overrides: [model=gpt, paradigm=text, model.system=file, model.options.path=gone.jsonl]}
  - {system: gpt, overrides: [model=gpt], needs: [model.options.url=http://...]}
  - {system: ceiling, baseline: ceiling}
"""
SEARCH = """
overrides: [model=flan_t5, paradigm=text, trainer.max_epochs=1]
space:
  optim.lr_new: {low: 1.0e-4, high: 1.0e-2, log: true}
  loader.batch_size: {choices: [8, 16]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sweep")
    (made / "small.yaml").write_text(TABLE)
    (made / "quick.yaml").write_text(SEARCH)
    return made


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "mmprofile.sweep", *words, "experiment=smoke", "resamples=200"]


def sweep(folder: Path, *words: str, code: int) -> subprocess.CompletedProcess[str]:
    """Runs a sweep to its end and checks its exit status."""
    done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def started(folder: Path, *words: str) -> tuple[subprocess.Popen[str], Path]:
    """A sweep whose first run has begun, and that run's folder."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Tests that run in the background of a shell ignore interrupts, and so would what they start.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command(*words), cwd=folder, **pipes, preexec_fn=listening)
    assert process.stdout is not None
    name = next(line.split()[2] for line in process.stdout if line.endswith("...\n"))
    run = folder / words[-1].partition("=")[2] / "runs" / name
    deadline = time.monotonic() + 60
    while not (run / "lock").exists() or free(run):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, run


def free(run: Path) -> bool:
    """Whether no process is at work in the run's folder."""
    with (run / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def rows(out: Path) -> dict[str, Any]:
    return {row["system"]: row for row in json.loads((out / "small" / "table.json").read_text())["rows"]}


@pytest.fixture(scope="module")
def swept(folder: Path) -> tuple[Path, str]:
    """A table of which one row does not compose and one fails; where it is, and what was printed."""
    done = sweep(folder, "table=small.yaml", "threads=1", "out=o", code=1)
    return folder / "o", done.stdout


def test_rows_that_fail_say_why_and_the_others_finish(swept: tuple[Path, str]) -> None:
    out, printed = swept
    found = rows(out)
    assert list(found) == ["majority", "tfidf_lr", "typo", "gone", "gpt", "ceiling"]
    assert found["typo"]["error"].startswith("model=tfidf_rl: there is no such choice (did you mean tfidf_lr?)")
    assert "gone.jsonl" in found["gone"]["error"]
    assert found["gpt"]["error"] == "left out; to run it give rows.gpt=[model.options.url=http://...]"
    assert all(found[name]["macro_f1"] is None for name in ("typo", "gone", "gpt"))
    for name in ("majority", "tfidf_lr"):
        (run,) = found[name]["runs"]
        metrics = json.loads((out.parent / run / "metrics.json").read_text())
        assert found[name]["macro_f1"] == pytest.approx(metrics["test"]["macro_f1"])
        assert found[name]["interval"][0] <= found[name]["macro_f1"] <= found[name]["interval"][1]
        assert found[name]["minutes"] > 0
        assert found[name]["error"] is None
    assert 0 < found["tfidf_lr"]["p_vs_reference"] <= 1
    assert found["ceiling"]["macro_f1"] == metrics["baselines"]["ceiling"]["macro_f1"]
    assert "3 runs: 0 done, 3 to do" in printed
    assert [line.split()[1] for line in printed.splitlines() if line.endswith("...")] == ["[1/3]", "[2/3]", "[3/3]"]
    assert printed.count("; 2 left, about ") == 1
    assert f"{found['tfidf_lr']['macro_f1']:.2f}" in printed
    assert Image.open(out / "small" / "table.png").size[0] > 600
    for name in ("table.md", "table.csv", "table.tex"):
        assert "tfidf" in (out / "small" / name).read_text()


def test_the_same_command_again_does_what_is_not_done(
    swept: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = swept
    before = rows(out)
    done = sweep(
        folder, "table=small.yaml", "data=demo", "model.size=tiny", "out=o", code=1
    )  # the same runs in other words
    assert "3 runs: 2 done, 1 to do" in done.stdout
    assert rows(out) == before
    (run,) = before["gone"]["runs"]
    log = (folder / run / "log.txt").read_text()
    assert log.count("error: ") == 2
    monkeypatch.chdir(folder)
    assert main(["table=small.yaml", "only=[majority,tfidf_lr,gpt]", "out=o", "experiment=smoke"]) == 0
    assert "2 runs: 2 done, 0 to do" in capsys.readouterr().out
    assert list(rows(out)) == ["majority", "tfidf_lr", "gpt"]


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


def test_free_sweeps_are_rendered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "paradigm=text,uni", "model=flan_t5", "experiment=smoke", "trainer.max_epochs=1", "out=free"]
    train = [sys.executable, "-m", "mmprofile.train", *words, "trainer.progress=false"]
    done = subprocess.run(train, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.chdir(folder)
    assert main(["runs=free/*", "reference=text", "resamples=200", "out=o"]) == 0
    found = json.loads((folder / "o" / "runs-table" / "table.json").read_text())["rows"]
    assert [row["system"] for row in found] == ["majority", "tfidf_lr", "text", "uni", "ceiling"]
    assert all(row["macro_f1"] is not None for row in found)
    assert "against text" in capsys.readouterr().out


def test_a_search_goes_on_from_its_storage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One trial is done, one was killed: with three wanted, that one is tried again, and one is new."""
    study_folder = folder / "s" / "search" / "quick"
    study_folder.mkdir(parents=True)
    space = space_of(SearchConfig(space={"optim.lr_new": {"low": 1e-4, "high": 1e-2, "log": True}}), study_folder)
    space["loader.batch_size"] = CategoricalDistribution([8, 16])
    study = Search(study_folder, space, [], 1, None, 0).study()
    study.enqueue_trial({"optim.lr_new": 0.002, "loader.batch_size": 8})
    study.tell(study.ask(space), 1.5)
    study.enqueue_trial({"optim.lr_new": 0.003, "loader.batch_size": 16})
    study.ask(space)
    done = sweep(folder, "search=quick.yaml", "trials=2", "out=s", code=0)
    assert "2 trials: 1 done, 1 to be tried again" in done.stdout
    found = json.loads((study_folder / "table.json").read_text())
    first, second = found["trials"]
    assert first["params"] == {"optim.lr_new": 0.003, "loader.batch_size": 16}
    history = json.loads((folder / first["runs"][0] / "metrics.json").read_text())["history"]
    assert first["dev_macro_f1"] == max(entry["dev_macro_f1"] for entry in history)
    assert (second["dev_macro_f1"], second["params"]["optim.lr_new"]) == (1.5, 0.002)
    assert found["best"].endswith("experiment=smoke model=flan_t5 paradigm=text trainer.max_epochs=1 "
                                  "optim.lr_new=0.003 loader.batch_size=16")  # fmt: skip
    assert f"best: {found['best']}" in done.stdout
    assert Image.open(study_folder / "table.png").size[0] > 400
    monkeypatch.chdir(folder)
    again = ["search=quick.yaml", "trials=2", "out=s", "experiment=smoke"]
    assert main(again) == 0
    assert "2 trials: 2 done\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a search with other settings"):
        main([*again, "inputs.reviews=2"])


def test_failed_trials_are_queued_once() -> None:
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(direction="maximize")
    for x, end in (
        (0.1, None),
        (0.2, TrialState.FAIL),
        (0.2, TrialState.FAIL),
        (0.3, 5.0),
        (0.4, TrialState.FAIL),
        (0.4, 6.0),
    ):
        study.enqueue_trial({"x": x})
        trial = study.ask(space)
        if isinstance(end, TrialState):
            study.tell(trial, state=end)
        elif end is not None:
            study.tell(trial, end)
    assert requeue(study) == 2
    assert requeue(study) == 2  # they still wait
    assert [study.ask(space).params["x"] for _ in range(2)] == [0.1, 0.2]


def test_spaces() -> None:
    spec = {"a": {"low": 1, "high": 4}, "b": {"low": 0.1, "high": 1.0, "log": True}, "c": {"choices": [True, None]}}
    assert space_of(SearchConfig(space=spec), Path("s")) == {
        "a": IntDistribution(1, 4),
        "b": FloatDistribution(0.1, 1.0, log=True),
        "c": CategoricalDistribution([True, None]),
    }
    for wrong in ({"low": 1}, {"low": 2, "high": 1}, {"choices": []}, {"low": 1, "high": 2, "steps": 3}, 5):
        with pytest.raises(UserError, match="x: "):
            space_of(SearchConfig(space={"x": wrong}), Path("s"))


def test_words_are_sorted() -> None:
    words = read_words(
        ["table=[2,3]", "data=demo", "+trainer.max_epochs=2", "hydra/launcher=joblib", "rows.gpt=[a.b=c]"]
    )
    assert names(words.cfg.table) == ["2", "3"]
    assert words.common == ["data=demo", "+trainer.max_epochs=2"]
    assert words.launcher == ["hydra/launcher=joblib"]
    assert words.cfg.rows == {"gpt": ["a.b=c"]}
    assert names("2,own/3.yaml") == ["2", "own/3.yaml"]
    assert names(4) == ["4"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table=9"], "table=9: there is no such table; choices: 2, 3, "),
        (["tabel=3"], "unknown config key 'tabel' (did you mean table?)"),
        (["table=3", "seeds=0"], "seeds=0: give 1 or more"),
        (["table=3", "seeds=many"], "config key 'seeds'"),
        (["table=["], "the command line cannot be read: table=["),
        (["-m", "table=3"], "the command line cannot be read: -m"),
        (["table=3", "runs=x"], "runs= and table= do not go together"),
        ([], "nothing to do"),
        (["table=3", "seed=1"], "give seeds=..."),
        (["table=3", "only=[our]"], "only: 'our' is no row"),
        (["table=3", "rows.bart=[seed=1]"], "rows: 'bart' is no row"),
        (["table=3", "paradigm=text"], "sets paradigm itself"),
        (["table=3", "inputs.reviws=2"], "unknown config key 'inputs.reviws' (did you mean inputs.reviews?)"),
        (["table=3", "hydra/launcher=nosuch"], "pip install 'mmprofile[sweep]'"),
        (["search=nosuch"], "search=nosuch: there is no such search; choices: lr"),
        (["runs=nowhere/*"], "no finished run there"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(words)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []
