"""Hyperparameter search by Optuna. A trial is one run per seed, each a process; its value is the best validation macro-F1.

The trials are stored in ``<out>/search/<name>/study.db``. The same command again goes on: a trial that was killed or failed
is tried again, with the same values.
"""

import csv
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from mmprofile.config.compose import load_config
from mmprofile.config.parts import typed_file
from mmprofile.config.settings import SweepConfig
from mmprofile.errors import UserError
from mmprofile.evaluate.plots import clean_axes, save_figure
from mmprofile.evaluate.score_table import NOT_MEASURED
from mmprofile.files import alone_in, read_json, write_json, write_text
from mmprofile.sweep.jobs import Job, execute, multirun, slug, why_not
from mmprofile.sweep.rendering import Cells, latex, markdown, print_cells
from mmprofile.sweep.tables import conf_file, effective

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class SearchConfig:
    """``conf/search/*.yaml``.

    Attributes:
        trials: how many.
        overrides: of ``train``, for all trials.
        space: key of an override -> ``{low, high, log}`` or ``{choices}``.
    """

    trials: int = 20
    overrides: list[str] = field(default_factory=list)
    space: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchSpec:
    """What the process of a trial needs; it can be pickled.

    Attributes:
        folder: of the search.
        space: key of an override -> its distribution.
        words: overrides of ``train`` for all trials.
        seeds: runs of a trial, of seeds 0, 1, ...
        threads: ``OMP_NUM_THREADS`` of each run; None leaves it.
        began_at: trials that were complete when this command began; a search that was killed draws what it had drawn.
    """

    folder: Path
    space: dict[str, BaseDistribution]
    words: list[str]
    seeds: int
    threads: int | None
    began_at: int

    def study(self, index: int = 0) -> optuna.Study:
        """Return the study in the folder.

        Args:
            index: different for processes that ask at the same time, so that they do not draw the same numbers.
        """
        storage = f"sqlite:///{self.folder.resolve() / 'study.db'}"
        sampler = TPESampler(seed=self.began_at + index)
        return optuna.create_study(
            storage=storage, study_name="search", sampler=sampler, direction="maximize", load_if_exists=True
        )

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """Return what a trial gives to ``train``, but for its seed."""
        return [*self.words, *(f"{key}={'null' if value is None else value}" for key, value in params.items())]

    def jobs(self, params: Mapping[str, Any]) -> list[Job]:
        """Return the runs of a trial."""
        jobs = []
        for seed in range(self.seeds):
            words = (*self.overrides(params), f"seed={seed}")
            jobs.append(Job("train", words, self.folder / "runs" / slug("train", words)))
        return jobs


def search(cfg: SweepConfig, common: Sequence[str], launcher: Sequence[str], out: Path, command: str) -> int:
    """Run the missing trials of a search and render all of them.

    Args:
        cfg: the sweep's configuration, with ``search``.
        common: overrides of ``train`` for all trials.
        launcher: words for Hydra.
        out: the search is in its ``search/<name>``.
        command: the command line that runs it again.

    Returns:
        1 if trials are missing at the end because they failed, else 0.

    Raises:
        UserError: the search's file is wrong, or its folder holds a search with other settings.
    """
    path = conf_file("search", str(cfg.search))
    config = read_config(path)
    _, words = effective("train", common, config.overrides)
    spec = SearchSpec(
        folder=out / "search" / path.stem,
        space=space_of(config, path),
        words=words,
        seeds=cfg.seeds,
        threads=cfg.threads,
        began_at=0,
    )
    load_config("train", spec.overrides({key: _example(kind) for key, kind in spec.space.items()}))
    with alone_in(spec.folder, "out="):  # then a trial that is stored as running was killed
        _check_same(spec.folder / "search.json", {"words": words, "space": config.space, "seeds": cfg.seeds})
        wanted = cfg.trials or config.trials
        spec, complete, again = take_up(spec)
        print(f"{wanted} trials: {complete} done{f', {again} to be tried again' if again else ''}", flush=True)
        if complete < wanted:
            missing = wanted - complete
            multirun(partial(run_trial, spec=spec, total=missing), missing, launcher, out)
        return report(spec, wanted, command)


def read_config(path: Path) -> SearchConfig:
    """Return a search's file, checked.

    Raises:
        UserError: it does not say what a search must.
    """
    config = typed_file(SearchConfig, path)
    if not config.space or config.trials < 1:
        raise UserError(f"{path}: give a space of overrides, and at least one trial")
    return config


def space_of(config: SearchConfig, path: Path) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each key; whole numbers where both ends are.

    Raises:
        UserError: a range or choice makes no sense.
    """
    space: dict[str, BaseDistribution] = {}
    for key, limits in config.space.items():
        try:
            if set(limits) == {"choices"}:
                space[key] = CategoricalDistribution(limits["choices"])
            else:
                whole = isinstance(limits["low"], int) and isinstance(limits["high"], int)
                space[key] = (IntDistribution if whole else FloatDistribution)(**limits)
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"{path}: {key}: {limits} is neither {{low, high, log}} nor {{choices}} ({error})"
            ) from error
    return space


def take_up(spec: SearchSpec) -> tuple[SearchSpec, int, int]:
    """Return the search as this command goes on with it, and how many trials are complete and how many wait."""
    study = spec.study()
    waiting = requeue(study, spec.space)
    complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    return replace(spec, began_at=complete), complete, waiting


def requeue(study: optuna.Study, space: Mapping[str, BaseDistribution]) -> int:
    """Queue trials that were killed or failed once more, each set of values once, and return how many wait.

    A trial that was killed before all values of the space were drawn has nothing to try again. No other process may be at
    work on the study: a trial that is stored as running was killed.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    settled = _settled(trials)
    waiting = sum(trial.state == TrialState.WAITING for trial in trials)
    for trial in trials:
        values = _values(trial)
        if trial.state == TrialState.FAIL and set(values) == set(space) and values not in settled:
            study.enqueue_trial(values)
            settled.append(values)
            waiting += 1
    return waiting


