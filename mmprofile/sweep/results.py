"""From finished runs to figures: means over seeds, intervals, paired tests. Every row must have been tested on the same users."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from mmprofile.errors import UserError
from mmprofile.profile.schema import Profile, Schema
from mmprofile.profile.significance import paired_bootstrap, score_seeds
from mmprofile.sweep.jobs import why_not
from mmprofile.sweep.tables import Planned, RowConfig


class Run(NamedTuple):
    """A finished run: what its folder holds, in the order of ``ids``."""

    folder: Path
    metrics: dict[str, Any]
    schema: Schema
    ids: list[str]
    gold: list[Profile]
    parsed: list[Profile]


@dataclass
class Result:
    """A row of figures, 0-100 where they are scores; None where there is none. ``error``: why there are none at
    all; ``left_out``: nothing went wrong."""

    row: RowConfig
    runs: list[str] = field(default_factory=list)
    error: str | None = None
    left_out: bool = False
    macro_f1: float | None = None
    interval: tuple[float, float] | None = None
    per_attribute: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[float] = field(default_factory=list)
    unpaired: float | None = None
    reference: str | None = None
    delta: float | None = None
    p_vs_reference: float | None = None
    parse_fault_rate: float | None = None
    n_parameters: int | None = None
    minutes: float | None = None
    peak_memory_gb: float | None = None


def read_run(folder: Path) -> Run:
    """A finished run.

    Raises:
        UserError: it is not finished, or not whole.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
        profile = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml").profile)
    except OSError as error:
        raise UserError(f"{folder}: no finished run there ({error.strerror}: {error.filename})") from error
    users = [json.loads(line) for line in lines if line]

    def profiles(key: str) -> list[Profile]:
        return [{name: tuple(values) for name, values in user[key].items()} for user in users]

    schema = Schema.from_dict(profile)  # type: ignore[arg-type]
    return Run(folder, metrics, schema, [user["user_id"] for user in users], profiles("gold"), profiles("parsed"))


def collect(planned: Sequence[Planned], reference: str | None, resamples: int) -> list[Result]:
    """The figures of every row.

    Args:
        planned: the rows; runs that are not finished make their row one with an error.
        reference: the system that rows are tested against which do not name one themselves.
        resamples: of intervals and tests.

    Raises:
        UserError: the runs were not tested on the same users.
    """
    results, runs = [], dict[str, list[Run]]()
    for row, jobs, error, left_out in planned:
        reasons = {job.folder.name: why for job in jobs if (why := why_not(job))}
        if not error and reasons:
            error = "; ".join(dict.fromkeys(reasons.values()))
        result = Result(row, [str(job.folder) for job in jobs], error, left_out)
        results.append(result)
        if not error and jobs:
            runs[row.system] = [read_run(job.folder) for job in jobs]
    check_users([run for group in runs.values() for run in group])
    for result in results:
        if result.error is None and result.row.baseline:
            _take_baseline(result, [run for group in runs.values() for run in group])
        elif result.error is None:
            _measure(result, runs, result.row.reference or reference, resamples)
    return results


def check_users(runs: Sequence[Run]) -> None:
    """Whether the runs can be compared.

    Raises:
        UserError: users, their gold profiles or the schemas differ.
    """
    for run in runs[1:]:
        if (run.ids, run.gold, run.schema) != (runs[0].ids, runs[0].gold, runs[0].schema):
            raise UserError(
                f"{runs[0].folder} and {run.folder} were tested on different users: compare runs over one prepared data "
                f"set, schema and split"
            )


def _take_baseline(result: Result, runs: Sequence[Run]) -> None:
    """The same in every run that knows it: it depends on the data alone."""
    found = [scores for run in runs if (scores := run.metrics.get("baselines", {}).get(result.row.baseline))]
    if not found:
        result.error, result.left_out = f"no finished run tells a {result.row.baseline}", True
        return
    result.macro_f1, result.interval = found[0]["macro_f1"], found[0].get("interval")
    names = ("macro_f1", "interval")
    result.per_attribute = {key: {n: one.get(n) for n in names} for key, one in found[0]["per_attribute"].items()}


def _measure(result: Result, runs: Mapping[str, list[Run]], reference: str | None, resamples: int) -> None:
    mine = runs[result.row.system]
    schema, gold, parsed = mine[0].schema, mine[0].gold, [run.parsed for run in mine]
    scores = score_seeds(schema, gold, parsed, resamples=resamples)
    result.macro_f1, result.interval = scores.macro_f1, scores.interval
    result.per_attribute = {
        name: {"macro_f1": value, "interval": interval} for name, (value, interval) in scores.per_attribute.items()
    }
    metrics = [run.metrics for run in mine]
    tests = [one["test"] for one in metrics]
    result.seeds = [test["macro_f1"] for test in tests]
    result.parse_fault_rate = float(np.mean([test["parse_fault_rate"] for test in tests]))
    result.unpaired = _mean([test.get("unpaired", {}).get("macro_f1") for test in tests])
    result.n_parameters = metrics[0].get("n_parameters")
    # Preparation is left out: it is done once for all rows.
    seconds = [one["seconds"] for one in metrics]
    result.minutes = _mean([sum(v for k, v in one.items() if k != "prepare" and v is not None) / 60 for one in seconds])
    memory = [one["peak_rss_mb"] for one in metrics if one.get("peak_rss_mb")]
    result.peak_memory_gb = max(memory) / 1024 if memory else None
    if reference is not None and reference in runs and reference != result.row.system:
        theirs = [run.parsed for run in runs[reference]]
        test = paired_bootstrap(schema, gold, parsed, theirs, resamples=resamples)
        result.reference, result.delta, result.p_vs_reference = reference, test.delta, test.p


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
