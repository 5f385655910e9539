"""Trains and scores a model: ``python -m mmprofile.train paradigm=both``.

From here to the loss there are three hops: ``train.run`` -> ``module.training_step`` -> ``model.forward``.
"""

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from mmprofile.config.compose import difference
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import (
    UNPAIRED_SEED,
    Prediction,
    changed_photos,
    evaluate_baselines,
    evaluate_model,
    evaluate_users,
    parse_predictions,
    read_predictions,
    write_predictions,
)
from mmprofile.evaluate.runs import make_data, open_draws, run_facts
from mmprofile.evaluate.score_table import print_scores
from mmprofile.inputs.data import prepare_data
from mmprofile.inputs.views import User
from mmprofile.model.build import build_model
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from mmprofile.report.html import write_html
from mmprofile.report.stories import Evidence, evidence_of_model, evidence_of_system
from mmprofile.report.summary import write_report
from mmprofile.systems.systems import SYSTEMS
from mmprofile.train.checks import check_settings
from mmprofile.train.loop import choose_precision, fit, load_weights, make_trainer
from mmprofile.train.module import ProfileModule
from mmprofile.train.probe import Probe


class Clock:
    """Seconds of the parts of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a part."""
        now = time.perf_counter()
        self.seconds[name], self._start = now - self._start, now


def run_system(cfg: Any, schema: Schema, folder: Path) -> tuple[dict[str, Any], Evidence]:
    """Prepares, fits, predicts and scores; what :func:`mmprofile.train.run.finish` writes.

    Raises:
        UserError: the system's settings or the data are not usable.
    """
    system = SYSTEMS[cfg.model.system](cfg, schema, folder)
    clock = Clock()
    prepared = prepare_data(cfg.data, schema)
    clock.lap("prepare")
    data = open_draws(cfg, schema, prepared, system.view.captions != "none")
    users = data.judged("test")
    sizes = " / ".join(str(len(data.users(split))) for split in ("train", "validation", "test"))
    print(
        f"run {cfg.name} in {folder}\n  system {cfg.model.system}, users {sizes} (train / validation / test)",
        flush=True,
    )
    system.fit(data)
    clock.lap("train")

    def predict(users: Sequence[User], label: str) -> list[Prediction]:
        return parse_predictions(schema, users, system.predict(users, label))

    changed = changed_photos(users, cfg.inputs.pairing, cfg.evaluation.missing) if system.repeats else {}
    test, predictions = evaluate_users(schema, users, predict, cfg.evaluation, system.view, changed)
    write_predictions(folder / "predictions.jsonl", predictions)
    evidence = evidence_of_system(schema, data, [prediction.to_dict() for prediction in predictions])
    baselines = evaluate_baselines(schema, data, "test", cfg.evaluation.resamples)
    clock.lap("evaluate")
    metrics = {
        "test": test,
        "baselines": baselines,
        "seconds": clock.seconds,
        "n_parameters": system.n_parameters,
        "history": [],
        **system.facts(),
    }
    return metrics, evidence


def main(cfg: Any) -> None:
    """Entry point: prepare, train, evaluate, report; the same command again goes on where it stopped."""
    precision = choose_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    check_settings(cfg)
    folder = open_run(cfg)
    if finished(folder):
        return
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    schema = Schema.from_config(cfg.profile)
    neural = cfg.model.system == "neural"
    found = train_model(cfg, schema, folder, precision) if neural else run_system(cfg, schema, folder)
    if found is not None:
        metrics, evidence = found
        finish(folder, schema, metrics, run_facts(cfg), evidence)


def train_model(cfg: Any, schema: Schema, folder: Path, precision: str) -> tuple[dict[str, Any], Evidence] | None:
    """Trains a model to the end, exports, scores and looks at it; None on all ranks but the first."""
    torch.set_flush_denormal(True)  # gradients below 1e-38 made a step on a CPU take 1.8 times as long
    print(f"loading model {cfg.model.name}: {cfg.model.text.name}, {cfg.model.vision.name}", flush=True)
    model = make_model(cfg, schema)
    if cfg.purpose is not None:
        model.settings["purpose"] = cfg.purpose
    clock = time.perf_counter()
    prepared = prepare_data(cfg.data, schema)
    seconds = {"prepare": time.perf_counter() - clock}

    data = make_data(cfg, model, prepared)
    trainer = make_trainer(cfg, folder, precision)
    steps = data.steps_per_epoch(trainer.world_size) * cfg.trainer.max_epochs
    probe = Probe.of(data, cfg.probe.users, UNPAIRED_SEED)
    module = ProfileModule(model, data.views, data.loss_weights, cfg.optim, steps, cfg.evaluation.dev_beams, probe)
    if trainer.is_global_zero:
        print(describe(cfg, model, data, folder, precision), flush=True)
    fit(trainer, module, data, folder)
    if not trainer.is_global_zero:
        return None
    seconds["train"] = module.seconds

    clock = time.perf_counter()
    load_weights(module, folder / "checkpoints" / "best.ckpt")
    model.fit_dev(batch.to(module.device) for batch in data.val_dataloader())
    model.save_pretrained(folder / "model")
    settings = cfg.evaluation
    test, predictions = evaluate_model(model, data, "test", settings.beams, settings, cfg.trainer.progress)
    write_predictions(folder / "predictions.jsonl", predictions)
    baselines = evaluate_baselines(schema, data, "test", settings.resamples)
    seconds["evaluate"] = time.perf_counter() - clock
    evidence = evidence_of_model(model, data, [prediction.to_dict() for prediction in predictions])
    count = sum(p.numel() for p in model.parameters())
    metrics = {"test": test, "baselines": baselines, "seconds": seconds, "n_parameters": count}
    return metrics | {"history": module.history}, evidence


