"""The report's text, table and figures, from a metrics mapping as written to ``metrics.json``."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmprofile.evaluate.score_table import print_scores, system_rows
from mmprofile.report.summary import draw_learning_curves, learning_curves, score_figure, write_report
from tests.support.runmetrics import example_metrics

pytestmark = pytest.mark.fast

HISTORY = [
    {"epoch": 0, "loss": 3.0, "validation_macro_f1": 20.0, "lr": 1e-4},
    {"epoch": 1, "loss": 2.0, "validation_macro_f1": None},
    {"epoch": 2, "loss": 1.5, "validation_macro_f1": 40.0},
]


@pytest.fixture
def metrics() -> dict[str, Any]:
    return example_metrics()


def cells(text: str, label: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_report_has_every_row_with_its_figures(tmp_path: Path, metrics: dict[str, Any]) -> None:
    write_report(tmp_path, metrics, HISTORY)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# both\n")
    order = [
        text.index(f"| {label} |") for label in ("majority class", "TF-IDF + LR", "this run", "this run, unpaired")
    ]
    assert order == sorted(order)
    assert cells(text, "system") == [
        "system", "Stars", "Favorite Category", "mean", "95 % interval", "parse faults"
    ]  # fmt: skip
    test = metrics["test"]
    low, high = test["interval"]
    assert cells(text, "this run") == [
        "this run",
        f"**{test['per_attribute']['Stars']['macro_f1']:.2f}**",
        f"**{test['per_attribute']['Favorite Category']['macro_f1']:.2f}**",
        f"**{test['macro_f1']:.2f}**",
        f"**{low:.2f} to {high:.2f}**",
        "**5.0 %**",
    ]
    assert cells(text, "TF-IDF + LR") == ["TF-IDF + LR", "40.00", "-", "41.26", "-", "-"]
    assert cells(text, "ceiling (true cues)")[1:] == ["100.00", "100.00", "100.00", "100.00 to 100.00", "0.0 %"]
    assert "paradigm both, model tiny, data demo, seed 0, 20 test users, 2.9 M parameters" in text
    assert "prepare 41.0 s, train 200.0 s, evaluate 9.5 s, peak memory 2.00 GB" in text
    assert f"{test['macro_f1']:.1f} % of the ceiling" in text
    assert f"{test['macro_f1'] - test['unpaired']['macro_f1']:+.2f} points" in text
    assert "(report.png)" in text
    assert "(learning_curve.png)" in text
    support = test["per_attribute"]["Stars"]["support"]
    assert f"({support['1']})" in text
    assert "3 - (0)" in text  # no user has it in gold: no F1


def test_figures_are_real_pictures(tmp_path: Path, metrics: dict[str, Any]) -> None:
    write_report(tmp_path, metrics, HISTORY)
    for name in ("report.png", "learning_curve.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()
            assert picture.width >= 600
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 5


def test_a_learning_curve_has_an_axis_for_each_kind_of_number() -> None:
    gates = {
        "gate/fusion": 0.5,
        "added/fusion": 0.75,
        "added/masked_image": 0.7,
        "support/fusion": 1.5,
        "zeros/fusion": 0,
    }
    history = [
        {"epoch": e, "loss": 1.0 / e, "validation_loss_paired": 0.5, "validation_macro_f1": 9.0 * e, "seconds": 3.0}
        | gates
        for e in (1, 2)
    ]
    axes = draw_learning_curves(learning_curves(history), "epoch").axes
    assert {one.get_ylabel(): [line.get_label() for line in one.lines] for one in axes} == {
        "loss": ["loss", "validation_loss_paired"],
        "macro-F1 (0-100)": ["validation_macro_f1"],
        "mean |gate * H*|": ["fusion", "masked_image"],
        "visual tokens attended to": ["fusion"],
    }
    assert [list(line.get_ydata()) for line in axes[2].lines] == [[0.75, 0.75], [0.7, 0.7]]
    assert len(draw_learning_curves(learning_curves([{"epoch": 1, "loss": 1.0}]), "epoch").axes) == 1


def test_histories_of_earlier_versions_are_drawn_under_todays_names() -> None:
    old = [{"epoch": 1, "loss": 1.0, "dev_loss_paired": 0.5, "dev_macro_f1": 9.0, "seconds": 3.0}]
    new = [{key.replace("dev_", "validation_"): value for key, value in row.items()} for row in old]
    assert learning_curves(old) == learning_curves(new)
    assert [curve.label for curve in learning_curves(old)] == ["loss", "validation_loss_paired", "validation_macro_f1"]


def test_bars_stand_at_the_scores_and_intervals_at_their_bounds(metrics: dict[str, Any]) -> None:
    systems = system_rows(metrics)
    axes = score_figure(systems, ["Stars", "Favorite Category"]).axes[0]
    heights = {
        bars.get_label(): [bar.get_height() for bar in bars]
        for bars in axes.containers
        if (bars.get_label() or "_")[0] != "_"
    }
    test = metrics["test"]
    expected = [test["per_attribute"][n]["macro_f1"] for n in ("Stars", "Favorite Category")] + [test["macro_f1"]]
    assert heights["this run"] == pytest.approx(expected)
    assert heights["TF-IDF + LR"] == pytest.approx([40.0, 41.256])
    tops = {round(float(line.get_ydata()[0]), 6) for line in axes.lines if len(line.get_ydata()) == 1}
    assert round(test["interval"][1], 6) in tops
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Stars", "Favorite\nCategory", "mean"]


def test_absent_parts_are_left_out(tmp_path: Path, metrics: dict[str, Any]) -> None:
    bare = {"test": copy.deepcopy(metrics["test"])}
    del bare["test"]["unpaired"]
    bare["test"]["interval"] = [None, None]
    for history in (None, [], [{"epoch": 0, "lr": 1.0}]):
        write_report(tmp_path, bare, history)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "ceiling (true cues)" not in text
    assert "| this run, unpaired |" not in text
    assert cells(text, "this run")[4] == "**-**"
    assert not (tmp_path / "learning_curve.png").exists()
    assert "Learning curve" not in text
    out = io.StringIO()
    print_scores(bare, file=out)
    assert "this run" in out.getvalue()


def test_same_metrics_same_bytes(tmp_path: Path, metrics: dict[str, Any]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, metrics, HISTORY)
    for name in ("report.md", "report.png", "learning_curve.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
