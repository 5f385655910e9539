"""Tables of hand-made runs, whose figures can be computed another way; and what the shipped tables ask for."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.profile.metrics import count, resample_weights, score
from mmprofile.profile.schema import Profile, Schema
from mmprofile.profile.significance import paired_bootstrap, score_seeds
from mmprofile.sweep.jobs import Job, slug
from mmprofile.sweep.rendering import grid_cells, list_cells, tex, write_table
from mmprofile.sweep.results import Result, collect
from mmprofile.sweep.run import main
from mmprofile.sweep.tables import LAYOUTS, Planned, RowConfig, TableConfig, effective, load_table, plan

USERS = 40
MakeRun = Callable[..., Path]


def profiles(schema: Schema, seed: int, like: Sequence[Profile] = (), share: float = 0.0) -> list[Profile]:
    """Random profiles; each value is that of ``like`` with probability ``share``."""
    rng = np.random.default_rng(seed)
    made = []
    for user in range(USERS):
        one: Profile = {}
        for a in schema.attributes:
            drawn = a.canonical(rng.choice(a.values, a.size, replace=False).tolist())
            one[a.name] = like[user][a.name] if like and rng.random() < share else drawn
        made.append(one)
    return made


@pytest.fixture
def gold(schema: Schema) -> list[Profile]:
    return profiles(schema, 0)


@pytest.fixture
def make_run(tmp_path: Path, schema: Schema, gold: list[Profile]) -> MakeRun:
    """``make_run(name, share, seed, paradigm, ids)``: a run's folder whose predictions are right with probability share."""

    def make(name: str, share: float, seed: int = 0, paradigm: str = "both", ids: str = "user") -> Path:
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        parsed = profiles(schema, 100 + seed, gold, share)
        lines = [
            {"user_id": f"{ids}-{i}", "gold": g, "text": schema.render(p), "parsed": p, "faults": []}
            for i, (g, p) in enumerate(zip(gold, parsed, strict=True))
        ]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = load_config("train", [f"paradigm={paradigm}", f"seed={seed}", f"name={name}"])
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
        test = score(schema, gold, parsed, resamples=0).to_dict()
        test["unpaired"] = {"macro_f1": 10.0 + seed}
        metrics = {
            "test": test,
            "baselines": {"ceiling": {"macro_f1": 90.0, "interval": [88.0, 92.0], "per_attribute": {}}},
            "seconds": {"prepare": 600.0, "train": 60.0 * (seed + 1), "evaluate": 30.0},
            "peak_rss_mb": 1024.0 * (seed + 1),
            "n_parameters": 2_000_000,
            "config": {"paradigm": paradigm},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return make


def planned(row: RowConfig, *folders: Path) -> Planned:
    return Planned(row, [Job("train", (), folder) for folder in folders])


def predictions(folder: Path) -> list[Profile]:
    rows = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    return [{name: tuple(values) for name, values in row["parsed"].items()} for row in rows]


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
    assert (second.peak_memory_gb, second.unpaired, second.n_parameters) == (3.0, 11.0, 2_000_000)
    assert (ceiling.macro_f1, ceiling.interval) == (90.0, [88.0, 92.0])


def test_runs_on_different_users_are_not_compared(make_run: MakeRun) -> None:
    rows = [planned(RowConfig("a"), make_run("a", 0.5)), planned(RowConfig("b"), make_run("b", 0.5, ids="other"))]
    with pytest.raises(UserError, match=r"a and .*b were tested on different users"):
        collect(rows, None, 10)


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


def test_files_of_a_list(make_run: MakeRun, tmp_path: Path) -> None:
    paper = {"mean": 53.91, "Stars": 53.44}
    rows = [
        planned(RowConfig("good", "A & B_1", paper=paper), make_run("good", 0.9)),
        planned(RowConfig("poor", "poor | x"), make_run("poor", 0.1)),
        Planned(RowConfig("gpt"), [], "left out; give a file", True),
    ]
    results = collect(rows, "good", 200)
    write_table(tmp_path / "t", TableConfig("Table 9: 100 %", note="A note."), results, "make")
    found = json.loads((tmp_path / "t" / "table.json").read_text())
    assert [row["system"] for row in found["rows"]] == ["good", "poor", "gpt"]
    wanted = {"system", "macro_f1", "interval", "p_vs_reference", "parse_fault_rate", "minutes", "paper", "error"}
    assert all(wanted <= set(row) for row in found["rows"])
    assert found["rows"][0]["paper"] == paper
    assert found["rows"][1]["p_vs_reference"] < 0.05
    text = (tmp_path / "t" / "table.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| poor"))
    assert line.startswith(f"| poor \\| x | {results[1].macro_f1:.2f} | ")
    assert f"{results[1].delta:+.2f}\\*\\* (p = 0.0050)" in line
    assert "against A & B_1" in text
    assert "- gpt: left out; give a file" in text
    assert "Data and weights differ" in text
    assert text.count("A note.") == 1
    with (tmp_path / "t" / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[1]["macro_f1"]) == results[1].macro_f1
    assert (table[0]["paper mean"], table[2]["macro_f1"], table[2]["error"]) == ("53.91", "", "left out; give a file")
    latex = (tmp_path / "t" / "table.tex").read_text()
    assert r"A \& B\_1 & " in latex
    assert r"\caption{Table 9: 100 \%}" in latex
    columns = re.search(r"\\begin\{tabular\}\{(l?r*)\}", latex)
    assert columns is not None
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 4
    assert all(len(re.findall(r"(?<!\\)&", line)) + 1 == len(columns[1]) for line in body)
    assert Image.open(tmp_path / "t" / "table.png").size[0] > 600


