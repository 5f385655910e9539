"""Labels against gold: ``python -m mmprofile.llm.evaluate data=demo labels=outputs/llm/demo/labels.parquet``.

It prints a table, and writes scores.json, reliability.png and risk_coverage.png beside the labels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.errors import UserError
from mmprofile.evaluate.plots import reliability, risk_coverage, save_figure
from mmprofile.evaluate.score_table import NOT_MEASURED, TABLE_WIDTH
from mmprofile.files import MALFORMED, read_json, write_json
from mmprofile.llm.answers import Claim
from mmprofile.llm.calibrate import ON_GOLD
from mmprofile.llm.labels import CALIBRATION, Joined, join, load_labels
from mmprofile.llm.people import Person
from mmprofile.llm.scores import BINS, LabelScores, LabelSetScores, score_labels, tabulate
from mmprofile.llm.stage import labels_path, open_schema, purpose, read_people
from mmprofile.profile.calibration import calibration
from mmprofile.profile.schema import Profile, Schema


def main(cfg: LlmConfig) -> None:
    """Score the labels, print the scores, and write them with the figures."""
    schema = open_schema(cfg)
    path = labels_path(cfg)
    labels = load_labels(path)
    people, gold_split = without_gold_split(read_people(cfg, schema), path)
    joined = join(people, labels, schema, path)
    gold = [person.gold for person in people]
    scores = score_labels(schema.names, gold, joined.labels, seed=cfg.seed)
    facts = {
        "labels_of_others": joined.of_others,
        "labels_of_other_attributes": joined.of_other_attributes,
        "labels": str(path),
        "profile": schema.name,
        "splits": list(cfg.splits),
        "purpose": purpose(cfg),
        "calibrated_on": gold_split,
    }
    write_json(path.parent / "scores.json", scores.to_dict() | facts, ensure_ascii=False)
    print_scores(scores, joined, [split for split in cfg.splits if split != gold_split])
    if gold_split:
        print(f"the split {gold_split} is left out: the confidences were calibrated on its gold values")
    print(f"{path.parent}: {', '.join(['scores.json', *draw(schema, gold, joined.labels, path.parent)])}")


def without_gold_split(people: Sequence[Person], labels: Path) -> tuple[list[Person], str | None]:
    """Return the people whose gold values did not calibrate these labels, and the split whose gold values did, if any.

    Raises:
        UserError: nobody is left.
    """
    try:
        calibration = read_json(labels.with_name(CALIBRATION))
        gold_split = calibration["vote"]["gold_split"] if calibration["kind"] in ON_GOLD else None
    except FileNotFoundError:
        return list(people), None
    except (OSError, *MALFORMED) as error:
        raise UserError(f"{labels.with_name(CALIBRATION)}: cannot be read ({error}); vote again") from error
    others = [person for person in people if person.split != gold_split]
    if not others:
        raise UserError(
            f"{labels}: its confidences were calibrated on the split {gold_split}; score others: splits=[test]"
        )
    return others, gold_split


def draw(schema: Schema, gold: Sequence[Profile], labels: Sequence[Mapping[str, Claim]], folder: Path) -> list[str]:
    """Draw the figures, and return the names of their files; none where every label is Unknown."""
    table = tabulate(schema.names, gold, labels)
    confidence, correct = table.claims()
    if not len(confidence):
        return []
    save_figure(reliability(confidence, correct, BINS), folder / "reliability.png")
    curves = {"all": calibration(confidence, correct, BINS)}
    for i, name in enumerate(schema.names):
        confidence, correct = table.claims(i)
        if len(confidence):
            curves[name] = calibration(confidence, correct, BINS)
    save_figure(risk_coverage(curves), folder / "risk_coverage.png")
    return ["reliability.png", "risk_coverage.png"]


def print_scores(scores: LabelSetScores, joined: Joined, splits: Sequence[str]) -> None:
    """Print a line per attribute, one for all, and how many people and labels were left out."""
    console = Console(highlight=False)
    console.width = min(TABLE_WIDTH, console.width) if console.is_terminal else TABLE_WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("attribute", no_wrap=True)
    for name in ("prec.", "recall", "F1", "acc.", "cover.", "ECE", "Brier", "AURC", "scored", "no gold", "no label"):
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    for attribute, of_attribute in scores.per_attribute.items():
        table.add_row(attribute, *_cells(of_attribute))
    table.add_section()
    table.add_row("all", *_cells(scores.overall), style="bold")
    console.print(table)
    interval = " to ".join(f"{end:.2f}" for end in scores.interval or ())
    lines = [
        "all: means of the rates, sums of the counts; ECE, Brier and AURC of all labels together that are not Unknown",
        f"macro F1 {scores.overall.f1:.2f}, 95 % interval over users {interval}",
        f"{scores.users:,} people of {', '.join(splits)}: {scores.without_gold:,} without any gold value (not scored), "
        f"{scores.without_labels:,} without any label (as if Unknown)",
    ]
    if joined.of_others:
        lines.append(f"{joined.of_others:,} labels are of people who were not read (other splits or data): left out")
    if joined.of_other_attributes:
        lines.append(
            f"{joined.of_other_attributes:,} labels are of attributes that the profile does not have: left out"
        )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _cells(scores: LabelScores) -> list[str]:
    rates = [f"{rate:.2f}" for rate in (scores.precision, scores.recall, scores.f1, scores.accuracy, scores.coverage)]
    confidence = [f"{value:.3f}" for value in (scores.ece, scores.brier, scores.aurc)]
    counts = [f"{count:,}" for count in (scores.scored, scores.without_gold, scores.without_label)]
    return [cell.replace("nan", NOT_MEASURED) for cell in (*rates, *confidence, *counts)]
