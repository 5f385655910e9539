"""``report.html``: what there is to see of a run, in one file that needs no network, no script and no other file.

The template (``assets/report.html``) escapes everything that comes from data; control characters are replaced.
"""

import io
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from mmprofile.evaluate.confidence import ALL, BINS, ConfidenceScores, collect_answers, confidence_scores
from mmprofile.evaluate.plots import reliability, risk_coverage, save_figure
from mmprofile.evaluate.rows import profiles
from mmprofile.evaluate.score_table import (
    LEGEND,
    NOT_MEASURED,
    ORDER,
    ORDER_LEGEND,
    THIS_RUN,
    format_percent,
    order_cells,
    run_notes,
    score_cells,
    system_rows,
)
from mmprofile.files import write_text
from mmprofile.inspection.drawing import draw_gates
from mmprofile.paths import ASSETS
from mmprofile.profile.calibration import calibration
from mmprofile.profile.metrics import confusion, count
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.report.stories import Evidence

NAME = "report.html"
_CONTROL = re.compile("[\0-\b\v\f\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What no HTML may hold."""


class Cell(NamedTuple):
    """A cell of a confusion matrix: the number of users, and their share of the row."""

    users: str
    share: float


class ConfusionRow(NamedTuple):
    """The users with one class in gold: its name, their number, its F1, and a cell per predicted class."""

    value: str
    users: int
    f1: str
    cells: list[Cell]


class Confusion(NamedTuple):
    """The confusion matrix of one attribute.

    Attributes:
        attribute: of the schema.
        several: whether it has several values at a time.
        header: the predicted classes, and "nothing valid".
        rows: one per class in gold.
    """

    attribute: Attribute
    several: bool
    header: list[str]
    rows: list[ConfusionRow]


class ConfidenceTable(NamedTuple):
    """The scores of each attribute, none without confidences, and the figures by name."""

    rows: dict[str, ConfidenceScores]
    figures: dict[str, Figure]


def write_html(
    folder: Path,
    schema: Schema,
    metrics: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    evidence: Evidence | None,
) -> None:
    """Write ``report.html``.

    Args:
        folder: the run's, with the figures of :func:`mmprofile.report.summary.write_report` in it.
        schema: of the profiles.
        metrics: what ``metrics.json`` holds.
        predictions: the rows of ``predictions.jsonl``.
        evidence: users and gates; None: leave both out.

    Raises:
        UserError: the predictions do not fit the schema.
        OSError: the folder cannot be written.
    """
    systems, attributes = system_rows(metrics), list(metrics["test"]["per_attribute"])
    config = metrics.get("config", {})
    confidence = confidence_table(schema, attributes, predictions)
    header = []
    for system in systems:
        header += [system.label, "95 % interval"] if system.key == THIS_RUN else [system.label]
    template = _environment().get_template(NAME)
    text = template.render(
        name=str(config.get("name", folder.name)),
        purpose=config.get("purpose"),
        notes=[line.removeprefix("- ") for line in run_notes(metrics)],
        header=header,
        scores=list(score_cells(systems, attributes)),
        order={"title": ORDER, "legend": ORDER_LEGEND, "lines": list(order_cells(systems, metrics))},
        systems=[system.label for system in systems],
        legend=" ".join(LEGEND).replace("`", ""),
        attributes=schema.names,
        sensitive=[attribute.name for attribute in schema.attributes if attribute.sensitive],
        confusions=confusions(schema, metrics, predictions),
        bins=BINS,
        confidence=confidence.rows,
        risk=metrics["test"].get("risk"),
        figures=_figures(folder, confidence, evidence),
        evidence=evidence,
    )
    write_text(folder / NAME, _CONTROL.sub("\ufffd", text))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"uri": _uri, "number": _number, "percent": _percent}
    return environment


def _figures(folder: Path, confidence: ConfidenceTable, evidence: Evidence | None) -> dict[str, bytes]:
    """Return the PNG files of all figures that there are, by name."""
    files = {name: folder / f"{name}.png" for name in ("report", "learning_curve")}
    figures = {name: path.read_bytes() for name, path in files.items() if path.exists()}
    figures |= {name: png(figure) for name, figure in confidence.figures.items()}
    if evidence is not None and evidence.gates is not None:
        figures["gates"] = png(draw_gates(evidence.gates))
    return figures


def confusions(schema: Schema, metrics: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> list[Confusion]:
    """Return the confusion matrix of each attribute that has a gold value of some user."""
    gold, predicted = (profiles(predictions, part) for part in ("gold", "parsed"))
    counts, test = count(schema, gold, predicted), metrics["test"]
    scores = {**test["per_attribute"], **test.get("text_only", {}).get("per_attribute", {})}
    matrices = []
    for number, attribute in enumerate(schema.attributes):
        table = confusion(counts, number)
        if not table.any():
            continue
        f1_of = scores.get(attribute.name, {}).get("f1", {})
        rows = [
            _confusion_row(value, row.tolist(), f1_of.get(value))
            for value, row in zip(attribute.values, table, strict=True)
        ]
        matrices.append(
            Confusion(
                attribute=attribute,
                several=attribute.several,
                header=[*attribute.values, "nothing valid"],
                rows=rows,
            )
        )
    return matrices


def _confusion_row(value: str, counts: Sequence[float], f1: float | None) -> ConfusionRow:
    users = round(sum(counts))
    return ConfusionRow(
        value=value,
        users=users,
        f1=f"{f1:.1f}" if users and f1 is not None else NOT_MEASURED,
        cells=[Cell(users=_users(cell), share=cell / users if users else 0.0) for cell in counts],
    )


def confidence_table(
    schema: Schema, observed: Sequence[str], predictions: Sequence[Mapping[str, Any]]
) -> ConfidenceTable:
    """Return how far confidences can be trusted, over answers whose gold value is known.

    Args:
        schema: of the profiles.
        observed: the attributes that the row ``all`` covers.
        predictions: the rows of ``predictions.jsonl``.
    """
    answers = collect_answers(schema, observed, predictions)
    rows = confidence_scores(answers)
    if ALL not in answers:
        return ConfidenceTable(rows, {})
    together = answers[ALL]
    curves = {name: calibration(found.confidence, found.correct, BINS) for name, found in answers.items()}
    return ConfidenceTable(
        rows,
        {
            "reliability": reliability(together.confidence, together.correct, bins=BINS),
            "risk_coverage": risk_coverage(curves),
        },
    )


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    file = io.BytesIO()
    save_figure(figure, file)
    return file.getvalue()


def _uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _number(value: float | None, digits: int = 2) -> str:
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return format_percent(value, digits=0)


def _users(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number else ""