def test_latex_escapes() -> None:
    assert tex(r"50 % of A&B_c #1 $x^2$ {~\}") == (
        r"50 \% of A\&B\_c \#1 \$x\textasciicircum{}2\$ \{\textasciitilde{}\textbackslash{}\}"
    )


def test_a_grid_has_gains_and_the_papers_figures(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"run{i}", share, i) for i, share in enumerate((0.2, 0.8, 0.5))]
    rows = [
        planned(RowConfig("a0", line="A", column="basic", paper={"mean": 40.0}), runs[0]),
        planned(RowConfig("a1", line="A", column="joint", reference="a0", paper={"mean": 42.5}), runs[1]),
        planned(RowConfig("all", line="B"), runs[2]),
        Planned(RowConfig("c0", line="C", column="basic"), [], "broken"),
    ]
    table = TableConfig("Grid", layout="grid", gain=True)
    results = collect(rows, None, 100)
    cells = grid_cells(table, results)
    assert cells.titles == ["", "basic", "joint", "gain", "basic (paper)", "joint (paper)", "gain (paper)"]
    first = [f"{results[i].macro_f1:.2f}" for i in (0, 1, 2)]
    assert results[0].macro_f1 is not None
    assert results[1].macro_f1 is not None
    assert cells.rows[0][0] == "A"
    assert cells.rows[0][1].startswith(f"{first[0]} (")
    assert cells.rows[0][2].startswith(f"{first[1]}**")
    assert cells.rows[0][3:] == [f"{results[1].macro_f1 - results[0].macro_f1:+.2f}", "40.00", "42.50", "+2.50"]
    assert cells.rows[1][1] == cells.rows[1][2]  # without a column: the same in all
    assert cells.rows[1][1].startswith(first[2])
    assert cells.rows[2][1:4] == ["failed", "-", "-"]
    write_table(tmp_path / "g", table, results, "make")
    assert "## Every cell" in (tmp_path / "g" / "table.md").read_text()
    assert Image.open(tmp_path / "g" / "table.png").size[1] > 200


def test_curves_are_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [planned(RowConfig(f"x{i}", line="photos", x=float(i)), make_run(f"x{i}", 0.2 * i, i)) for i in range(3)]
    rows.append(Planned(RowConfig("x3", line="photos", x=3.0), [], "broken"))
    write_table(tmp_path / "f", TableConfig("Curves", layout="curves"), collect(rows, None, 50), "make")
    assert Image.open(tmp_path / "f" / "table.png").size[0] > 400


def test_no_figure_without_figures(tmp_path: Path) -> None:
    write_table(tmp_path / "n", TableConfig("None"), [Result(RowConfig("a"), error="broken")], "make")
    assert not (tmp_path / "n" / "table.png").exists()
    assert "| a | failed |" in (tmp_path / "n" / "table.md").read_text()