def _settled(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Return the values of trials that are complete or wait."""
    return [_values(trial) for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.WAITING)]


def _values(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's values, also those that it was queued with and has not taken yet."""
    return dict(trial.system_attrs.get("fixed_params", trial.params))


def run_trial(index: int, *, spec: SearchSpec, total: int) -> None:
    """Ask the study for values, run them and tell it their score; whatever happens, the next trial goes on.

    Args:
        index: of the trial among those that this command runs.
        spec: of the search.
        total: trials that this command runs.
    """
    study = spec.study(index)
    trial = study.ask(spec.space)
    shown = ", ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
    print(f"{time.strftime('%H:%M')} [{index + 1}/{total}] trial {trial.number}: {shown} ...", flush=True)
    jobs = spec.jobs(trial.params)
    try:
        for job in jobs:
            execute(job, spec.threads)
        reasons = [why for job in jobs if (why := why_not(job))]
        value = None if reasons else float(np.mean([best_validation(job.folder) for job in jobs]))
        why = reasons[0] if reasons else None
    except Exception as error:  # noqa: BLE001 - whatever it is, the other trials go on
        value, why = None, f"{type(error).__name__}: {error}"
    if value is None:
        trial.set_user_attr("error", why)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)
    result = f"failed: {why}" if why else f"validation macro-F1 {value:.2f} (best {study.best_value:.2f})"
    print(f"{time.strftime('%H:%M')} [{index + 1}/{total}] trial {trial.number}: {result}", flush=True)


def best_validation(folder: Path) -> float:
    """Return the best validation macro-F1 of a finished run.

    Raises:
        ValueError: it has none.
    """
    history = read_json(folder / "metrics.json")["history"]
    if not history:
        raise ValueError(
            f"{folder} has no validation macro-F1: a system that is not trained in epochs cannot be searched"
        )
    # Older runs call it dev_macro_f1.
    return max(float(row[key]) for row in history for key in ("validation_macro_f1", "dev_macro_f1") if key in row)


def report(spec: SearchSpec, wanted: int, command: str) -> int:
    """Write and print a search's table, figure and best overrides.

    Args:
        spec: of the search.
        wanted: trials that should be complete.
        command: the command line that runs the search again.

    Returns:
        1 while trials are missing, else 0.
    """
    trials = spec.study().get_trials(deepcopy=False)
    complete = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: -_value(t))
    settled = _settled(trials)
    failed = [
        t for t in trials if t.state == TrialState.FAIL and set(t.params) == set(spec.space) and t.params not in settled
    ]
    cells = trial_cells(list(spec.space), complete, failed)
    best = shlex.join(["python", "-m", "mmprofile.train", *spec.overrides(complete[0].params)]) if complete else None
    reasons = "\n".join(f"- trial {t.number}: {t.user_attrs.get('error', 'killed')}" for t in failed)
    title = f"Search {spec.folder.name}"
    figure = ["![Validation macro-F1 of every trial](table.png)"] if complete else []
    text = [f"# {title}", markdown(cells), reasons, *figure, f"Best: `{best}`", f"Made by `{command}`."]
    write_text(spec.folder / "table.md", "\n\n".join(part for part in text if part) + "\n")
    rows = [trial_row(spec, trial) for trial in (*complete, *failed)]
    write_json(spec.folder / "table.json", {"best": best, "command": command, "trials": rows})
    write_text(spec.folder / "table.tex", latex(title, cells))
    with (spec.folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([cells.titles, *cells.rows])
    print_cells(title, cells)
    print(reasons)
    if best:
        save_figure(draw_trials(complete), spec.folder / "table.png")
        print(f"best: {best}")
    print(f"{spec.folder}/table.md, .csv, .json, .tex, .png", flush=True)
    return int(len(complete) < wanted)


def trial_cells(keys: Sequence[str], complete: Sequence[FrozenTrial], failed: Sequence[FrozenTrial]) -> Cells:
    """Return a line per trial: its number, value and overrides."""
    rows = [[str(t.number), f"{_value(t):.2f}", *(_short(t.params[key]) for key in keys)] for t in complete]
    rows += [[str(t.number), "failed", *(_short(t.params.get(key, NOT_MEASURED)) for key in keys)] for t in failed]
    return Cells(["trial", "validation macro-F1", *keys], rows)


def trial_row(spec: SearchSpec, trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as it stands in ``table.json``."""
    return {
        "trial": trial.number,
        "validation_macro_f1": trial.value,
        "params": trial.params,
        "runs": [str(job.folder) for job in spec.jobs(trial.params)],
        "error": None if trial.state == TrialState.COMPLETE else trial.user_attrs.get("error", "killed"),
    }


def draw_trials(complete: Sequence[FrozenTrial]) -> Figure:
    """Draw the value of every trial, and the best so far."""
    trials = sorted(complete, key=lambda t: t.number)
    numbers, values = [t.number for t in trials], [_value(t) for t in trials]
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(numbers, values, color="#0072b2", label="trial")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color="#e69f00", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("validation macro-F1 (0-100)")
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
    """Check that a study's trials belong together.

    Raises:
        UserError: the folder holds a search with other settings.
    """
    text = json.dumps(settings, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path.parent} holds a search with other settings: delete it, or choose another out=")
    write_text(path, text)
