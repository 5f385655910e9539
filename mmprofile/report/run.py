"""The command ``report``: render the reports of a finished run again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import UndefinedError

from mmprofile.config.compose import read_run_config, typed
from mmprofile.config.settings import ReportConfig, TrainConfig
from mmprofile.errors import UserError
from mmprofile.evaluate.rows import read_predictions
from mmprofile.evaluate.runs import check_data, checked_data, find_prepared, load_run, open_draws
from mmprofile.files import MALFORMED, read_json
from mmprofile.inputs.data import run_schema
from mmprofile.profile.schema import Schema, check_purpose
from mmprofile.report.html import NAME, write_html
from mmprofile.report.stories import Evidence, evidence_of_model, evidence_of_system, shown_evidence
from mmprofile.report.summary import write_report


def main(cfg: ReportConfig) -> None:
    """Write ``report.md``, its figures and ``report.html`` of a finished run again."""
    torch.set_flush_denormal(True)  # as in training
    if cfg.count < 0:
        raise UserError(f"count={cfg.count}: give 0 or more")
    folder = Path(cfg.run).expanduser()
    try:
        metrics = read_json(folder / "metrics.json")
    except (OSError, ValueError) as error:
        raise UserError(f"run={cfg.run}: no finished run there ({error})") from error
    run_cfg = read_run_config(folder)
    schema = run_schema(folder, run_cfg)
    purpose = check_purpose(schema, cfg.purpose, trained_for=run_cfg.get("purpose"))
    predictions, evidence = read_predictions(folder), None
    if "task" not in run_cfg:  # that of mmprofile.apply is about reviews, not profiles of people
        evidence = collect_evidence(cfg, schema, typed("train", run_cfg), predictions)
    try:
        if purpose:
            metrics.setdefault("config", {})["purpose"] = purpose
        write_report(folder, metrics, metrics.get("history"))
        write_html(folder, schema, metrics, predictions, evidence)
    except (*MALFORMED, UndefinedError) as error:
        raise UserError(
            f"run={cfg.run}: metrics.json and predictions.jsonl are not those of a run ({type(error).__name__}: {error}); "
            "take the folder as mmprofile.train wrote it"
        ) from error
    print(f"report: {folder / NAME} ({(folder / NAME).stat().st_size / 1e6:.1f} MB), {folder / 'report.md'}")


def collect_evidence(
    cfg: ReportConfig, schema: Schema, run_cfg: TrainConfig, predictions: Sequence[Mapping[str, Any]]
) -> Evidence:
    """Return the evidence of a finished run, on its own data.

    Raises:
        UserError: the data are gone, or have other users.
    """
    run = load_run(cfg.run) if run_cfg.model.system == "neural" else None
    try:
        if run is not None:
            data = checked_data(run, cfg.folder)
        else:
            draws = open_draws(run_cfg, schema, find_prepared(run_cfg, cfg.folder))
            check_data(Path(cfg.run).expanduser(), draws)
    except UserError as error:
        raise UserError(f"run={cfg.run}: {error}") from error
    if run is not None:
        evidence = evidence_of_model(run.model, data, predictions, cfg.count)
    else:
        evidence = evidence_of_system(schema, draws, predictions, cfg.count)
    return shown_evidence(evidence, run_cfg.data, run_cfg.report.texts if cfg.texts is None else cfg.texts)
