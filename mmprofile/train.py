"""Trains and scores a model: ``python -m mmprofile.train paradigm=both``.

From here to the loss there are three hops: ``train.run`` -> ``module.training_step`` -> ``model.forward``.
"""

from mmprofile.config import check_command_line, difference, entry_point

if __name__ == "__main__":
    check_command_line("train")


import json
import math
import os
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from mmprofile.baselines.heads import check_head
from mmprofile.batch import check_encoding
from mmprofile.build import build_model
from mmprofile.errors import UserError
from mmprofile.evaluate import (
    UNPAIRED_SEED,
    check_paradigm,
    evaluate_baselines,
    evaluate_model,
    make_data,
    run_facts,
    write_predictions,
)
from mmprofile.html_report import read_predictions, write_html
from mmprofile.model import ProfileModel
from mmprofile.module import Learner, ProfileModule
from mmprofile.probe import Probe
from mmprofile.profile import Schema, check_purpose
from mmprofile.progress import EpochLines, StepBar
from mmprofile.report import print_scores, write_report
from mmprofile.stories import Evidence, evidence_of_model
from mmprofile.systems import check_system, run_system
from mmprofile.views import check_inputs

METRIC = "dev/macro_f1"


def main(cfg: Any) -> None:
    """Entry point: prepare, train, evaluate, report; the same command again goes on where it stopped."""
    precision = choose_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    check_settings(cfg)
    folder = open_run(cfg)
    if finished(folder):
        return
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    schema = Schema.from_dict(OmegaConf.to_container(cfg.profile))  # type: ignore[arg-type]
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
    prepared = instantiate(cfg.data.prepare, _partial_=True)(schema=schema.observed)
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


def check_settings(cfg: Any) -> None:
    """Refuses what would only be noticed after the data are prepared, or after training.

    Raises:
        UserError: a setting of the paradigm, the inputs, the encoding or the evaluation makes no sense, or sensitive
            attributes have no purpose.
    """
    check_purpose(Schema.from_dict(OmegaConf.to_container(cfg.profile)), cfg.purpose)  # type: ignore[arg-type]
    check_system(cfg.model.system)
    check_paradigm(cfg.paradigm)
    check_inputs(cfg.inputs)
    check_encoding(cfg.text.encoding, cfg.model.target)
    check_head(cfg.model)
    weight, whole = cfg.model.auxiliary, cfg.model.head == "lm" and cfg.model.target != "attributes"
    if not 0 <= weight < math.inf or (weight and not whole):
        raise UserError(
            f"model.auxiliary={weight}: give 0 or more, and 0 unless a decoder writes whole profiles "
            f"(model.head=lm, model.target=profile or prompted)"
        )
    if cfg.model.text.lora.rank < 0:
        raise UserError(f"model.text.lora.rank={cfg.model.text.lora.rank}: give 1 or more, or 0 to train all weights")
    if cfg.model.fusion.kind == "none" and cfg.model.head == "lm" and cfg.paradigm.modality in ("multi", "both"):
        raise UserError(
            f"model {cfg.model.name} with paradigm {cfg.paradigm.name}: it has no fusion and sees no photos; "
            f"choose paradigm=text or paradigm=uni (captions), or model.fusion.kind=..."
        )
    for name in ("beams", "dev_beams"):
        beams = cfg.evaluation[name]
        if beams is not None and beams < 1:
            raise UserError(f"evaluation.{name}={beams} is not a number of beams: give 1 or more, or null")
    if cfg.probe.users < 0:
        raise UserError(f"probe.users={cfg.probe.users}: give a number of users, or 0 for no probe")
    missing = cfg.evaluation.missing
    if missing is not None and not 0 <= missing <= 1:
        raise UserError(f"evaluation.missing={missing} is not a probability (0 to 1, or null)")


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


def make_trainer(cfg: Any, folder: Path, precision: str) -> pl.Trainer:
    """Lightning's Trainer: best and last checkpoint, early stopping on dev macro-F1, TensorBoard."""
    t = cfg.trainer
    checkpoints = folder / "checkpoints"
    # Fixed names: a versioned "last-v1.ckpt" would leave a stale "last.ckpt" to resume from.
    best = ModelCheckpoint(
        checkpoints, "best", monitor=METRIC, mode="max", save_weights_only=True, enable_version_counter=False
    )
    last = ModelCheckpoint(checkpoints, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    steps = ModelCheckpoint(checkpoints, "last", every_n_train_steps=t.checkpoint_every, enable_version_counter=False)
    # Checked as soon as the score is there: a run resumed at an epoch's end would find no score to check.
    stop = EarlyStopping(METRIC, mode="max", patience=t.patience, check_on_train_epoch_end=False)
    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    shown: list[Callback] = [StepBar(), EpochLines()] if t.progress else [EpochLines()]
    return pl.Trainer(
        accelerator=t.accelerator,
        devices=t.devices,
        strategy=t.strategy,
        num_nodes=t.num_nodes,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=t.max_epochs,
        gradient_clip_val=t.gradient_clip or None,
        callbacks=[stop, best, steps, last, LearningRateMonitor("step"), *shown],
        logger=logger,
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_progress_bar=t.progress,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def fit(trainer: pl.Trainer, module: Learner, data: Any, folder: Path) -> None:
    """Trains to the end, from the last checkpoint where there is one."""
    resume = folder / "checkpoints" / "last.ckpt"
    if resume.exists():
        print(f"going on from {resume}", flush=True)
    trainer.fit(module, datamodule=data, ckpt_path=resume if resume.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


def load_weights(module: Learner, checkpoint: Path) -> None:
    """Puts a checkpoint's weights into the module.

    Raises:
        UserError: a trained weight is not in it.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    missing, unexpected = module.load_state_dict(state, strict=False)
    if wrong := [*(set(missing) - set(module.frozen())), *unexpected]:
        raise UserError(f"{checkpoint} does not fit the model: {min(wrong)}; delete the run's folder and train again")


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


def choose_precision(asked: str, accelerator: str) -> str:
    """Lightning's precision for ``auto``: bf16-mixed where the device has it, else 32-true.

    Raises:
        UserError: fp16, in which T5 gives NaN.
    """
    if "16" in str(asked) and "bf16" not in str(asked):
        raise UserError(f"trainer.precision={asked}: T5 overflows to NaN in fp16; use bf16-mixed, 32-true or auto")
    if asked != "auto":
        return str(asked)
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


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


if __name__ == "__main__":
    entry_point("train", main)
