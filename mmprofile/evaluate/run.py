"""The command ``evaluate``: score a finished run again."""

import torch

from mmprofile.config.settings import EvaluateConfig
from mmprofile.evaluate.predictions import evaluate_baselines, evaluate_model, write_predictions
from mmprofile.evaluate.runs import load_run, run_data, run_facts
from mmprofile.evaluate.score_table import print_scores
from mmprofile.files import write_json
from mmprofile.profile.schema import check_purpose


def main(cfg: EvaluateConfig) -> None:
    """Print the scores of a run on a split; write them and the predictions beside its metrics."""
    torch.set_flush_denormal(True)  # as in training
    run = load_run(cfg.run)
    purpose = check_purpose(run.model.schema, cfg.purpose, trained_for=run.cfg.purpose)
    data, settings = run_data(run), run.cfg.evaluation
    torch.manual_seed(0)
    test, predictions = evaluate_model(run.model, data, cfg.split, cfg.beams or settings.beams, settings)
    write_predictions(run.folder / f"predictions-{cfg.split}.jsonl", predictions)
    baselines = evaluate_baselines(run.model.schema, data, cfg.split, settings.resamples)
    metrics = {"test": test, "baselines": baselines, "config": run_facts(run.cfg, purpose)}
    write_json(run.folder / f"evaluation-{cfg.split}.json", metrics)
    print_scores(metrics)