def test_runs_that_are_there_are_rendered(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        make_run(f"both{seed}", 0.9, seed)
        make_run(f"text{seed}", 0.2, seed, "text")
    monkeypatch.chdir(tmp_path)
    assert main(["runs=made/*", "reference=text", "resamples=200", "out=o"]) == 0
    found = {
        row["system"]: row for row in json.loads((tmp_path / "o" / "runs-table" / "table.json").read_text())["rows"]
    }
    assert list(found) == ["majority", "tfidf_lr", "both", "text", "ceiling"]
    assert len(found["both"]["seeds"]) == 2
    assert found["both"]["reference"] == "text"
    assert found["both"]["p_vs_reference"] < 0.05
    assert found["majority"]["left_out"]
    assert f"{found['both']['macro_f1']:.2f}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"'basic' is no row; rows: .*both, text"):
        main(["runs=made/*", "reference=basic", "out=o"])
    with pytest.raises(UserError, match="gone: no finished run there"):
        main(["runs=gone", "out=o"])


SHIPPED = sorted((kind, path.stem) for kind in ("table", "figure") for path in (conf_dir() / kind).glob("*.yaml"))


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_row_of_the_shipped_tables_composes(kind: str, name: str, tmp_path: Path) -> None:
    table = load_table(kind, name)
    assert table.layout in LAYOUTS
    rows = plan(table, [], {}, 2, tmp_path)
    assert {row.row.system: row.error for row in rows if row.error and not row.left_out} == {}
    assert all(len(row.jobs) == 2 for row in rows if not row.row.baseline and not row.left_out)
    folders = [tuple(job.folder for job in row.jobs) for row in rows if row.jobs]
    assert len(set(folders)) == len(folders)


def test_tables_share_their_runs(tmp_path: Path) -> None:
    def folder(name: str, system: str, *common: str) -> Path:
        table = load_table("table", name)
        table.rows = [row for row in table.rows if row.system == system]
        return plan(table, common, {}, 1, tmp_path)[0].jobs[0].folder

    ours = folder("2", "ours", "data=demo", "model.size=tiny")
    assert ours == tmp_path / "runs" / "ours-both-seed0"
    assert folder("3", "both") == folder("7", "ours_joint") == ours
    assert folder("4", "multi_all") == folder("3", "multi")
    assert folder("4", "text_only") == folder("2", "flan_t5")
    assert folder("4", "multi_fusion") == folder("7", "ours_basic") == folder("3", "fusion")
    assert folder("2", "ours", "experiment=smoke") != ours


def test_a_run_is_named_by_what_defines_it() -> None:
    assert slug("train", ["paradigm=both", "model=ours", "seed=2"]) == "ours-both-seed2"
    views = [slug("train", ["model=ours", f"paradigm.views=[{v}]", "seed=0"]) for v in ("fusion", "fusion,text")]
    assert re.fullmatch(r"ours-views-\+?fusion\+?-[0-9a-f]{8}-seed0", views[0])
    assert len(set(views)) == 2
    assert slug("train", ["a.x=1", "b.y=2", "seed=0"]) == slug("train", ["b.y=2", "a.x=1", "seed=0"])
    assert slug("train", ["a.x=1", "seed=0"]) != slug("train", ["b.x=1", "seed=0"])
    assert slug("train", ["a.x=1", "seed=0"]) != slug("apply", ["a.x=1", "seed=0"])
    assert len(slug("train", [f"text.name={'x' * 300}", "seed=0"])) < 100


def test_overrides_that_change_nothing_name_no_other_run() -> None:
    cfg, words = effective(
        "train", ["data=demo", "model.size=tiny", "inputs.reviews=2"], ["model=ours", "paradigm=both"]
    )
    assert words == ["inputs.reviews=2", "model=ours", "paradigm=both"]
    assert (cfg.inputs.reviews, cfg.model.name) == (2, "ours")
    assert effective("train", ["model.size=tiny"], ["model=majority"])[1] == ["model=majority"]  # it has no sizes
    assert effective("train", ["inputs.reviews=2"], ["inputs.reviews=4"])[0].inputs.reviews == 4
    with pytest.raises(UserError, match=re.escape("model.size=huge: model ours has the sizes tiny, base, large")):
        effective("train", ["model.size=huge"], ["model=ours"])


def test_a_finished_run_with_other_settings_does_not_stand_for_a_row(tmp_path: Path) -> None:
    table = TableConfig("t", rows=[RowConfig("a", overrides=["model=ours"])])
    (job,) = plan(table, [], {}, 1, tmp_path)[0].jobs
    job.folder.mkdir(parents=True)
    (job.folder / "metrics.json").write_text("{}")
    config: Any = OmegaConf.create(OmegaConf.to_container(load_config("train", ["model=ours"])))
    (job.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert plan(table, [], {}, 1, tmp_path)[0].error is not None  # the name differs
    config.name = job.folder.name
    del config["inputs"]  # a key that came later is no other setting
    (job.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert plan(table, [], {}, 1, tmp_path)[0].error is None
    config.trainer.max_epochs = 99
    (job.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert "holds a run with other settings (trainer.max_epochs: 99 -> 7)" in str(
        plan(table, [], {}, 1, tmp_path)[0].error
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title: t\nrows: [{system: a}, {system: a}]", "system a is there twice"),
        ("title: t\nreference: b\nrows: [{system: a}]", "reference b is no row"),
        ("title: t\nlayout: pie\nrows: [{system: a}]", "layout pie is not one of list, grid, curves"),
        ("title: t\nrows: [{sistem: a}]", "sistem"),
        ("title: [", "mine.yaml"),
    ],
)
def test_tables_with_mistakes_are_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        load_table("table", str(tmp_path / "mine.yaml"))
