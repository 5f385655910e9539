"""Figures of hand-made runs, which can be computed another way."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmprofile.errors import UserError
from mmprofile.profile.metrics import count, resample_weights, score
from mmprofile.profile.schema import Profile, Schema
from mmprofile.profile.significance import paired_bootstrap, score_seeds
from mmprofile.sweep.jobs import Job
from mmprofile.sweep.rendering import list_cells
from mmprofile.sweep.results import collect
from mmprofile.sweep.tables import Planned, RowConfig
from tests.support.sweeps import USERS, MakeRun, planned, predictions, profiles

pytestmark = pytest.mark.fast


def test_seeds_are_averaged_within_each_resample(schema: Schema, gold: list[Profile]) -> None:
    runs = [profiles(schema, seed, gold, 0.5) for seed in (1, 2, 3)]
    scores = score_seeds(schema, gold, runs, resamples=200, seed=4)
    drawn = []
    for weights in next(resample_weights(USERS, 200, 4)):
        users = np.repeat(np.arange(USERS), weights.astype(int))
        one = [score(schema, [gold[u] for u in users], [run[u] for u in users], resamples=0) for run in runs]
        drawn.append(np.mean([s.macro_f1 for s in one]))
    assert scores.macro_f1 == pytest.approx(np.mean([score(schema, gold, run, resamples=0).macro_f1 for run in runs]))
    assert scores.interval == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    stars = np.mean([score(schema, gold, run, resamples=0).per_attribute["Stars"].macro_f1 for run in runs])
    assert scores.per_attribute["Stars"][0] == pytest.approx(stars)
    alone = score(schema, gold, runs[0], resamples=200, seed=4)
    assert score_seeds(schema, gold, runs[:1], resamples=200, seed=4).interval == pytest.approx(alone.interval)
    assert count(schema, gold, gold).fp.sum() == 0


def test_figures_are_those_of_a_direct_computation(schema: Schema, gold: list[Profile], make_run: MakeRun) -> None:
    good = [make_run(f"good{seed}", 0.8, seed) for seed in (0, 1)]
    poor = [make_run(f"poor{seed}", 0.1, seed, "text") for seed in (0, 1, 2)]
    rows = [
        planned(RowConfig("good"), *good),
        planned(RowConfig("poor"), *poor),
        Planned(RowConfig("c", baseline="ceiling"), []),
    ]
    first, second, ceiling = collect(rows, "good", 300)
    test = paired_bootstrap(schema, gold, list(map(predictions, poor)), list(map(predictions, good)), resamples=300)
    assert (second.delta, second.p_vs_reference, second.reference) == (test.delta, test.p, "good")
    assert test.p < 0.05
    assert first.p_vs_reference is None
    assert second.macro_f1 == pytest.approx(np.mean(second.seeds))
    assert second.macro_f1 - first.macro_f1 == pytest.approx(test.delta)
    assert second.minutes == pytest.approx((1.5 + 2.5 + 3.5) / 3)  # without preparation
    assert (second.peak_memory_gb, second.n_parameters) == (3.0, 2_000_000)
    assert (second.unpaired, second.decoder) == (11.0, 21.0)
    assert (ceiling.macro_f1, ceiling.interval) == (90.0, [88.0, 92.0])


def test_runs_on_different_users_are_not_compared(make_run: MakeRun) -> None:
    rows = [planned(RowConfig("a"), make_run("a", 0.5)), planned(RowConfig("b"), make_run("b", 0.5, ids="other"))]
    with pytest.raises(UserError, match=r"a and .*b were tested on different users"):
        collect(rows, None, 10)


def test_a_missing_label_is_no_label_however_it_was_written(make_run: MakeRun) -> None:
    """Earlier versions wrote an empty list; to the scores it is the same."""
    old, new = make_run("old", 0.5), make_run("new", 0.5)
    for folder in (old, new):
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for row in rows[:5]:
            row["gold"] |= {"Stars": []}
            if folder == new:
                del row["gold"]["Stars"]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = collect([planned(RowConfig("old"), old), planned(RowConfig("new"), new)], None, 10)
    assert (first.macro_f1, first.per_attribute) == (second.macro_f1, second.per_attribute)


def test_a_run_that_is_missing_is_a_row_with_a_reason(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "failure.txt").write_text("no such file: x\n")
    need = Job("train", (), tmp_path / "bad")
    rows = [
        planned(RowConfig("fine"), make_run("fine", 0.5)),
        planned(RowConfig("bad"), make_run("half", 0.5), tmp_path / "bad"),
        planned(RowConfig("never"), tmp_path / "nowhere"),
        Planned(RowConfig("later"), [Job("apply", (), tmp_path / "later", (need,))]),
    ]
    fine, bad, never, later = collect(rows, "bad", 10)
    assert fine.error is None
    assert fine.p_vs_reference is None  # the reference has no figures
    assert (bad.error, never.error) == ("no such file: x", "not run")
    assert later.error == "bad, which it reads: no such file: x"
    assert list_cells([fine, bad]).rows[1][1] == "failed"
