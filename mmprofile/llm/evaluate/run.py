"""Labels against gold: ``python -m mmprofile.llm.evaluate data=demo labels=outputs/llm/demo/labels.parquet``.

Prints a table, and writes scores.json, reliability.png and risk_coverage.png next to the labels.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mmprofile.errors import UserError
from mmprofile.evaluate import plots as figures
from mmprofile.evaluate.plots import save_figure
from mmprofile.evaluate.score_table import MISSING, WIDTH
from mmprofile.llm.answers import Claim
from mmprofile.llm.calibrate import ON_GOLD
from mmprofile.llm.labels import CALIBRATION, Joined, join, load_labels
from mmprofile.llm.people import Person
from mmprofile.llm.scores import BINS, LabelScores, Scores, score_labels, tabulate
from mmprofile.llm.stage import labels_path, open_schema, purpose, read_people
from mmprofile.profile.calibration import calibration
from mmprofile.profile.schema import Schema


def main(cfg: Any) -> None:
    """Entry point: reads, scores, prints, writes."""
    schema = open_schema(cfg)
    path = labels_path(cfg)
    labels = load_labels(path)
    people, fitted = unfitted(read_people(cfg, schema), path)
    joined = join(people, labels, schema, path)
    gold = [person.gold for person in people]
    scores = score_labels(schema.names, gold, joined.labels, seed=cfg.seed)
    counts = {"labels_of_others": joined.others, "labels_of_other_attributes": joined.foreign}
    settings = {
        "labels": str(path), "profile": schema.name, "splits": list(cfg.splits), "purpose": purpose(cfg),
        "calibrated_on": fitted,
    }  # fmt: skip
    text = json.dumps({**scores.to_dict(), **counts, **settings}, indent=2, ensure_ascii=False)
    (path.parent / "scores.json").write_text(text + "\n", encoding="utf-8")
    print_scores(scores, joined, [split for split in cfg.splits if split != fitted])
    if fitted:
        print(f"the split {fitted} is left out: the confidences were calibrated on its gold values")
    print(f"{path.parent}: {', '.join(['scores.json', *draw(schema, gold, joined.labels, path.parent)])}")


def unfitted(people: Sequence[Person], labels: Path) -> tuple[list[Person], str | None]:
    """The people whose gold values no calibration of these labels saw, and the split that one did see.

    Raises:
        UserError: nobody is left.
    """
    try:
        made = json.loads(labels.with_name(CALIBRATION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return list(people), None
    fitted = made["vote"]["gold_split"] if made["kind"] in ON_GOLD else None
    left = [person for person in people if person.split != fitted]
    if not left:
        raise UserError(f"{labels}: its confidences were calibrated on the split {fitted}; score others: splits=[test]")
    return left, fitted


def draw(schema: Schema, gold: Sequence[Any], labels: Sequence[Mapping[str, Claim]], folder: Path) -> list[str]:
    """Draws both figures, and says which; none where every label is Unknown."""
    table = tabulate(schema.names, gold, labels)
    confidence, correct = table.claims()
    if not len(confidence):
        return []
    save_figure(figures.reliability(confidence, correct, BINS), folder / "reliability.png")
    each = {name: table.claims(i) for i, name in enumerate(schema.names)}
    curves = {
        name: calibration(*claims, BINS)
        for name, claims in {"all": (confidence, correct), **each}.items()
        if len(claims[0])
    }
    save_figure(figures.risk_coverage(curves), folder / "risk_coverage.png")
    return ["reliability.png", "risk_coverage.png"]


def print_scores(scores: Scores, joined: Joined, splits: Sequence[str]) -> None:
    """A line per attribute and one for all, and who was not scored."""
    console = Console(highlight=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("attribute", no_wrap=True)
    for name in ("prec.", "recall", "F1", "acc.", "cover.", "ECE", "Brier", "AURC", "scored", "no gold", "no label"):
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    for attribute, one in scores.per_attribute.items():
        table.add_row(attribute, *_cells(one))
    table.add_section()
    table.add_row("all", *_cells(scores.overall), style="bold")
    console.print(table)
    interval = " to ".join(f"{end:.2f}" for end in scores.interval or ())
    lines = [
        "all: means of the rates, sums of the counts; ECE, Brier and AURC of all that is not Unknown together",
        f"macro F1 {scores.overall.f1:.2f}, 95 % interval over users {interval}",
        f"{scores.users:,} people of {', '.join(splits)}: {scores.without_gold:,} without any gold value (not scored), "
        f"{scores.without_labels:,} without any label (as if Unknown)",
    ]
    if joined.others:
        lines.append(f"{joined.others:,} labels are of people who were not read (other splits or data): left out")
    if joined.foreign:
        lines.append(f"{joined.foreign:,} labels are of attributes that the profile does not have: left out")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _cells(one: LabelScores) -> list[str]:
    rates = [f"{value:.2f}" for value in (one.precision, one.recall, one.f1, one.accuracy, one.coverage)]
    trust = [f"{value:.3f}" for value in (one.ece, one.brier, one.aurc)]
    counts = [f"{count:,}" for count in (one.scored, one.without_gold, one.without_label)]
    return [cell.replace("nan", MISSING) for cell in (*rates, *trust, *counts)]
