"""A table's results in the terminal and as files: ``table.md``, ``table.csv``, ``table.json``, ``table.tex``, ``table.png``."""

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from mmprofile.evaluate.plots import clean_axes, save_figure
from mmprofile.evaluate.score_table import NOT_MEASURED
from mmprofile.files import without_nan, write_json, write_text
from mmprofile.sweep.results import Result
from mmprofile.sweep.tables import TableConfig

LEGEND = (
    "Macro-F1, 0-100, mean over seeds, with 95 % user-level bootstrap intervals of that mean. `*`, `**`: differs from the "
    "reference with p < 0.05, p < 0.01 (paired bootstrap over users, seeds averaged; not corrected for the number of rows). "
    "Unpaired: tested with other users' photos. Faults: answers with a part that the parser did not understand; missing and "
    "invalid parts count as wrong. Minutes: training and evaluation. GB: peak memory."
)
PAPER = (
    "Paper: Qiang et al. (COLING 2025), on its own split of the Yelp data, with its own weights. Data and weights differ here: "
    "compare the order of the rows, not the figures."
)
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # Okabe and Ito's
_CHARACTERS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}


class Cells(NamedTuple):
    """A table of texts.

    Attributes:
        titles: of the columns.
        rows: a text per column.
    """

    titles: list[str]
    rows: list[list[str]]