def finished(folder: Path) -> bool:
    """Whether the run is; prints its scores then."""
    done = folder / "metrics.json"
    if done.exists():
        print(f"{folder} is finished; its scores:")
        print_scores(json.loads(done.read_text(encoding="utf-8")))
    return done.exists()


def finish(
    folder: Path, schema: Schema, metrics: dict[str, Any], facts: dict[str, Any], evidence: Evidence | None = None
) -> None:
    """Writes reports and ``metrics.json``, and prints the scores.

    Args:
        folder: the run's, with ``predictions.jsonl`` in it.
        schema: of the predictions.
        metrics: ``test``, ``baselines``, ``seconds``, ``n_parameters``, ``history``, and what else a system tells.
        facts: what a report says of the configuration.
        evidence: what else there is to see in a report.
    """
    metrics |= {
        "seconds": {name: round(value, 2) for name, value in metrics["seconds"].items()},
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "config": facts,
    }
    write_report(folder, metrics, metrics["history"])
    write_html(folder, schema, metrics, read_predictions(folder), evidence)
    # Last, and whole or not at all: its presence says that the run is finished.
    partial = folder / "metrics.json.tmp"
    partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / "metrics.json")
    print_scores(metrics)
    print(f"\nreport: {folder / 'report.html'}, {folder / 'report.md'}   scores: {folder / 'metrics.json'}", end="")
    print(f"   model: {folder / 'model'}" if (folder / "model").is_dir() else "")


def make_model(cfg: Any, schema: Schema) -> ProfileModel:
    """The model that the configuration describes; without vision where its prediction view shows no photos."""
    plain = OmegaConf.to_container(cfg.model)
    assert isinstance(plain, dict)
    seen = {"modality": cfg.paradigm.modality, "encoding": cfg.text.encoding}
    inputs = {**seen, **OmegaConf.to_container(cfg.inputs)}  # type: ignore[dict-item]
    vision = plain["vision"] if cfg.paradigm.modality in ("multi", "both") else None
    head = {"kind": cfg.model.head, "auxiliary": cfg.model.auxiliary, **plain["options"]}
    how = cfg.decoder.vocabulary, cfg.model.target, head
    return build_model(plain["text"], vision, plain["fusion"], schema, inputs, *how)


def open_run(cfg: Any) -> Path:
    """The run's folder, made ready: its configuration is written, or is the same as the one there.

    Raises:
        UserError: the folder holds a run with other settings, or cannot be written.
    """
    folder = Path(cfg.out).expanduser() / str(cfg.name)
    text = OmegaConf.to_yaml(cfg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.yaml"
        # A run that failed before its first checkpoint (a wrong name, say) leaves nothing that other settings could spoil.
        if config.exists() and any((folder / name).exists() for name in ("checkpoints", "metrics.json")):
            changed = difference(OmegaConf.load(config), OmegaConf.create(text))
            if changed:
                raise UserError(
                    f"{folder} holds a run with other settings ({'; '.join(changed[:3])}): choose another name= or out=, "
                    f"or delete the folder"
                )
        config.write_text(text, encoding="utf-8")
        facts = {name: version(name) for name in ("torch", "transformers", "timm", "pytorch-lightning", "entmax")}
        facts |= {"python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count())}
        (folder / "environment.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the run's folder {folder}: {error.strerror}; choose another out=") from error
    return folder


def describe(cfg: Any, model: ProfileModel, data: Any, folder: Path, precision: str) -> str:
    """A few lines on what is about to be done."""
    count = sum(p.numel() for p in model.parameters()) / 1e6
    sizes = " / ".join(str(len(data.users(split))) for split in ("train", "validation", "test"))
    views = ", ".join(view.name for view in data.views)
    joint = f"fusion {model.settings['fusion']['kind']}" if model.head is None else f"head {cfg.model.head}"
    return (
        f"run {cfg.name} in {folder}\n"
        f"  model {cfg.model.name}: {count:.1f} M parameters, {joint}, {precision}\n"
        f"  paradigm {cfg.paradigm.name}: {views} ({cfg.paradigm.schedule})\n"
        f"  users {sizes} (train / validation / test)"
    )


def peak_rss_mb() -> float:
    """The most memory this process held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
