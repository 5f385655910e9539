"""``report.html``: all that there is to see of a run, in one file that needs no network, no script and no other file.

Everything that comes from data is escaped by the template (``assets/report.html``), and control characters are replaced.
"""

import io
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from mmprofile.evaluate.plots import reliability, risk_coverage, save_figure
from mmprofile.evaluate.predictions import profiles
from mmprofile.evaluate.score_table import LEGEND, MISSING, THIS_RUN, notes, rows, score_cells
from mmprofile.inspection.drawing import draw_gates
from mmprofile.paths import ASSETS
from mmprofile.profile.calibration import calibration
from mmprofile.profile.metrics import confusion, count
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.report.stories import Evidence

BINS = 15
NAME = "report.html"
_CONTROL = re.compile("[\0-\b\v\f\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What no HTML may hold."""


class Cell(NamedTuple):
    """Of a confusion table: users, and which share of those with the row's class."""

    users: str
    share: float


class Confusion(NamedTuple):
    """``header``: classes and "nothing valid"; a row per class: its name, users with it in gold, F1, cells; ``several``: values."""

    attribute: Attribute
    several: bool
    header: list[str]
    rows: list[tuple[str, int, str, list[Cell]]]


def write_html(
    folder: Path,
    schema: Schema,
    metrics: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    evidence: Evidence | None,
) -> None:
    """Writes ``report.html``.

    Args:
        folder: the run's, with the figures of :func:`mmprofile.report.summary.write_report` in it.
        schema: of the profiles.
        metrics: what ``metrics.json`` holds.
        predictions: the rows of ``predictions.jsonl``.
        evidence: users and gates; None: neither is there to see.

    Raises:
        UserError: predictions do not go with the schema.
        OSError: the folder cannot be written.
    """
    systems, attributes = rows(metrics), list(metrics["test"]["per_attribute"])
    header = []
    for system in systems:
        header += [system.label, "95 % interval"] if system.key == THIS_RUN else [system.label]
    files = {name: folder / f"{name}.png" for name in ("report", "learning_curve")}
    figures = {name: path.read_bytes() for name, path in files.items() if path.exists()}
    surety = sureness(schema, attributes, predictions)
    figures |= {name: png(figure) for name, figure in surety.figures.items()}
    if evidence is not None and evidence.gates is not None:
        figures["gates"] = png(draw_gates(*evidence.gates))
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"uri": _uri, "number": _number, "percent": _percent}
    text = environment.get_template(NAME).render(
        name=str(metrics.get("config", {}).get("name", folder.name)),
        purpose=metrics.get("config", {}).get("purpose"),
        notes=[line.removeprefix("- ") for line in notes(metrics)],
        header=header,
        scores=list(score_cells(systems, attributes)),
        legend=" ".join(LEGEND).replace("`", ""),
        attributes=schema.names,
        sensitive=[attribute.name for attribute in schema.attributes if attribute.sensitive],
        confusions=confusions(schema, metrics, predictions),
        bins=BINS,
        surety=surety.rows,
        figures=figures,
        evidence=evidence,
    )
    (folder / NAME).write_text(_CONTROL.sub("\ufffd", text), encoding="utf-8")


def confusions(schema: Schema, metrics: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> list[Confusion]:
    """A table for each attribute of which somebody has a gold value."""
    gold, said = (profiles(predictions, part) for part in ("gold", "parsed"))
    counts, test = count(schema, gold, said), metrics["test"]
    scores = {**test["per_attribute"], **test.get("text_only", {}).get("per_attribute", {})}
    found = []
    for number, attribute in enumerate(schema.attributes):
        table = confusion(counts, number)
        if not table.any():
            continue
        one = scores.get(attribute.name, {})
        lines = []
        for value, row in zip(attribute.values, table, strict=True):
            users = round(row.sum())
            cells = [Cell(_users(cell), cell / users if users else 0.0) for cell in row.tolist()]
            f1 = one.get("f1", {}).get(value)
            lines.append((value, users, f"{f1:.1f}" if users and f1 is not None else MISSING, cells))
        found.append(Confusion(attribute, attribute.kind != "single", [*attribute.values, "nothing valid"], lines))
    return found


class Sureness(NamedTuple):
    """``rows``: name, answers, share right, mean confidence, ECE, Brier, AURC; none without confidences; and two figures."""

    rows: list[tuple[str, int, float, float, float, float, float]]
    figures: dict[str, Figure]


def sureness(schema: Schema, observed: Sequence[str], predictions: Sequence[Mapping[str, Any]]) -> Sureness:
    """How far confidences can be trusted, of answers whose gold value is known; ``all`` is of the ``observed`` attributes."""
    if not all("confidence" in row for row in predictions):
        return Sureness([], {})
    answers: dict[str, tuple[list[float], list[bool]]] = {"all": ([], [])}
    for attribute in schema.attributes:
        for row in predictions:
            gold, said = (attribute.canonical(row[part].get(attribute.name, ())) for part in ("gold", "parsed"))
            for name in (attribute.name, "all") if attribute.name in observed else (attribute.name,):
                sure, right = answers.setdefault(name, ([], []))
                if gold:
                    sure.append(row["confidence"][attribute.name])
                    right.append(said == gold)
    known = {name: (np.array(sure), np.array(right)) for name, (sure, right) in answers.items() if sure}
    curves = {name: calibration(*pair, BINS) for name, pair in known.items()}
    table = [
        (name, len(sure), float(right.mean()), float(sure.mean()), curve.ece, curve.brier, curve.aurc)
        for (name, (sure, right)), curve in zip(known.items(), curves.values(), strict=True)
    ]
    if "all" not in known:
        return Sureness(table, {})
    return Sureness(table, {"reliability": reliability(*known["all"], BINS), "risk_coverage": risk_coverage(curves)})


def png(figure: Figure) -> bytes:
    """A figure's file."""
    file = io.BytesIO()
    save_figure(figure, file)
    return file.getvalue()


def _uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _number(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.0f} %"


def _users(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number else ""
