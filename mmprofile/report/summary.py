"""``report.md`` with its figures: the scores of a run and its learning curve.

Everything is read from the mapping that ``metrics.json`` holds; absent parts are left out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmprofile.evaluate.plots import clean_axes, save_figure
from mmprofile.evaluate.score_table import (
    LEGEND,
    NOT_MEASURED,
    ORDER,
    ORDER_LEGEND,
    THIS_RUN,
    UNPAIRED,
    SystemRow,
    format_percent,
    format_score,
    order_cells,
    run_notes,
    system_rows,
)
from mmprofile.files import write_text

AXES = {
    "loss": "loss",
    "validation_loss_": "loss",
    "validation_macro_f1": "macro-F1 (0-100)",
    "added/": "mean |gate * H*|",
    "support/": "visual tokens attended to",
}
"""A key of a history, or the beginning of several where it ends in ``_`` or ``/`` -> the axis that it is drawn on."""
# Okabe and Ito's palette: told apart with any colour vision, and by lightness in print.
_COLOURS = {"majority": "#bbbbbb", "tfidf_lr": "#e69f00", THIS_RUN: "#0072b2", UNPAIRED: "#56b4e9"}
_OTHERS = ("#009e73", "#cc79a7", "#d55e00", "#f0e442", "#000000", "#0072b2", "#56b4e9")


def write_report(run: Path, metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]] | None) -> None:
    """Write ``report.md``, ``report.png`` and, given a history, ``learning_curve.png`` into the run folder.

    Args:
        run: an existing folder.
        metrics: what ``metrics.json`` holds.
        history: a mapping per epoch (or step): ``epoch`` or ``step``, and the numbers of :data:`AXES`; None or empty: no
            learning curve.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    systems, attributes = system_rows(metrics), list(metrics["test"]["per_attribute"])
    name = str(metrics.get("config", {}).get("name", run.name))
    save_figure(score_figure(systems, attributes), run / "report.png")
    text = [f"# {name}", "", *run_notes(metrics), "", "## Macro-F1 on the test split, 0-100", ""]
    text += _comparison(systems, attributes)
    text += [
        "",
        *LEGEND,
        "",
        "![Macro-F1 per attribute](report.png)",
        "",
        *_order(systems, metrics),
        "## Classes of this run",
        "",
        *_classes(metrics["test"]["per_attribute"]),
    ]
    curves = learning_curves(history or [])
    if curves:
        save_figure(draw_learning_curves(curves, _time(history or [])), run / "learning_curve.png")
        text += ["", "## Learning curve", "", "![Learning curve](learning_curve.png)"]
    write_text(run / "report.md", "\n".join(text) + "\n")


