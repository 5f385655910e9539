"""The figures of a run for people: a table in the terminal, ``report.md`` with its figures.

Everything is read from the mapping that ``metrics.json`` holds; whatever part of it is absent is left out.
``python -m mmprofile.report run=outputs/both`` renders the reports of a run again, :mod:`mmprofile.report.html` among them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmprofile.evaluate.plots import clean_axes, save_figure
from mmprofile.evaluate.score_table import LEGEND, MISSING, THIS_RUN, UNPAIRED, Row, _cell, _percent, notes, rows

_KINDS = {
    "loss": "loss",
    "f1": "macro-F1 (0-100)",
    "added/": "mean |gate * H*|",
    "support/": "visual tokens attended to",
}
"""What a name in a history has in it -> what that is, an axis each."""
# Okabe and Ito's palette: told apart with any colour vision, and by lightness in print.
_COLOURS = {"majority": "#bbbbbb", "tfidf_lr": "#e69f00", THIS_RUN: "#0072b2", UNPAIRED: "#56b4e9"}
_OTHERS = ("#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#0072b2", "#f0e442", "#000000")


def write_report(run: Path, metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]] | None) -> None:
    """Writes ``report.md``, ``report.png`` and, given a history, ``learning_curve.png`` into the run folder.

    Args:
        run: an existing folder.
        metrics: what ``metrics.json`` holds.
        history: a mapping per epoch (or step): ``epoch`` or ``step``, and any numbers whose names contain ``loss``, ``f1``,
            ``added/`` or ``support/``; None or empty: no learning curve.

    Raises:
        OSError: the folder is missing or cannot be written.
    """
    systems, attributes = rows(metrics), list(metrics["test"]["per_attribute"])
    name = str(metrics.get("config", {}).get("name", run.name))
    save_figure(score_figure(systems, attributes), run / "report.png")
    text = [f"# {name}", "", *notes(metrics), "", "## Macro-F1 on the test split, 0-100", ""]
    text += _comparison(systems, attributes)
    text += [
        "",
        *LEGEND,
        "",
        "![Macro-F1 per attribute](report.png)",
        "",
        "## Classes of this run",
        "",
        *_classes(metrics["test"]["per_attribute"]),
    ]
    curves = _curves(history or [])
    if curves:
        save_figure(_learning_curve(curves, _time(history or [])), run / "learning_curve.png")
        text += ["", "## Learning curve", "", "![Learning curve](learning_curve.png)"]
    (run / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def score_figure(systems: Sequence[Row], attributes: Sequence[str]) -> Figure:
    """Grouped bars of macro-F1 with 95 % intervals, a group per attribute and one for the mean."""
    groups: list[str | None] = [*attributes, None]
    figure = Figure(figsize=(max(6.0, 1.5 * len(groups) + 1.0), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.82 / len(systems)
    others = (row.key for row in systems if row.key not in _COLOURS and row.key != "ceiling")
    colours = _COLOURS | dict(zip(others, cycle(_OTHERS), strict=False))
    for place, system in enumerate(systems):
        shift = (place - (len(systems) - 1) / 2) * width
        known = [(index, value) for index, group in enumerate(groups) if (value := system.f1(group)) is not None]
        centres, heights = [index + shift for index, _ in known], [value for _, value in known]
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
        for (index, value), centre in zip(known, centres, strict=True):
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


def _comparison(systems: Sequence[Row], attributes: Sequence[str]) -> Iterator[str]:
    """Markdown: a row per system, a column per attribute, then mean, its interval and parse faults."""
    yield "| system | " + " | ".join([*attributes, "mean", "95 % interval", "parse faults"]) + " |"
    yield "| --- |" + " ---: |" * (len(attributes) + 3)
    for row in systems:
        interval = row.interval()
        cells = [_cell(row.f1(name)) for name in (*attributes, None)]
        cells.append(f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else MISSING)
        cells.append(_percent(row.scores.get("parse_fault_rate")))
        if row.key == THIS_RUN:
            cells = [f"**{cell}**" for cell in cells]
        yield f"| {row.label} | " + " | ".join(cells) + " |"


def _classes(per_attribute: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Markdown: support and F1 of every class, so that a mean over rare classes can be read for what it is."""
    yield "| attribute | F1 of each class (users with it in gold) | accuracy | all classes |"
    yield "| --- | --- | ---: | ---: |"
    for name, one in per_attribute.items():
        f1 = one.get("f1", {})
        support = one.get("support", {}).items()
        parts = [f"{label} {_cell(f1.get(label) if users else None, 1)} ({users})" for label, users in support]
        accuracy, every = _cell(one.get("accuracy")), _cell(one.get("macro_f1_all"))
        yield f"| {name} | {', '.join(parts) or MISSING} | {accuracy} | {every} |"


def _curves(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[float], list[float]]]:
    """(kind, name, x, y) of everything in ``history`` that can be drawn."""
    curves = []
    axis = _time(history)
    for name in dict.fromkeys(key for entry in history for key in entry):
        kind = next((kind for kind in _KINDS if kind in name.lower()), "")
        points = [
            (float(entry.get(axis, index)), float(entry[name]))
            for index, entry in enumerate(history)
            if kind and isinstance(entry.get(name), int | float)
        ]
        if points:
            curves.append((kind, name, [x for x, _ in points], [y for _, y in points]))
    return curves


def _time(history: Sequence[Mapping[str, Any]]) -> str:
    return "step" if any("step" in entry for entry in history) and "epoch" not in history[0] else "epoch"


def _learning_curve(curves: Sequence[tuple[str, str, list[float], list[float]]], time: str) -> Figure:
    kinds = [kind for kind in _KINDS if any(curve[0] == kind for curve in curves)]
    rows = -(-len(kinds) // 2)
    columns = -(-len(kinds) // rows)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9"]
    for place, kind in enumerate(kinds):
        axes = figure.add_subplot(rows, columns, place + 1)
        for index, (_, name, x, y) in enumerate(curve for curve in curves if curve[0] == kind):
            line = ("-", "--", ":", "-.")[index // len(colours) % 4]
            label = name.removeprefix(kind) if kind.endswith("/") else name
            axes.plot(x, y, line, color=colours[index % len(colours)], marker="o", markersize=3, label=label)
        axes.set_xlabel(time)
        axes.set_ylabel(_KINDS[kind])
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
        clean_axes(axes)
    return figure


def _wrap(name: str) -> str:
    return name.replace(" ", "\n", 1)
