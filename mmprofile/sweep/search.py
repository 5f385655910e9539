"""Hyperparameter search by Optuna: every trial is a run (one per seed) of its own process, its value the best dev macro-F1.

What was tried lies in ``<out>/search/<name>/study.db``. The same command again goes on: a trial that was killed or failed is
tried again, with the same values.
"""

import csv
import fcntl
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.evaluate.plots import clean_axes, save_figure
from mmprofile.sweep.jobs import Job, execute, multirun, slug, why_not
from mmprofile.sweep.rendering import Cells, latex, markdown, print_cells
from mmprofile.sweep.tables import conf_file, effective

optuna.logging.set_verbosity(optuna.logging.WARNING)
MISSING = "-"


@dataclass
class SearchConfig:
    """``conf/search/*.yaml``. ``space``: override -> ``{low, high, log}`` or ``{choices}``; ``overrides``: of all trials."""

    trials: int = 20
    overrides: list[str] = field(default_factory=list)
    space: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """What a trial's process is told; it can be pickled."""

    folder: Path
    space: dict[str, BaseDistribution]
    words: list[str]
    seeds: int
    threads: int | None
    began_at: int

    def study(self, index: int = 0) -> optuna.Study:
        """The study in the folder. Processes that ask at the same time must not draw the same numbers: hence ``index``."""
        storage = f"sqlite:///{self.folder.resolve() / 'study.db'}"
        sampler = TPESampler(seed=self.began_at + index)
        return optuna.create_study(
            storage=storage, study_name="search", sampler=sampler, direction="maximize", load_if_exists=True
        )

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """What a trial gives to ``train``, but for its seed."""
        return [*self.words, *(f"{key}={'null' if value is None else value}" for key, value in params.items())]

    def jobs(self, params: Mapping[str, Any]) -> list[Job]:
        """A trial's runs."""
        found = []
        for seed in range(self.seeds):
            words = (*self.overrides(params), f"seed={seed}")
            found.append(Job("train", words, self.folder / "runs" / slug("train", words)))
        return found


def search(cfg: Any, common: Sequence[str], launcher: Sequence[str], out: Path, command: str) -> int:
    """Runs what is missing of a search's trials and renders all; 1 if a trial of it failed.

    Raises:
        UserError: the search does not say what it must, or its folder holds another one.
    """
    path = conf_file("search", cfg.search)
    spec = read_spec(path)
    _, words = effective("train", common, spec.overrides)
    one = Search(out / "search" / path.stem, space_of(spec, path), words, cfg.seeds, cfg.threads, 0)
    load_config("train", one.overrides({key: _example(kind) for key, kind in one.space.items()}))
    with _alone(one.folder):
        _check_same(one.folder / "search.json", {"words": words, "space": spec.space, "seeds": cfg.seeds})
        study = one.study()
        again = requeue(study)
        complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        wanted = cfg.trials or spec.trials
        one = Search(one.folder, one.space, words, cfg.seeds, cfg.threads, len(study.trials))
        print(f"{wanted} trials: {complete} done{f', {again} to be tried again' if again else ''}", flush=True)
        if complete < wanted:
            multirun(partial(run_trial, one, wanted - complete), wanted - complete, launcher, out)
        return report(one, wanted, command)


def read_spec(path: Path) -> SearchConfig:
    """A search's file.

    Raises:
        UserError: it does not say what a search must.
    """
    try:
        spec: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SearchConfig), OmegaConf.load(path)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    if not spec.space or spec.trials < 1:
        raise UserError(f"{path}: give a space of overrides, and at least one trial")
    return spec


def space_of(spec: SearchConfig, path: Path) -> dict[str, BaseDistribution]:
    """Optuna's distributions; whole numbers where both ends are.

    Raises:
        UserError: a range or choice makes no sense.
    """
    space: dict[str, BaseDistribution] = {}
    for key, one in spec.space.items():
        try:
            if set(one) == {"choices"}:
                space[key] = CategoricalDistribution(one["choices"])
            else:
                whole = isinstance(one["low"], int) and isinstance(one["high"], int)
                space[key] = (IntDistribution if whole else FloatDistribution)(**one)
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{path}: {key}: {one} is neither {{low, high, log}} nor {{choices}} ({error})") from error
    return space


