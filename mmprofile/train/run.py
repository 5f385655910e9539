"""Train and score a model: ``python -m mmprofile.train paradigm=both``.

From here to the loss there are three hops: :func:`train_model` in train/run.py -> ``ProfileModule.training_step`` in
train/module.py -> ``ProfileModel.forward`` in model/model.py.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from mmprofile.config.compose import difference, read_run_config, typed
from mmprofile.config.settings import ApplyConfig, TrainConfig
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import (
    UNPAIRED_SEED,
    Prediction,
    changed_photos,
    evaluate_baselines,
    evaluate_model,
    evaluate_users,
    fit_confidence,
    parse_predictions,
    write_predictions,
)
from mmprofile.evaluate.rows import read_predictions
from mmprofile.evaluate.runs import PREDICTIONS, make_data, open_draws, run_facts
from mmprofile.evaluate.score_table import print_scores
from mmprofile.evaluate.subgroups import subgroup_scores
from mmprofile.files import alone_in, write_json, write_text
from mmprofile.inputs.data import SCHEMA, BatchData, completed_schema, find_data, is_generated, prepare_data
from mmprofile.inputs.views import SPLITS, User
from mmprofile.model.build import build_model
from mmprofile.model.checkpoints import check_bfloat16
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from mmprofile.report.card import data_facts, write_card
from mmprofile.report.html import write_html
from mmprofile.report.stories import Evidence, evidence_of_model, evidence_of_system, shown_evidence
from mmprofile.report.summary import write_report
from mmprofile.systems.systems import SYSTEMS
from mmprofile.train.checkpoints import BEST
from mmprofile.train.checks import check_labels, check_photos, check_settings, keep_data, unknown_tokens
from mmprofile.train.devices import FSDP, choose_device, choose_precision
from mmprofile.train.guard import StepGuard
from mmprofile.train.loop import fit, load_weights, make_trainer
from mmprofile.train.module import ProfileModule, check_optim
from mmprofile.train.probe import Probe

LOOKED_AT = 200
"""Training users whose reviews are searched for unknown tokens."""
MOST_UNKNOWN = 0.01
"""Above this share of unknown tokens, the line about them is a warning."""


@dataclass(frozen=True)
class Outcome:
    """What a run measured: most of ``metrics.json``, and what the report shows besides scores."""

    metrics: dict[str, Any]
    evidence: Evidence


class Clock:
    """Seconds of the parts of a run, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part; the next one begins."""
        now = time.perf_counter()
        self.seconds[name], self._start = now - self._start, now


def main(cfg: TrainConfig) -> None:
    """Prepare, train, evaluate and report; the same command again continues where it stopped."""
    precision = choose_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    check_bfloat16("model.text.dtype", cfg.model.text.dtype, cfg.trainer.accelerator, "float32")
    check_settings(cfg)
    if cfg.model.system == "neural":
        check_optim(cfg.optim)
        choose_device(cfg.trainer)
    with opened_run(cfg) as folder:
        if not finished(folder):
            train(cfg, folder, precision)


def train(cfg: TrainConfig, folder: Path, precision: str) -> None:
    """Train or ask the system that the configuration names, score it and write the reports into the run's folder."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    schema = Schema.from_config(cfg.profile)
    neural = cfg.model.system == "neural"
    if neural:
        check_photos(cfg, find_data(cfg.data, schema).photos)
    schema = completed_schema(cfg.data, schema)
    if schema.has_numbers:
        keep_schema(folder, schema)
    outcome = train_model(cfg, schema, folder, precision) if neural else run_system(cfg, schema, folder)
    if outcome is not None:
        evidence = shown_evidence(outcome.evidence, cfg.data, cfg.report.texts)
        finish(folder, schema, outcome.metrics, facts=run_facts(cfg), evidence=evidence)


