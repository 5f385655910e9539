"""What the shipped tables ask for, and mistakes in a table."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.sweep.tables import LAYOUTS, RowConfig, TableConfig, effective, load_table, plan

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
