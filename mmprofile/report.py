"""The figures of a run for people: a table in the terminal, ``report.md`` with its figures.

Everything is read from the mapping that ``metrics.json`` holds; whatever part of it is absent is left out.
``python -m mmprofile.report run=outputs/both`` renders the reports of a run again, :mod:`mmprofile.html_report` among them.
"""

from mmprofile.config import check_command_line, entry_point

if __name__ == "__main__":
    check_command_line("report")


from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.console import Console
from rich.table import Table

THIS_RUN = "this run"
UNPAIRED = "this run, unpaired"
PARTLY = "this run, photos missing"
WIDTH = 100  # columns of the terminal table at most
MISSING = "-"
LEGEND = (
    "Means over the classes that occur in gold; intervals: 95 %, user-level bootstrap. `-`: not measured.",
    "Unpaired: the same users with other users' photos; photos missing: without some of theirs. Ceiling: a classifier",
    "on the true cues of the same reviews and photos. Missing and invalid answers count as wrong.",
)
NAMED = ("task", "classifier", "profile", "paradigm", "model", "data", "seed", "purpose")  # of ``config``, in order

_KINDS = {
    "loss": "loss",
    "f1": "macro-F1 (0-100)",
    "added/": "mean |gate * H*|",
    "support/": "visual tokens attended to",
}
"""What a name in a history has in it -> what that is, an axis each."""
_LABELS = {"majority": "majority class", "tfidf_lr": "TF-IDF + LR", "ceiling": "ceiling (true cues)"}
# Okabe and Ito's palette: told apart with any colour vision, and by lightness in print.
_COLOURS = {"majority": "#bbbbbb", "tfidf_lr": "#e69f00", THIS_RUN: "#0072b2", UNPAIRED: "#56b4e9"}
_OTHERS = ("#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#0072b2", "#f0e442", "#000000")
_SHORT = {
    "majority": "majority",
    "tfidf_lr": "TF-IDF+LR",
    UNPAIRED: "unpaired",
    PARTLY: "missing",
    "ceiling": "ceiling",
}


class Row(NamedTuple):
    """One system: its key in ``metrics.json`` (or ``THIS_RUN``, ``UNPAIRED``, ``PARTLY``), its name for people, its scores."""

    key: str
    label: str
    scores: Mapping[str, Any]

    def f1(self, attribute: str | None = None) -> float | None:
        """Macro-F1, 0..100, of an attribute or (None) the mean; None where it is absent."""
        value = self._part(attribute).get("macro_f1")
        return None if value is None else float(value)

    def interval(self, attribute: str | None = None) -> tuple[float, float] | None:
        """95 % interval of :meth:`f1`; None where it is absent."""
        value = self._part(attribute).get("interval")
        return None if value is None or None in value else (float(value[0]), float(value[1]))

    def _part(self, attribute: str | None) -> Mapping[str, Any]:
        return self.scores if attribute is None else self.scores.get("per_attribute", {}).get(attribute, {})


def rows(metrics: Mapping[str, Any]) -> list[Row]:
    """The systems that ``metrics`` holds, in the order of every table: weak baselines, this run, ceiling."""
    baselines, test = metrics.get("baselines", {}), metrics["test"]
    first = [Row(key, _LABELS[key], baselines[key]) for key in ("majority", "tfidf_lr") if baselines.get(key)]
    run = [Row(THIS_RUN, THIS_RUN, test)]
    for part, label in (("unpaired", UNPAIRED), ("missing", PARTLY)):
        if test.get(part):
            run.append(Row(label, label, test[part]))
    last = [Row(key, _LABELS.get(key, key), baselines[key]) for key in baselines if key not in ("majority", "tfidf_lr")]
    return first + run + [row for row in last if row.scores]


