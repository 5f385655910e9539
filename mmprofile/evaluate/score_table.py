"""The scores of a run beside the baselines: the rows of every table, and the table in the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

THIS_RUN = "this run"
UNPAIRED = "this run, unpaired"
PHOTOS_MISSING = "this run, photos missing"
DECODER = "this run, decoder alone"
CLASSIFIERS = "this run, classifiers alone"
PARTS = {"unpaired": UNPAIRED, "missing": PHOTOS_MISSING, "decoder": DECODER, "classifiers": CLASSIFIERS}
"""What else a run may be scored on or by, in ``metrics.json`` -> the label of its row."""
TABLE_WIDTH = 100  # columns of the terminal table at most
NOT_MEASURED = "-"
LEGEND = (
    "Means over the classes that occur in gold; intervals: 95 %, user-level bootstrap. `-`: not measured.",
    "Unpaired: the same users with other users' photos; photos missing: without some of theirs. Ceiling: a classifier",
    "on the true cues of the same reviews and photos. Missing and invalid answers count as wrong.",
)
ORDER = "Values in order: how far answers are from gold"
ORDER_LEGEND = (
    "Mean error: the mean absolute difference to gold, in steps from value to value or, of a number, between the typical "
    "numbers of the bins. Quadratic kappa: agreement beyond chance, 1 at best; far misses count more. A missing or invalid "
    "answer counts as the farthest value."
)
CONFIG_KEYS = ("task", "classifier", "profile", "sentences", "paradigm", "model", "data", "seed", "purpose")  # in order
_LABELS = {"majority": "majority class", "tfidf_lr": "TF-IDF + LR", "ceiling": "ceiling (true cues)"}
_SHORT = {
    "majority": "majority",
    "tfidf_lr": "TF-IDF+LR",
    UNPAIRED: "unpaired",
    PHOTOS_MISSING: "missing",
    "ceiling": "ceiling",
}


class SystemRow(NamedTuple):
    """One system.

    Attributes:
        key: in ``metrics.json``, or ``THIS_RUN``, or a label of ``PARTS``.
        label: its name in tables.
        scores: as ``metrics.json`` has them.
    """

    key: str
    label: str
    scores: Mapping[str, Any]

    def f1(self, attribute: str | None = None) -> float | None:
        """Return macro-F1, 0 to 100, of an attribute or (None) the mean; None where it is absent."""
        value = self._part(attribute).get("macro_f1")
        return None if value is None else float(value)

    def of_order(self, attribute: str, score: str) -> float | None:
        """Return ``mean_absolute_error`` or ``quadratic_kappa`` of an attribute; None where it is absent."""
        value = self._part(attribute).get(score)
        return None if value is None else float(value)

    def interval(self, attribute: str | None = None) -> tuple[float, float] | None:
        """Return the 95 % interval of :meth:`f1`; None where it is absent."""
        value = self._part(attribute).get("interval")
        return None if value is None or None in value else (float(value[0]), float(value[1]))

    def _part(self, attribute: str | None) -> Mapping[str, Any]:
        return self.scores if attribute is None else self.scores.get("per_attribute", {}).get(attribute, {})


def system_rows(metrics: Mapping[str, Any]) -> list[SystemRow]:
    """Return the systems that ``metrics`` holds, in the order of every table: weak baselines, this run, ceiling."""
    baselines, test = metrics.get("baselines", {}), metrics["test"]
    weak = [SystemRow(key, _LABELS[key], baselines[key]) for key in ("majority", "tfidf_lr") if baselines.get(key)]
    run = [SystemRow(THIS_RUN, THIS_RUN, test)]
    for part, label in PARTS.items():
        if test.get(part):
            run.append(SystemRow(label, label, test[part]))
    last = [
        SystemRow(key, _LABELS.get(key, key), baselines[key])
        for key in baselines
        if key not in ("majority", "tfidf_lr")
    ]
    return weak + run + [row for row in last if row.scores]


def print_scores(metrics: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print the table of scores, a line per attribute and a column per system, and what the run cost.

    Args:
        metrics: what ``metrics.json`` holds.
        file: where to; None: standard output.
    """
    console = Console(file=file, highlight=False)
    console.width = min(TABLE_WIDTH, console.width) if console.is_terminal else TABLE_WIDTH
    systems = [row for row in system_rows(metrics) if row.key not in (DECODER, CLASSIFIERS)]  # a line tells them
    print_table(systems, list(metrics["test"]["per_attribute"]), console)
    print_order(systems, metrics, console)
    for line in run_notes(metrics):
        console.print(line, markup=False, soft_wrap=True)


def print_table(systems: Sequence[SystemRow], attributes: Sequence[str], console: Console) -> None:
    """Print macro-F1 of systems side by side, this run's with its 95 % interval."""
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


