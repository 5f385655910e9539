"""Compares finished runs: a Markdown table of means over seeds, with paired bootstrap tests against a reference.

    python scripts/compare.py outputs/text-* outputs/both-* --reference text --figure scores.png

Runs of one paradigm are its seeds. Every run must have been tested on the same users.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from mmprofile.errors import UserError
from mmprofile.metrics import paired_bootstrap
from mmprofile.profile import Profile, Schema
from mmprofile.report import Row, save_figure, score_figure

BASELINES = {"majority": "majority class", "tfidf_lr": "TF-IDF + LR", "ceiling": "ceiling (true cues)"}


def read(folder: Path) -> dict[str, Any]:
    """A run's metrics, with its schema, gold and predicted profiles.

    Raises:
        UserError: the run is not finished.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        profile = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml").profile)
    except OSError as error:
        raise UserError(f"{folder}: no finished run there ({error.strerror}: {error.filename})") from error
    users = [json.loads(line) for line in lines]

    def profiles(key: str) -> list[Profile]:
        return [{name: tuple(values) for name, values in user[key].items()} for user in users]

    ids = [user["user_id"] for user in users]
    return metrics | {"schema": profile, "ids": ids, "gold": profiles("gold"), "parsed": profiles("parsed")}


def mean(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean scores over seeds, in the form of one run's."""
    names = scores[0]["per_attribute"]
    return {
        "macro_f1": float(np.mean([one["macro_f1"] for one in scores])),
        "per_attribute": {
            name: {"macro_f1": float(np.mean([one["per_attribute"][name]["macro_f1"] for one in scores]))}
            for name in names
        },
    }


def table(systems: Mapping[str, list[dict[str, Any]]], reference: str, resamples: int) -> tuple[list[str], list[Row]]:
    """Markdown lines, and the rows of the figure.

    Raises:
        UserError: the runs were not tested on the same users, or none of them is the reference.
    """
    runs = [run for group in systems.values() for run in group]
    if any(run["ids"] != runs[0]["ids"] for run in runs):
        raise UserError("the runs were tested on different users: compare runs over one prepared data set and split")
    if reference not in systems:
        raise UserError(f"--reference {reference}: no run of that paradigm; there are {', '.join(systems)}")
    schema = Schema.from_dict(runs[0]["schema"])
    lines = [
        f"| system | mean | seeds | {' | '.join(schema.names)} | unpaired | against {reference} | train, s | memory, GB |",
        "| --- |" + " ---: |" * (len(schema.names) + 6),
    ]
    rows = []
    for key, label in BASELINES.items():
        found = [run["baselines"][key] for run in runs if key in run["baselines"]]
        if found:
            rows.append(Row(key, label, mean(found[:1])))
            lines.append(_line(label, found[:1], schema, ["-"] * 4))
    for name, group in systems.items():
        rows.append(Row(name, name, mean([run["test"] for run in group])))
        against = "-"
        if name != reference:
            result = paired_bootstrap(
                schema,
                runs[0]["gold"],
                [run["parsed"] for run in group],
                [run["parsed"] for run in systems[reference]],
                resamples=resamples,
            )
            against = f"{result.delta:+.2f} (p = {result.p:.4f})"
        extra = [
            f"{np.mean([run['test']['unpaired']['macro_f1'] for run in group]):.2f}",
            against,
            f"{np.median([run['seconds']['train'] for run in group]):.0f}",
            f"{max(run['peak_rss_mb'] for run in group) / 1024:.2f}",
        ]
        lines.append(_line(name, [run["test"] for run in group], schema, extra))
    order = [row for row in rows if row.key != "ceiling"] + [row for row in rows if row.key == "ceiling"]
    return lines, order


def _line(label: str, scores: list[Mapping[str, Any]], schema: Schema, extra: list[str]) -> str:
    average = mean(scores)
    seeds = ", ".join(f"{one['macro_f1']:.2f}" for one in scores) if len(scores) > 1 else "-"
    cells = [f"{average['per_attribute'][name]['macro_f1']:.2f}" for name in schema.names]
    return "| " + " | ".join([label, f"{average['macro_f1']:.2f}", seeds, *cells, *extra]) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders that mmprofile.train wrote")
    parser.add_argument("--reference", default="text", help="paradigm that the others are tested against")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--figure", type=Path, default=None, help="PNG to draw")
    args = parser.parse_args()
    systems: dict[str, list[dict[str, Any]]] = {}
    try:
        for folder in args.runs:
            run = read(folder)
            systems.setdefault(run["config"]["paradigm"], []).append(run)
        lines, rows = table(systems, args.reference, args.resamples)
    except UserError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines))
    if args.figure:
        save_figure(score_figure(rows, list(rows[0].scores["per_attribute"])), args.figure)


if __name__ == "__main__":
    main()