def score_figure(systems: Sequence[SystemRow], attributes: Sequence[str]) -> Figure:
    """Draw bars of macro-F1 with 95 % intervals, a group per attribute and one for the mean."""
    groups: list[str | None] = [*attributes, None]
    figure = Figure(figsize=(max(6.0, 1.5 * len(groups) + 1.0), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.82 / len(systems)
    others = (row.key for row in systems if row.key not in _COLOURS and row.key != "ceiling")
    colours = _COLOURS | dict(zip(others, cycle(_OTHERS), strict=False))
    for place, system in enumerate(systems):
        shift = (place - (len(systems) - 1) / 2) * width
        scored = [(index, value) for index, group in enumerate(groups) if (value := system.f1(group)) is not None]
        centres, heights = [index + shift for index, _ in scored], [value for _, value in scored]
        ceiling = system.key == "ceiling"
        axes.bar(
            centres,
            heights,
            width * 0.92,
            label=system.label,
            color="none" if ceiling else colours.get(system.key),
            edgecolor="#000000" if ceiling else "none",
            linewidth=0.9,
            linestyle=(0, (3, 2)) if ceiling else "solid",
        )
        for (index, value), centre in zip(scored, centres, strict=True):
            interval = system.interval(groups[index])
            if interval is not None:
                # A percentile interval need not hold the estimate: no negative bar length then.
                reach = [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]
                axes.errorbar([centre], [value], yerr=reach, color="#333333", elinewidth=1.0, capsize=2.5)
    axes.axvline(len(groups) - 1.5, color="#999999", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [_wrap(group or "mean") for group in groups])
    axes.set_ylabel("macro-F1 (0-100)")
    axes.set_ylim(0, 100)
    clean_axes(axes)
    figure.legend(loc="outside upper center", ncols=len(systems), frameon=False, fontsize=9, columnspacing=1.3)
    return figure


def _comparison(systems: Sequence[SystemRow], attributes: Sequence[str]) -> Iterator[str]:
    """Yield Markdown: a row per system, a column per attribute, then mean, its interval and parse faults."""
    yield "| system | " + " | ".join([*attributes, "mean", "95 % interval", "parse faults"]) + " |"
    yield "| --- |" + " ---: |" * (len(attributes) + 3)
    for row in systems:
        interval = row.interval()
        cells = [format_score(row.f1(name)) for name in (*attributes, None)]
        cells.append(f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else NOT_MEASURED)
        cells.append(format_percent(row.scores.get("parse_fault_rate")))
        if row.key == THIS_RUN:
            cells = [f"**{cell}**" for cell in cells]
        yield f"| {row.label} | " + " | ".join(cells) + " |"


def _order(systems: Sequence[SystemRow], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield Markdown on attributes whose values are in order; nothing where there are none."""
    lines = list(order_cells(systems, metrics))
    if lines:
        yield from (f"## {ORDER}", "", "| attribute | measure | " + " | ".join(row.label for row in systems) + " |")
        yield "| --- | --- |" + " ---: |" * len(systems)
        yield from ("| " + " | ".join(cells) + " |" for cells in lines)
        yield from ("", ORDER_LEGEND, "")


def _classes(per_attribute: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield Markdown: support and F1 of every class, which show how much a mean owes to rare classes."""
    yield "| attribute | F1 of each class (users with it in gold) | accuracy | all classes |"
    yield "| --- | --- | ---: | ---: |"
    for name, scores in per_attribute.items():
        f1 = scores.get("f1", {})
        support = scores.get("support", {}).items()
        parts = [f"{label} {format_score(f1.get(label) if users else None, 1)} ({users})" for label, users in support]
        accuracy, all_classes = format_score(scores.get("accuracy")), format_score(scores.get("macro_f1_all"))
        yield f"| {name} | {', '.join(parts) or NOT_MEASURED} | {accuracy} | {all_classes} |"


class Curve(NamedTuple):
    """A line of a figure: its axis (of :data:`AXES`), its name in the legend, and its points."""

    axis: str
    label: str
    x: list[float]
    y: list[float]


def learning_curves(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Return the curves of a history's numbers that are in :data:`AXES`."""
    curves, time = [], _time(history)
    for key in dict.fromkeys(key for entry in history for key in entry):
        name = re.sub("^dev_", "validation_", key)  # earlier versions called the validation split so
        group = next((group for group in AXES if name == group or (group[-1] in "_/" and name.startswith(group))), None)
        points = [
            (float(entry.get(time, index)), float(entry[key]))
            for index, entry in enumerate(history)
            if isinstance(entry.get(key), int | float)
        ]
        if group and points:
            label = name.removeprefix(group) if group.endswith("/") else name
            curves.append(Curve(axis=AXES[group], label=label, x=[x for x, _ in points], y=[y for _, y in points]))
    return curves


def _time(history: Sequence[Mapping[str, Any]]) -> str:
    return "step" if any("step" in entry for entry in history) and "epoch" not in history[0] else "epoch"


def draw_learning_curves(curves: Sequence[Curve], time: str) -> Figure:
    """Draw curves over ``time`` (``epoch`` or ``step``), in a plot for each axis."""
    names = [axis for axis in dict.fromkeys(AXES.values()) if any(curve.axis == axis for curve in curves)]
    rows = -(-len(names) // 2)
    columns = -(-len(names) // rows)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9"]
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        for index, curve in enumerate(curve for curve in curves if curve.axis == name):
            line, colour = ("-", "--", ":", "-.")[index // len(colours) % 4], colours[index % len(colours)]
            axes.plot(curve.x, curve.y, line, color=colour, marker="o", markersize=3, label=curve.label)
        axes.set_xlabel(time)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
        clean_axes(axes)
    return figure


def _wrap(name: str) -> str:
    return name.replace(" ", "\n", 1)
