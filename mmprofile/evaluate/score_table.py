"""The scores of a run beside the baselines, as rows of a table, in the terminal and elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

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
_LABELS = {"majority": "majority class", "tfidf_lr": "TF-IDF + LR", "ceiling": "ceiling (true cues)"}
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
