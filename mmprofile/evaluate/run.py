"""The command ``evaluate``: a finished run is scored again."""

import json
from typing import Any

import torch

from mmprofile.evaluate.predictions import evaluate_baselines, evaluate_model, write_predictions
from mmprofile.evaluate.runs import load_run, run_data, run_facts
from mmprofile.evaluate.score_table import print_scores


def main(cfg: Any) -> None:
    """Entry point: prints the scores of a run and writes ``evaluation-<split>.json`` beside its metrics."""
    torch.set_flush_denormal(True)  # as in training
    folder, train_cfg, model = load_run(cfg.run)
    data = run_data(train_cfg, model)
    settings = train_cfg.evaluation
    torch.manual_seed(0)
    test, predictions = evaluate_model(model, data, cfg.split, cfg.beams or settings.beams, settings)
    write_predictions(folder / f"predictions-{cfg.split}.jsonl", predictions)
    metrics = {"test": test, "baselines": evaluate_baselines(model.schema, data, cfg.split, settings.resamples)}
    metrics["config"] = run_facts(train_cfg)
    (folder / f"evaluation-{cfg.split}.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print_scores(metrics)