def write_table(folder: Path, table: TableConfig, results: Sequence[Result], command: str) -> None:
    """Write all of a table's files.

    Args:
        folder: made where it is missing.
        table: its title, note and layout.
        results: its rows.
        command: the command line that makes it again.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = list_cells(results)
    shown = grid_cells(table, results) if table.layout == "grid" else every
    parts = [markdown(shown), "## Every cell", markdown(every)] if table.layout == "grid" else [markdown(every)]
    reasons = [f"- {result.row.name}: {result.error}" for result in results if result.error]
    notes = [LEGEND, *([PAPER] if any(result.row.paper for result in results) else []), table.note]
    has_figures = any(result.macro_f1 is not None for result in results)
    text = [
        f"# {table.title}",
        *parts,
        *(["Without figures:", "\n".join(reasons)] if reasons else []),
        *(["![Macro-F1 of every row](table.png)"] if has_figures else []),
        *[note.strip() for note in notes if note],
        f"Made by `{command}`.",
    ]
    write_text(folder / "table.md", "\n\n".join(text) + "\n")
    write_json(folder / "table.json", to_json(table, results, command))
    _write_csv(folder / "table.csv", results)
    write_text(folder / "table.tex", latex(table.title, shown))
    if has_figures:
        save_figure(draw(table, results), folder / "table.png")
    else:
        (folder / "table.png").unlink(missing_ok=True)


def print_table(table: TableConfig, results: Sequence[Result]) -> None:
    """Print the rows without their attributes, and why rows have no figures."""
    print_cells(table.title, list_cells(results, attributes=False))
    for result in results:
        if result.error:
            print(f"{result.row.name}: {result.error}")


def print_cells(title: str, cells: Cells) -> None:
    """Print a table in the terminal."""
    console = Console(highlight=False)
    console.width = max(130, console.width)  # too wide a line is broken by the terminal, a narrow table loses figures
    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, name in enumerate(cells.titles):
        shown.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in cells.rows:
        shown.add_row(*row)
    console.print(shown)


def list_cells(results: Sequence[Result], attributes: bool = True) -> Cells:
    """Return a line per system; columns without any figure are left out."""
    names = _attributes(results) if attributes else []
    references = list(dict.fromkeys(result.reference for result in results if result.reference))
    labels = [result.row.name for result in results if references == [result.row.system]]
    against = f"against {labels[0]}" if labels else "against reference"
    columns: list[tuple[str, Callable[[Result], str]]] = [
        ("system", lambda r: r.row.name),
        ("mean", lambda r: _outcome(r) or _number(r.macro_f1)),
        ("95 % interval", lambda r: _span(r.interval)),
        *[(name, lambda r, name=name: _number(r.per_attribute.get(name, {}).get("macro_f1"))) for name in names],
        (against, _against),
        ("unpaired", lambda r: _number(r.unpaired if attributes else None)),
        ("decoder alone", lambda r: _number(r.decoder if attributes else None)),
        ("faults", lambda r: NOT_MEASURED if r.parse_fault_rate is None else f"{100 * r.parse_fault_rate:.1f} %"),
        ("M parameters", lambda r: NOT_MEASURED if r.n_parameters is None else f"{r.n_parameters / 1e6:.2f}"),
        ("minutes", lambda r: _number(r.minutes, 1)),
        ("GB", lambda r: _number(r.peak_memory_gb)),
        ("paper", lambda r: _number(r.row.paper.get("mean"))),
    ]
    filled = [(title, [cell(result) for result in results]) for title, cell in columns]
    filled = [
        (title, column) for title, column in filled if title in ("system", "mean") or set(column) != {NOT_MEASURED}
    ]
    return Cells(
        [title for title, _ in filled], [list(row) for row in zip(*(column for _, column in filled), strict=True)]
    )


def grid_cells(table: TableConfig, results: Sequence[Result]) -> Cells:
    """Return the paper's grid: a line per ``line``, our and the paper's figure per ``column``, and gains."""
    columns = _columns(results)
    papers = [name for name in columns if any(r.row.column == name and r.row.paper for r in results)]
    titles = ["", *columns, *(["gain"] if table.gain else []), *[f"{name} (paper)" for name in papers]]
    titles += ["gain (paper)"] if table.gain and papers else []
    rows = []
    for line in _lines(results):
        cells = {name: _at(results, line, name) for name in columns}
        values = [result.macro_f1 if result else None for result in cells.values()]
        paper = [result.row.paper.get("mean") if result else None for result in (cells[name] for name in papers)]
        row = [line, *map(_cell, cells.values())]
        row += [_gain(values)] if table.gain else []
        row += [_number(value) for value in paper]
        row += [_gain(paper)] if table.gain and papers else []
        rows.append(row)
    return Cells(titles, rows)


def to_json(table: TableConfig, results: Sequence[Result], command: str) -> dict[str, Any]:
    """Return everything that is known of a table, as plain data."""
    rows = []
    for result in results:
        place = {name: getattr(result.row, name) for name in ("line", "column", "x")}
        figures = {name: value for name, value in vars(result).items() if name != "row"}
        row = {"system": result.row.system, "label": result.row.name}
        row |= {name: value for name, value in place.items() if value is not None}
        rows.append(without_nan(row | figures | {"paper": result.row.paper}))
    return {"title": table.title, "note": f"{LEGEND} {PAPER} {table.note}".strip(), "command": command, "rows": rows}


def latex(title: str, cells: Cells) -> str:
    """Return a booktabs table."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{tex(title)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(cells.titles) - 1)}}}",
        "\\toprule",
        " & ".join(map(tex, cells.titles)) + " \\\\",
        "\\midrule",
        *[" & ".join(map(tex, row)) + " \\\\" for row in cells.rows],
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Return LaTeX that prints a text."""
    return re.sub(r"[\\~^<>]|[&%$#_{}]", lambda match: _CHARACTERS.get(match[0], f"\\{match[0]}"), text)


def draw(table: TableConfig, results: Sequence[Result]) -> Figure:
    """Draw a bar per row, groups of bars of a grid, or curves; with intervals, and the paper's figures as diamonds."""
    if table.layout == "curves":
        return _draw_curves(table, results)
    columns = _columns(results) if table.layout == "grid" else [None]
    lines = _lines(results) if table.layout == "grid" else [result.row.name for result in results]
    figure = Figure(figsize=(7.2, 1.3 + len(lines) * (0.22 + 0.16 * len(columns))), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(columns)
    for place, column in enumerate(columns):
        drawn = [
            result
            for index, line in enumerate(lines)
            if (result := _at(results, line, column) if table.layout == "grid" else results[index]) is not None
        ]
        ys = [lines.index(_line(r, table)) + (place - (len(columns) - 1) / 2) * height for r in drawn]
        _bars(axes, drawn, ys, height=height * 0.92, colour=_COLOURS[place], label=column or "here")
    papers = [child for child in axes.collections if child.get_label() == "paper"]
    axes.set_yticks(range(len(lines)), lines)
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.set_xlabel("macro-F1 (0-100)")
    axes.set_xlim(left=0)
    clean_axes(axes, "x")
    if len(columns) > 1 or papers:
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _bars(
    axes: Axes, results: Sequence[Result], ys: Sequence[float], *, height: float, colour: str, label: str
) -> None:
    """Draw a bar of each result at its place ``ys``, its interval, and the paper's figure as a diamond."""
    known = [(result, y) for result, y in zip(results, ys, strict=True) if result.macro_f1 is not None]
    axes.barh([y for _, y in known], [result.macro_f1 or 0.0 for result, _ in known], height, color=colour, label=label)
    for result, y in known:
        if reach := _reach(result):
            axes.errorbar([result.macro_f1 or 0.0], [y], xerr=reach, color="#333333", elinewidth=1.0, capsize=2.5)
    papers = [
        (result.row.paper["mean"], y) for result, y in zip(results, ys, strict=True) if "mean" in result.row.paper
    ]
    if papers:
        xs, heights = zip(*papers, strict=True)
        axes.scatter(xs, heights, marker="D", s=22, facecolor="white", edgecolor="black", label="paper", zorder=3)


def _draw_curves(table: TableConfig, results: Sequence[Result]) -> Figure:
    lines = _lines(results)
    figure = Figure(figsize=(4.2 * len(lines), 3.4), layout="constrained")
    axes: Axes | None = None
    for place, line in enumerate(lines):
        axes = figure.add_subplot(1, len(lines), place + 1, sharey=axes)
        known = [r for r in results if r.row.line == line and r.macro_f1 is not None and r.row.x is not None]
        known.sort(key=lambda r: r.row.x or 0.0)
        x, y = [r.row.x or 0.0 for r in known], [r.macro_f1 or 0.0 for r in known]
        axes.plot(x, y, color=_COLOURS[place], marker="o", markersize=4)
        spans = [r.interval or (r.macro_f1 or 0.0, r.macro_f1 or 0.0) for r in known]
        axes.fill_between(
            x, [low for low, _ in spans], [high for _, high in spans], color=_COLOURS[place], alpha=0.18, lw=0
        )
        axes.set_xlabel(line)
        axes.set_xticks(sorted({r.row.x for r in results if r.row.line == line and r.row.x is not None}))
        clean_axes(axes)
        if place == 0:
            axes.set_ylabel("macro-F1 (0-100)")
    return figure


def _line(result: Result, table: TableConfig) -> str:
    return (result.row.line or result.row.name) if table.layout == "grid" else result.row.name


def _lines(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.row.line or result.row.name for result in results))