def train_model(cfg: TrainConfig, schema: Schema, folder: Path, precision: str) -> Outcome | None:
    """Train a model to the end, export it, score it and collect evidence; return None on all ranks but the first."""
    torch.set_flush_denormal(True)  # gradients below 1e-38 made a step on a CPU take 1.8 times as long
    print(f"loading model {cfg.model.name}: {cfg.model.text.name}, {cfg.model.vision.name}", flush=True)
    model = make_model(cfg, schema)
    clock = Clock()
    prepared = prepare_data(cfg.data, Schema.from_config(cfg.profile))
    clock.lap("prepare")

    data = make_data(cfg, model, prepared)
    check_photos(cfg, len(data.prepared.photos) > 0)
    check_labels(schema, data)
    trainer = make_trainer(cfg.trainer, folder, precision)
    if trainer.is_global_zero:
        captioned = any(view.captions != "none" for view in data.views)
        learned = {name: of for name, of in data.prepared.contents.items() if name != "captions" or captioned}
        keep_data(folder, learned, is_generated(cfg.data))
    module = ProfileModule(
        model,
        views=data.views,
        weights=data.loss_weights,
        optim=cfg.optim,
        steps=data.steps_per_epoch(trainer.world_size) * cfg.trainer.max_epochs,
        validation_beams=cfg.evaluation.validation_beams,
        probe=Probe.of(data, cfg.probe.users, UNPAIRED_SEED),
        guard=StepGuard(folder, cfg.trainer.on_nan),
    )
    reviews = [review for user in data.users("train")[:LOOKED_AT] for review in user.reviews]
    lost = unknown_tokens(data.collator.review_tokens(reviews), model.tokenizer.unk_token_id)
    if trainer.is_global_zero:
        print(describe(cfg, model, data, folder, precision, lost), flush=True)
    fit(trainer, module, data, folder)
    if not trainer.is_global_zero:
        return None
    if cfg.trainer.strategy == FSDP:  # what was trained lies with all processes
        module.model = model = make_model(cfg, schema).to(module.device)
    clock.lap("train")
    clock.seconds["train"] = module.seconds  # includes the epochs before a restart

    load_weights(module, folder / "checkpoints" / BEST)
    model.fit_validation(batch.to(module.device) for batch in data.val_dataloader())
    model.confidence, model.selector = fit_confidence(model, data), data.draws.selector
    model.save_pretrained(folder / "model")
    test, predictions = evaluate_model(
        model, data, "test", beams=cfg.evaluation.beams, settings=cfg.evaluation, progress=cfg.trainer.progress
    )
    write_predictions(folder / PREDICTIONS, predictions)
    metrics = {
        "test": test,
        "baselines": evaluate_baselines(schema, data, "test", cfg.evaluation.resamples),
        "seconds": clock.seconds,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "unknown_tokens": lost,
        "history": module.history,
        **({"skipped_steps": module.guard.skipped} if module.guard.skipped else {}),
        "data": data_facts(prepared),
    }
    clock.lap("evaluate")
    return Outcome(metrics, evidence_of_model(model, data, [prediction.to_dict() for prediction in predictions]))


def run_system(cfg: TrainConfig, schema: Schema, folder: Path) -> Outcome:
    """Prepare the data, and fit, ask and score a system that is not trained by gradient descent.

    Raises:
        UserError: the settings of the system, or the data, cannot be used.
    """
    system = SYSTEMS[cfg.model.system](cfg=cfg, schema=schema, folder=folder)
    clock = Clock()
    prepared = prepare_data(cfg.data, Schema.from_config(cfg.profile))
    clock.lap("prepare")
    data = open_draws(cfg, schema, prepared, system.view.captions != "none")
    check_labels(schema, data)
    users = data.judged("test")
    sizes = " / ".join(str(len(data.users(split))) for split in SPLITS)
    print(
        f"run {cfg.name} in {folder}\n  system {cfg.model.system}, users {sizes} (train / validation / test)",
        flush=True,
    )
    system.fit(data)
    clock.lap("train")

    def predict(users: Sequence[User], label: str) -> list[Prediction]:
        return parse_predictions(schema, users, system.predict(users, label))

    test, predictions = evaluate_users(
        schema=schema,
        users=users,
        predict=predict,
        resamples=cfg.evaluation.resamples,
        view=system.view,
        changed=changed_photos(users, cfg.inputs.pairing, cfg.evaluation.missing) if system.repeats else {},
    )
    write_predictions(folder / PREDICTIONS, predictions)
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
    return Outcome(metrics, evidence)


def finished(folder: Path) -> bool:
    """Tell whether the run is finished; print its scores if it is."""
    path = folder / "metrics.json"
    if path.exists():
        print(f"{folder} is finished; its scores:")
        print_scores(json.loads(path.read_text(encoding="utf-8")))
    return path.exists()


def finish(
    folder: Path, schema: Schema, metrics: dict[str, Any], facts: dict[str, Any], evidence: Evidence | None = None
) -> None:
    """Write the reports and ``metrics.json``, and print the scores.

    Args:
        folder: the run's, with ``predictions.jsonl`` in it.
        schema: of the predictions.
        metrics: ``test``, ``baselines``, ``seconds``, ``n_parameters``, ``history``, and what a system adds.
        facts: what the report says of the configuration.
        evidence: what the report shows besides scores.
    """
    peak = peak_rss_mb()
    metrics |= {
        "seconds": {name: round(value, 2) for name, value in metrics["seconds"].items()},
        "peak_rss_mb": None if peak is None else round(peak, 1),
        "config": facts,
    }
    write_report(folder, metrics, metrics["history"])
    write_html(folder, schema, metrics, read_predictions(folder), evidence)
    if groups := subgroup_scores(schema, read_predictions(folder)):
        metrics["subgroups"] = groups
    if "data" in metrics:  # there is a model
        write_card(folder, metrics)
    write_json(folder / "metrics.json", metrics)  # last: its presence says that the run is finished
    print_scores(metrics)
    print(f"\nreport: {folder / 'report.html'}, {folder / 'report.md'}   scores: {folder / 'metrics.json'}", end="")
    print(f"   model: {folder / 'model'}" if (folder / "model").is_dir() else "")


