"""The command ``report``: the reports of a finished run are rendered again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from mmprofile.config.compose import typed
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import read_predictions
from mmprofile.evaluate.runs import check_data, find_prepared, load_run, make_data, open_draws
from mmprofile.profile.schema import Schema
from mmprofile.report.html import NAME, write_html
from mmprofile.report.stories import Evidence, evidence_of_model, evidence_of_system
from mmprofile.report.summary import write_report


def main(cfg: Any) -> None:
    """Entry point: ``report.md``, its figures and ``report.html`` of a finished run, again."""
    torch.set_flush_denormal(True)  # as in training
    if cfg.count < 0:
        raise UserError(f"count={cfg.count}: give 0 or more")
    folder = Path(cfg.run).expanduser()
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        run_cfg: Any = OmegaConf.load(folder / "config.yaml")
    except (OSError, ValueError) as error:
        raise UserError(f"run={cfg.run}: no finished run there ({error})") from error
    schema = Schema.from_config(run_cfg.profile)
    predictions, evidence = read_predictions(folder), None
    if "task" not in run_cfg:  # that of mmprofile.apply is about reviews, not profiles of people
        evidence = look(cfg, folder, schema, typed("train", run_cfg), predictions)
    write_report(folder, metrics, metrics.get("history"))
    write_html(folder, schema, metrics, predictions, evidence)
    print(f"report: {folder / NAME} ({(folder / NAME).stat().st_size / 1e6:.1f} MB), {folder / 'report.md'}")


def look(cfg: Any, folder: Path, schema: Schema, run_cfg: Any, predictions: Sequence[Mapping[str, Any]]) -> Evidence:
    """What there is to see of a finished run, of its own data.

    Raises:
        UserError: they are not there or not the same any more.
    """
    model = load_run(cfg.run)[2] if run_cfg.model.system == "neural" else None
    try:
        prepared = find_prepared(run_cfg, schema, cfg.folder)
        data = make_data(run_cfg, model, prepared) if model else open_draws(run_cfg, schema, prepared)
        check_data(folder, data)
    except UserError as error:
        raise UserError(f"run={cfg.run}: {error}") from error
    if model is None:
        return evidence_of_system(schema, data, predictions, cfg.count)
    return evidence_of_model(model, data, predictions, cfg.count)
