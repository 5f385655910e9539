"""Searches: their spaces, and what a killed one goes on from."""

import json
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from PIL import Image

from mmprofile.errors import UserError
from mmprofile.sweep.run import main
from mmprofile.sweep.search import SearchConfig, SearchSpec, best_validation, requeue, space_of, take_up
from tests.support.sweeps import sweep


def test_a_search_goes_on_from_its_storage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One trial is done, one was killed: with three wanted, that one is tried again, and one is new."""
    study_folder = folder / "s" / "search" / "quick"
    study_folder.mkdir(parents=True)
    space = space_of(SearchConfig(space={"optim.lr_new": {"low": 1e-4, "high": 1e-2, "log": True}}), study_folder)
    space["loader.batch_size"] = CategoricalDistribution([8, 16])
    study = SearchSpec(study_folder, space, words=[], seeds=1, threads=None, began_at=0).study()
    study.enqueue_trial({"optim.lr_new": 0.002, "loader.batch_size": 8})
    study.tell(study.ask(space), 1.5)
    study.enqueue_trial({"optim.lr_new": 0.003, "loader.batch_size": 16})
    study.ask(space)
    done = sweep(folder, "search=quick.yaml", "trials=2", "out=s", code=0)
    assert "2 trials: 1 done, 1 to be tried again" in done.stdout
    found = json.loads((study_folder / "table.json").read_text())
    first, second = found["trials"]
    assert first["params"] == {"optim.lr_new": 0.003, "loader.batch_size": 16}
    assert first["validation_macro_f1"] == best_validation(folder / first["runs"][0])
    assert (second["validation_macro_f1"], second["params"]["optim.lr_new"]) == (1.5, 0.002)
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


@pytest.mark.parametrize("key", ["validation_macro_f1", "dev_macro_f1"])
def test_the_best_validation_score_of_newer_and_older_runs(key: str, tmp_path: Path) -> None:
    history = [{"epoch": epoch, key: value} for epoch, value in enumerate((10.0, 30.5, 20.0), 1)]
    (tmp_path / "metrics.json").write_text(json.dumps({"history": history}))
    assert best_validation(tmp_path) == 30.5
    (tmp_path / "metrics.json").write_text(json.dumps({"history": []}))
    with pytest.raises(ValueError, match="not trained in epochs"):
        best_validation(tmp_path)


def test_a_search_at_work_is_left_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second sweep says so in one line; a lock file that nobody holds stops nobody."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("mmprofile.sweep.search.multirun", lambda *arguments: None)
    words = ["search=quick.yaml", "trials=1", f"out={tmp_path}", "experiment=smoke"]
    study_folder = tmp_path / "search" / "quick"
    study_folder.mkdir(parents=True)
    with (
        FileLock(study_folder / "lock"),
        pytest.raises(UserError, match=r"another process is at work on .*quick: wait for it"),
    ):
        main(words)
    assert (study_folder / "lock").exists()
    assert main(words) == 1  # its trial is still missing


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
    assert requeue(study, space) == 2
    assert requeue(study, space) == 2  # they still wait
    assert [study.ask(space).params["x"] for _ in range(2)] == [0.1, 0.2]


@pytest.mark.parametrize(("killed", "trials"), [(1, 3), pytest.param(11, 13, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "drawn", ["all values", *(pytest.param(drawn, marks=pytest.mark.slow) for drawn in ("nothing", "one value"))]
)
def test_a_killed_search_tries_the_values_of_an_undisturbed_one(
    killed: int, trials: int, drawn: str, tmp_path: Path
) -> None:
    """In the search's random beginning and after it, and in the middle of drawing a trial's values."""
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0), "y": CategoricalDistribution([8, 16, 32])}

    def trial(spec: SearchSpec, index: int) -> None:
        study = spec.study(index)
        asked = study.ask(space)
        study.tell(asked, asked.params["x"] + asked.params["y"])

    specs = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        specs[name], *_ = take_up(SearchSpec(tmp_path / name, space, words=[], seeds=1, threads=None, began_at=0))
    for index in range(trials):
        trial(specs["whole"], index)
    for index in range(killed):
        trial(specs["killed"], index)
    study = specs["killed"].study(killed)
    last = study.ask(space if drawn == "all values" else {})
    if drawn == "one value":
        last.suggest_float("x", 0.0, 1.0)
    again, complete, waiting = take_up(specs["killed"])
    assert (complete, waiting) == (killed, int(drawn == "all values"))
    for index in range(trials - complete):
        trial(again, index)
    whole, found = (
        [t.params for t in spec.study().trials if t.state == TrialState.COMPLETE] for spec in specs.values()
    )
    assert found == whole


def test_values_that_are_killed_before_they_are_taken_again_still_wait(tmp_path: Path) -> None:
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.1})
    study.ask()
    assert requeue(study, space) == 1
    assert study.ask(space).params == {"x": 0.1}


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