def make_model(cfg: TrainConfig, schema: Schema, pretrained: bool = True) -> ProfileModel:
    """Return the model that the configuration describes; without vision where its prediction view shows no photos.

    Args:
        cfg: the configuration.
        schema: the profile that the model writes.
        pretrained: False builds the architecture without weights.
    """
    settings: Any = OmegaConf.to_container(cfg.model)
    inputs: Any = OmegaConf.to_container(cfg.inputs)
    model = build_model(
        text=settings["text"],
        vision=settings["vision"] if cfg.paradigm.modality in ("multi", "both") else None,
        fusion=settings["fusion"],
        schema=schema,
        inputs={"modality": cfg.paradigm.modality, "encoding": cfg.text.encoding, **inputs},
        vocabulary=cfg.decoder.vocabulary,
        target=cfg.model.target,
        head={"kind": cfg.model.head, "auxiliary": cfg.model.auxiliary, **settings["options"]},
        pretrained=pretrained,
    )
    if cfg.purpose is not None:
        model.settings["purpose"] = cfg.purpose
    return model


def run_folder(cfg: TrainConfig | ApplyConfig) -> Path:
    """Return the run's folder, which may not be there yet: if it holds a run, its settings are those given.

    Raises:
        UserError: it holds a run with other settings.
        OSError: it cannot be read.
    """
    folder = Path(cfg.out).expanduser() / str(cfg.name)
    config = folder / "config.yaml"
    # A run that failed before its first checkpoint (a wrong name, say) leaves nothing that other settings could spoil.
    if config.exists() and any((folder / name).exists() for name in ("checkpoints", "metrics.json")):
        old = read_run_config(folder)
        if "task" not in old:  # a run of mmprofile.train; it may be older than some keys
            old = typed("train", old)
        changed = difference(old, OmegaConf.create(OmegaConf.to_yaml(cfg)))
        if changed:
            raise UserError(
                f"{folder} holds a run with other settings ({'; '.join(changed[:3])}): choose another name= or out=, "
                f"or delete the folder"
            )
    return folder


@contextmanager
def opened_run(cfg: TrainConfig | ApplyConfig) -> Iterator[Path]:
    """Give the run's folder, ready to be written, to this command alone; its configuration is the one given.

    Raises:
        UserError: the folder holds a run with other settings, or another process writes it, or it cannot be written.
    """
    folder = Path(cfg.out).expanduser() / str(cfg.name)
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        yield folder  # the first process of the command has opened it
        return
    try:
        run_folder(cfg)
    except OSError as error:
        raise UserError(f"cannot read the run's folder {folder}: {error.strerror}; choose another out=") from error
    with alone_in(folder, "name= or out="):
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg))
        facts = {name: version(name) for name in ("torch", "transformers", "timm", "pytorch-lightning", "entmax")}
        facts |= {"python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count())}
        write_json(folder / "environment.json", facts)
        yield folder


def keep_schema(folder: Path, schema: Schema) -> None:
    """Write a run's schema, with the bins of numbers, beside its configuration.

    Raises:
        UserError: the run has begun with other bins.
    """
    path = folder / SCHEMA
    if (folder / "checkpoints").exists() and path.exists() and Schema.from_yaml(path) != schema:
        raise UserError(
            f"{folder}: the data have changed since this run began, and with them the bins of numbers: choose another name= "
            f"or out=, or delete the folder"
        )
    write_text(path, schema.to_yaml())


def describe(cfg: TrainConfig, model: ProfileModel, data: BatchData, folder: Path, precision: str, lost: float) -> str:
    """Return a few lines on the training that is about to start.

    Args:
        cfg, model, data, folder, precision: of the run.
        lost: the share of unknown tokens in the reviews.
    """
    count = sum(p.numel() for p in model.parameters()) / 1e6
    sizes = " / ".join(str(len(data.users(split))) for split in SPLITS)
    views = ", ".join(view.name for view in data.views)
    writer = f"fusion {model.settings['fusion']['kind']}" if model.head is None else f"head {cfg.model.head}"
    unknown = ""
    if lost:
        unknown = (
            f"\n  {100 * lost:.2f} % of the tokens of the reviews are unknown to the tokenizer of {cfg.model.text.name}"
        )
    if lost > MOST_UNKNOWN:
        unknown += ", so what they say is lost: choose a model for these languages (docs/checkpoints.md)"
    return (
        f"run {cfg.name} in {folder}\n"
        f"  model {cfg.model.name}: {count:.1f} M parameters, {writer}, {precision}\n"
        f"  paradigm {cfg.paradigm.name}: {views} ({cfg.paradigm.schedule})\n"
        f"  users {sizes} (train / validation / test)" + unknown
    )


def peak_rss_mb() -> float | None:
    """Return the most memory that this process has held so far, in MiB; None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
