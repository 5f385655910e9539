"""From finished runs to figures: means over seeds, intervals, paired tests. All rows must be tested on the same users."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmprofile.config.compose import read_run_config
from mmprofile.errors import UserError
from mmprofile.evaluate.rows import profiles, read_predictions
from mmprofile.files import MALFORMED, read_json
from mmprofile.inputs.data import run_schema
from mmprofile.profile.schema import Profile, Schema
from mmprofile.profile.significance import paired_bootstrap, score_seeds
from mmprofile.sweep.jobs import why_not
from mmprofile.sweep.tables import Planned, RowConfig


@dataclass(frozen=True)
class ScoredRun:
    """A finished run.

    Attributes:
        folder: of the run.
        metrics: its ``metrics.json``.
        schema: of its profiles.
        ids: the test users.
        gold: their gold profiles, in the order of ``ids``.
        parsed: their predicted profiles, in the same order.
    """

    folder: Path
    metrics: dict[str, Any]
    schema: Schema
    ids: list[str]
    gold: list[Profile]
    parsed: list[Profile]


@dataclass
class Result:
    """A row of figures. Scores are 0-100; a figure is None where it is not known.

    Attributes:
        row: of the table.
        runs: folders of its runs.
        error: why it has no figures at all.
        left_out: it has an error, but nothing went wrong.
        macro_f1: mean over seeds.
        interval: 95 % bootstrap interval of it.
        per_attribute: attribute -> its ``macro_f1`` and ``interval``.
        seeds: macro-F1 of each seed.
        unpaired: macro-F1 with other users' photos.
        decoder: macro-F1 of the decoder alone, of a model with auxiliary classifiers.
        reference: the system that the row is tested against.
        delta: difference from it.
        p_vs_reference: p value of that difference.
        parse_fault_rate: share of answers with a part that the parser did not understand.
        n_parameters: of the model.
        minutes: of training and evaluation.
        peak_memory_gb: the most of any seed.
    """

    row: RowConfig
    runs: list[str] = field(default_factory=list)
    error: str | None = None
    left_out: bool = False
    macro_f1: float | None = None
    interval: tuple[float, float] | None = None
    per_attribute: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[float] = field(default_factory=list)
    unpaired: float | None = None
    decoder: float | None = None
    reference: str | None = None
    delta: float | None = None
    p_vs_reference: float | None = None
    parse_fault_rate: float | None = None
    n_parameters: int | None = None
    minutes: float | None = None
    peak_memory_gb: float | None = None


def read_run(folder: Path) -> ScoredRun:
    """Read a finished run.

    Raises:
        UserError: it is not finished, or not whole.
    """
    try:
        metrics = read_json(folder / "metrics.json")
        _check_metrics(metrics)
    except OSError as error:
        raise UserError(f"{folder}: no finished run there ({error.strerror}: {error.filename})") from error
    except MALFORMED as error:
        raise UserError(f"{folder / 'metrics.json'}: these are no scores of a run ({error!r}); run it again") from error
    predictions, schema = read_predictions(folder), run_schema(folder, read_run_config(folder))
    return ScoredRun(
        folder=folder,
        metrics=metrics,
        schema=schema,
        ids=[row["user_id"] for row in predictions],
        # Nothing is scored where a label is missing, which earlier versions wrote as an empty list.
        gold=[{n: v for n, v in profile.items() if v} for profile in profiles(predictions, "gold")],
        parsed=profiles(predictions, "parsed"),
    )


def _check_metrics(metrics: Any) -> None:
    """Check that the figures that tables need are there.

    Raises:
        KeyError, TypeError, AttributeError: they are not, or are no numbers.
    """
    test, baselines = metrics["test"], metrics.get("baselines", {}).values()
    scores = [part["macro_f1"] for part in (test, *baselines)]
    scores += [part["macro_f1"] for name in ("unpaired", "decoder") if (part := test.get(name))]
    seconds = [value for value in metrics["seconds"].values() if value is not None]
    sum([*scores, test["parse_fault_rate"], *seconds, metrics.get("peak_rss_mb") or 0])
    for part in baselines:
        for named in part["per_attribute"].values():
            named.get("macro_f1")


def collect(planned: Sequence[Planned], reference: str | None, resamples: int) -> list[Result]:
    """Return the figures of every row.

    Args:
        planned: the rows; a row with a run that is not finished gets an error.
        reference: the system that a row is tested against if it names none itself.
        resamples: of intervals and tests.

    Raises:
        UserError: the runs were not tested on the same users.
    """
    results, runs = [], dict[str, list[ScoredRun]]()
    for plan in planned:
        error, reasons = plan.error, [why for job in plan.jobs if (why := why_not(job))]
        if not error and reasons:
            error = "; ".join(dict.fromkeys(reasons))
        folders = [str(job.folder) for job in plan.jobs]
        results.append(Result(plan.row, folders, error=error, left_out=plan.left_out))
        if not error and plan.jobs:
            runs[plan.row.system] = [read_run(job.folder) for job in plan.jobs]
    every = [run for group in runs.values() for run in group]
    check_users(every)
    for result in results:
        if result.error is None and result.row.baseline:
            _take_baseline(result, every)
        elif result.error is None:
            _measure(result, runs, result.row.reference or reference, resamples)
    return results


def check_users(runs: Sequence[ScoredRun]) -> None:
    """Check that the runs can be compared.

    Raises:
        UserError: users, their gold profiles or the schemas differ.
    """
    for run in runs[1:]:
        if (run.ids, run.gold, run.schema) != (runs[0].ids, runs[0].gold, runs[0].schema):
            raise UserError(
                f"{runs[0].folder} and {run.folder} were tested on different users: compare runs over one prepared data "
                f"set, schema and split"
            )


def _take_baseline(result: Result, runs: Sequence[ScoredRun]) -> None:
    """Fill in a baseline's figures. They depend on the data alone, so any run that knows them will do."""
    entries = [scores for run in runs if (scores := run.metrics.get("baselines", {}).get(result.row.baseline))]
    if not entries:
        result.error, result.left_out = f"no finished run tells a {result.row.baseline}", True
        return
    result.macro_f1, result.interval = entries[0]["macro_f1"], entries[0].get("interval")
    names = ("macro_f1", "interval")
    result.per_attribute = {
        attribute: {name: scores.get(name) for name in names}
        for attribute, scores in entries[0]["per_attribute"].items()
    }