def score_cells(systems: Sequence[SystemRow], attributes: Sequence[str]) -> Iterator[list[str]]:
    """Yield a line per attribute, one of means, one of parse faults.

    A line has a name, then a cell per system; the interval of this run follows its cell.
    """
    for name in (*attributes, None):
        yield [name or "mean", *_with_interval(systems, [format_score(row.f1(name)) for row in systems], name)]
    if any("parse_fault_rate" in row.scores for row in systems):
        faults = [format_percent(row.scores.get("parse_fault_rate")) for row in systems]
        yield ["parse faults", *_with_interval(systems, faults, "")]


def print_order(systems: Sequence[SystemRow], metrics: Mapping[str, Any], console: Console) -> None:
    """Print how far systems are from gold on attributes whose values are in order; nothing where there are none."""
    lines = list(order_cells(systems, metrics))
    if lines:
        table = Table(box=box.SIMPLE_HEAD, title=ORDER, title_justify="left", pad_edge=False)
        for name in ("attribute", ""):
            table.add_column(name, no_wrap=True)
        for system in systems:
            style = "bold" if system.key == THIS_RUN else None
            table.add_column(_SHORT.get(system.key, system.label), justify="right", style=style, no_wrap=True)
        for cells in lines:
            table.add_row(*cells)
        console.print(table)


def order_cells(systems: Sequence[SystemRow], metrics: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield two lines per attribute whose values are in order: its name, what is measured, then a cell per system."""
    for name, scores in metrics["test"]["per_attribute"].items():
        if "unit" in scores:
            unit = f", {scores['unit']}" if scores["unit"] else ""
            for score, label in (("mean_absolute_error", f"mean error{unit}"), ("quadratic_kappa", "quadratic kappa")):
                yield [name, label, *(format_score(row.of_order(name, score)) for row in systems)]


def run_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return lines on what was run, what it cost, and how it compares."""
    config, test = metrics.get("config", {}), metrics["test"]
    facts = [f"{key} {config[key]}" for key in CONFIG_KEYS if config.get(key) is not None]
    settings = [config.get(key, []) for key in ("reads", "training")]
    if test.get("n_users") is not None:
        facts.append(f"{test['n_users']} test users")
    if metrics.get("n_parameters"):
        facts.append(f"{metrics['n_parameters'] / 1e6:.1f} M parameters")
    cost = [f"{name} {value:.1f} s" for name, value in metrics.get("seconds", {}).items() if value is not None]
    if metrics.get("peak_rss_mb"):
        cost.append(f"peak memory {metrics['peak_rss_mb'] / 1024:.2f} GB")
    tokens = metrics.get("endpoint", {})
    if tokens:
        cost.append(
            f"{tokens['prompt_tokens']:,} + {tokens['completion_tokens']:,} tokens, {tokens['refused']} refusals"
        )
    lost = metrics.get("unknown_tokens")
    unknown = [f"{100 * lost:.2f} % of the tokens of the reviews are unknown to the tokenizer"] if lost else []
    means = {row.key: row.f1() for row in system_rows(metrics)}
    run, ceiling, unpaired = means.get(THIS_RUN), means.get("ceiling"), means.get(UNPAIRED)
    compared = []
    if run is not None and ceiling:
        compared.append(f"{100 * run / ceiling:.1f} % of the ceiling")
    if run is not None and unpaired is not None:
        compared.append(f"{run - unpaired:+.2f} points with a user's own photos over other users'")
    alone = [
        f"{name} alone {format_score(means[key])}"
        for name, key in (("decoder", DECODER), ("classifiers", CLASSIFIERS))
        if key in means
    ]
    text_only = []
    if test.get("text_only"):
        row = SystemRow("text_only", "", test["text_only"])
        scores = ", ".join(f"{name} {format_score(row.f1(name))}" for name in row.scores["per_attribute"])
        text_only = [f"text-only attributes, in no mean above: {scores}; their own mean {format_score(row.f1())}"]
    return [f"- {', '.join(parts)}" for parts in (facts, *settings, unknown, cost, compared, alone, text_only) if parts]


def _with_interval(systems: Sequence[SystemRow], cells: Sequence[str], attribute: str | None) -> list[str]:
    """Return ``cells``, one per system, with the interval of this run's ``attribute`` behind its own."""
    result = []
    for row, cell in zip(systems, cells, strict=True):
        result.append(cell)
        if row.key == THIS_RUN:
            interval = row.interval(attribute)
            result.append(f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "")
    return result


def format_score(value: float | None, digits: int = 2) -> str:
    """Return a number with that many digits, or the sign for none."""
    return NOT_MEASURED if value is None else f"{float(value):.{digits}f}"


def format_percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 as a percentage, or the sign for none."""
    return NOT_MEASURED if share is None else f"{100 * share:.{digits}f} %"