def _columns(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.row.column for result in results if result.row.column))


def _at(results: Sequence[Result], line: str, column: str | None) -> Result | None:
    """Return the result in a cell of the grid; a row without a column stands in all."""
    here = [result for result in results if (result.row.line or result.row.name) == line]
    return next((result for result in here if result.row.column in (column, None)), None)


def _attributes(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.per_attribute))


def _cell(result: Result | None) -> str:
    if result is None:
        return NOT_MEASURED
    if outcome := _outcome(result):
        return outcome
    return f"{_number(result.macro_f1)}{_stars(result)} ({_span(result.interval)})"


def _outcome(result: Result) -> str:
    """Return the word that stands in the place of figures; empty where there are figures."""
    return "left out" if result.left_out else "failed" if result.error else ""


def _against(result: Result) -> str:
    if result.delta is None or result.p_vs_reference is None:
        return NOT_MEASURED
    return f"{result.delta:+.2f}{_stars(result)} (p = {result.p_vs_reference:.4f})"


def _stars(result: Result) -> str:
    p = 1.0 if result.p_vs_reference is None else result.p_vs_reference
    return "**" if p < 0.01 else "*" if p < 0.05 else ""


def _gain(values: Sequence[float | None]) -> str:
    first, second = (*values, None, None)[:2]
    return NOT_MEASURED if first is None or second is None else f"{second - first:+.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return NOT_MEASURED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _span(interval: tuple[float, float] | None) -> str:
    return NOT_MEASURED if interval is None or None in interval else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _reach(result: Result) -> list[list[float]] | None:
    """Return the lengths of an error bar to both sides; a percentile interval need not hold the estimate."""
    if result.interval is None or None in result.interval or result.macro_f1 is None:
        return None
    return [[max(0.0, result.macro_f1 - result.interval[0])], [max(0.0, result.interval[1] - result.macro_f1)]]


def markdown(cells: Cells) -> str:
    """Return a Markdown table."""

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in row) + " |"

    rule = "| --- |" + " ---: |" * (len(cells.titles) - 1)
    return "\n".join([line(cells.titles), rule, *map(line, cells.rows)])


def _write_csv(path: Path, results: Sequence[Result]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [dict(_flat(result)) for result in results]
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _flat(result: Result) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a result's line in ``table.csv``."""
    yield from {"system": result.row.system, "label": result.row.name, "macro_f1": result.macro_f1}.items()
    yield from zip(("low", "high"), result.interval or ("", ""), strict=True)
    for name in ("reference", "delta", "p_vs_reference", "unpaired", "decoder", "parse_fault_rate", "n_parameters"):
        yield name, getattr(result, name)
    yield from {"minutes": result.minutes, "peak_memory_gb": result.peak_memory_gb}.items()
    for name, scores in result.per_attribute.items():
        yield name, scores["macro_f1"]
    for seed, value in enumerate(result.seeds):
        yield f"seed {seed}", value
    for name, value in result.row.paper.items():
        yield f"paper {name}", value
    yield "error", result.error or ""