def _measure(result: Result, runs: Mapping[str, list[ScoredRun]], reference: str | None, resamples: int) -> None:
    """Fill in the figures of a trained row.

    Args:
        result: to fill in.
        runs: system -> its runs.
        reference: the system to test against; None, or one without runs: no test.
        resamples: of intervals and tests.
    """
    own_runs = runs[result.row.system]
    schema, gold, parsed = own_runs[0].schema, own_runs[0].gold, [run.parsed for run in own_runs]
    scores = score_seeds(schema, gold, parsed, resamples=resamples)
    result.macro_f1, result.interval = scores.macro_f1, scores.interval
    result.per_attribute = {
        name: {"macro_f1": value, "interval": interval} for name, (value, interval) in scores.per_attribute.items()
    }
    metrics = [run.metrics for run in own_runs]
    tests = [run_metrics["test"] for run_metrics in metrics]
    result.seeds = [test["macro_f1"] for test in tests]
    result.parse_fault_rate = float(np.mean([test["parse_fault_rate"] for test in tests]))
    result.unpaired = _mean([test.get("unpaired", {}).get("macro_f1") for test in tests])
    result.decoder = _mean([test.get("decoder", {}).get("macro_f1") for test in tests])
    result.n_parameters = metrics[0].get("n_parameters")
    result.minutes = _mean([_minutes(run_metrics["seconds"]) for run_metrics in metrics])
    memory = [run_metrics["peak_rss_mb"] for run_metrics in metrics if run_metrics.get("peak_rss_mb")]
    result.peak_memory_gb = max(memory) / 1024 if memory else None
    if reference is not None and reference in runs and reference != result.row.system:
        reference_parsed = [run.parsed for run in runs[reference]]
        test = paired_bootstrap(schema, gold, parsed, reference_parsed, resamples=resamples)
        result.reference, result.delta, result.p_vs_reference = reference, test.delta, test.p


def _minutes(seconds: Mapping[str, float | None]) -> float:
    """Return a run's time without preparation, which is done once for all rows."""
    return sum(value for step, value in seconds.items() if step != "prepare" and value is not None) / 60


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