def requeue(study: optuna.Study) -> int:
    """Puts trials that were killed or failed in the queue again, each set of values once; how many.

    No other process is at work on the study: what says that it is running was killed.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    settled = [_values(trial) for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.WAITING)]
    waiting = sum(trial.state == TrialState.WAITING for trial in trials)
    for trial in trials:
        if trial.state == TrialState.FAIL and trial.params and trial.params not in settled:
            study.enqueue_trial(trial.params)
            settled.append(trial.params)
            waiting += 1
    return waiting


def _values(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs.get("fixed_params", {})) if trial.state == TrialState.WAITING else trial.params


def run_trial(one: Search, total: int, index: int) -> None:
    """Asks for values, runs them, tells their score; whatever happens, the next trial goes on."""
    study = one.study(index)
    trial = study.ask(one.space)
    shown = ", ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
    print(f"{time.strftime('%H:%M')} [{index + 1}/{total}] trial {trial.number}: {shown} ...", flush=True)
    jobs = one.jobs(trial.params)
    try:
        for job in jobs:
            execute(job, one.threads)
        reasons = [why for job in jobs if (why := why_not(job))]
        value = None if reasons else float(np.mean([best_dev(job.folder) for job in jobs]))
        why = reasons[0] if reasons else None
    except Exception as error:  # noqa: BLE001 - whatever it is, the other trials go on
        value, why = None, f"{type(error).__name__}: {error}"
    if value is None:
        trial.set_user_attr("error", why)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)
    result = f"failed: {why}" if why else f"dev macro-F1 {value:.2f} (best {study.best_value:.2f})"
    print(f"{time.strftime('%H:%M')} [{index + 1}/{total}] trial {trial.number}: {result}", flush=True)


def best_dev(folder: Path) -> float:
    """The best dev macro-F1 of a finished run.

    Raises:
        ValueError: it has none.
    """
    history = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["history"]
    if not history:
        raise ValueError(f"{folder} has no dev macro-F1: a system that is not trained in epochs cannot be searched")
    return max(float(entry["dev_macro_f1"]) for entry in history)


def report(one: Search, wanted: int, command: str) -> int:
    """Writes and prints a search's table, figure and best overrides; 1 while trials are missing."""
    trials = one.study().get_trials(deepcopy=False)
    complete = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: -_value(t))
    settled = [_values(t) for t in trials if t.state in (TrialState.COMPLETE, TrialState.WAITING)]
    failed = [t for t in trials if t.state == TrialState.FAIL and t.params not in settled]
    keys = list(one.space)
    rows = [[str(t.number), f"{_value(t):.2f}", *(_short(t.params[key]) for key in keys)] for t in complete]
    rows += [[str(t.number), "failed", *(_short(t.params.get(key, MISSING)) for key in keys)] for t in failed]
    cells = Cells(["trial", "dev macro-F1", *keys], rows)
    reasons = [f"- trial {t.number}: {t.user_attrs.get('error', 'killed')}" for t in failed]
    best = shlex.join(["python", "-m", "mmprofile.train", *one.overrides(complete[0].params)]) if complete else None
    found = {"best": best, "command": command, "trials": [_plain(one, t) for t in (*complete, *failed)]}
    title = f"Search {one.folder.name}"
    figure = ["![Dev macro-F1 of every trial](table.png)"] if complete else []
    text = [f"# {title}", markdown(cells), "\n".join(reasons), *figure, f"Best: `{best}`", f"Made by `{command}`."]
    (one.folder / "table.md").write_text("\n\n".join(part for part in text if part) + "\n", encoding="utf-8")
    (one.folder / "table.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (one.folder / "table.tex").write_text(latex(title, cells), encoding="utf-8")
    with (one.folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([cells.titles, *cells.rows])
    print_cells(title, cells)
    print("\n".join(reasons))
    if best:
        save_figure(_draw(complete), one.folder / "table.png")
        print(f"best: {best}")
    print(f"{one.folder}/table.md, .csv, .json, .tex, .png", flush=True)
    return int(len(complete) < wanted)


def _plain(one: Search, trial: FrozenTrial) -> dict[str, Any]:
    runs = [str(job.folder) for job in one.jobs(trial.params)]
    what = {"trial": trial.number, "dev_macro_f1": trial.value, "params": trial.params, "runs": runs}
    return what | {"error": None if trial.state == TrialState.COMPLETE else trial.user_attrs.get("error", "killed")}


def _draw(complete: Sequence[FrozenTrial]) -> Figure:
    """The value of every trial, and the best so far."""
    trials = sorted(complete, key=lambda t: t.number)
    numbers, values = [t.number for t in trials], [_value(t) for t in trials]
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(numbers, values, color="#0072b2", label="trial")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color="#e69f00", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("dev macro-F1 (0-100)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    clean_axes(axes)
    return figure


def _value(trial: FrozenTrial) -> float:
    return float("nan") if trial.value is None else trial.value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _example(kind: BaseDistribution) -> Any:
    return kind.choices[0] if isinstance(kind, CategoricalDistribution) else kind.low  # type: ignore[attr-defined]


def _check_same(path: Path, settings: Mapping[str, Any]) -> None:
    """A study's trials belong together."""
    text = json.dumps(settings, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path.parent} holds a search with other settings: delete it, or choose another out=")
    path.write_text(text, encoding="utf-8")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One sweep at a time: what a study says is running, was killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise UserError(f"another sweep is at work in {folder}: wait for it, or choose another out=") from error