def print_scores(metrics: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Prints the comparison table: a line per attribute, a column per system, and what the run cost.

    Args:
        metrics: what ``metrics.json`` holds.
        file: where to; None: standard output.
    """
    console = Console(file=file, highlight=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    print_table(rows(metrics), list(metrics["test"]["per_attribute"]), console)
    for line in notes(metrics):
        console.print(line, markup=False, soft_wrap=True)


def print_table(systems: Sequence[Row], attributes: Sequence[str], console: Console) -> None:
    """Macro-F1 of ``systems``, side by side; this run's with its 95 % interval."""
    table = Table(box=box.SIMPLE_HEAD, title="macro-F1 on the test split, 0-100", title_justify="left", pad_edge=False)
    table.add_column("attribute", no_wrap=True)
    for system in systems:
        style = "bold" if system.key == THIS_RUN else None
        table.add_column(_SHORT.get(system.key, system.label), justify="right", style=style, no_wrap=True)
        if system.key == THIS_RUN:
            table.add_column("95 % interval", justify="right", no_wrap=True)
    for place, cells in enumerate(score_cells(systems, attributes)):
        if place == len(attributes):
            table.add_section()
        table.add_row(*cells, style="bold" if place == len(attributes) else None)
    console.print(table)


def score_cells(systems: Sequence[Row], attributes: Sequence[str]) -> Iterator[list[str]]:
    """A line per attribute, of the means, of parse faults: its name, then a cell per system, this run's interval behind it."""
    for name in (*attributes, None):
        yield [name or "mean", *_with_interval(systems, [_cell(row.f1(name)) for row in systems], name)]
    if any("parse_fault_rate" in row.scores for row in systems):
        faults = [_percent(row.scores.get("parse_fault_rate")) for row in systems]
        yield ["parse faults", *_with_interval(systems, faults, "")]


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


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """Lines on what was run, what it cost, and how it compares."""
    config, test = metrics.get("config", {}), metrics["test"]
    what = [f"{key} {config[key]}" for key in NAMED if config.get(key) is not None]
    if test.get("n_users") is not None:
        what.append(f"{test['n_users']} test users")
    if metrics.get("n_parameters"):
        what.append(f"{metrics['n_parameters'] / 1e6:.1f} M parameters")
    cost = [f"{name} {value:.1f} s" for name, value in metrics.get("seconds", {}).items() if value is not None]
    if metrics.get("peak_rss_mb"):
        cost.append(f"peak memory {metrics['peak_rss_mb'] / 1024:.2f} GB")
    asked = metrics.get("endpoint", {})
    if asked:
        cost.append(f"{asked['prompt_tokens']:,} + {asked['completion_tokens']:,} tokens, {asked['refused']} refusals")
    mine = {row.key: row.f1() for row in rows(metrics)}
    run, ceiling, unpaired = mine.get(THIS_RUN), mine.get("ceiling"), mine.get(UNPAIRED)
    compared = []
    if run is not None and ceiling:
        compared.append(f"{100 * run / ceiling:.1f} % of the ceiling")
    if run is not None and unpaired is not None:
        compared.append(f"{run - unpaired:+.2f} points with a user's own photos over other users'")
    apart = []
    if test.get("text_only"):
        row = Row("text_only", "", test["text_only"])
        apart = [f"{name} {_cell(row.f1(name))}" for name in row.scores["per_attribute"]]
        apart = [f"text-only attributes, in no mean above: {', '.join(apart)}; their own mean {_cell(row.f1())}"]
    return [f"- {', '.join(parts)}" for parts in (what, cost, compared, apart) if parts]


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


def clean_axes(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """No frame; light lines that help to read the values of the axis ``grid``."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path | IO[bytes]) -> None:
    """Writes a PNG."""
    FigureCanvasAgg(figure)  # no display is needed, and no global state of pyplot's is touched
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})  # no version: same figures, same bytes


def _wrap(name: str) -> str:
    return name.replace(" ", "\n", 1)


def _with_interval(systems: Sequence[Row], cells: Sequence[str], attribute: str | None) -> list[str]:
    """``cells``, one per system, with the interval of this run's ``attribute`` behind this run's."""
    result = []
    for row, cell in zip(systems, cells, strict=True):
        result.append(cell)
        if row.key == THIS_RUN:
            interval = row.interval(attribute)
            result.append(f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "")
    return result


def _cell(value: Any, digits: int = 2) -> str:
    return MISSING if value is None else f"{float(value):.{digits}f}"


def _percent(rate: float | None) -> str:
    return MISSING if rate is None else f"{100 * rate:.1f} %"


if __name__ == "__main__":
    from mmprofile.html_report import main

    entry_point("report", main)
