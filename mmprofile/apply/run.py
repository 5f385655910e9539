"""What profiles are good for: ``python -m mmprofile.apply run=outputs/both classifier=bert inputs.profile=generated``.

Trains a classifier of reviews that the run's profiles were not made of, with or without the writer's profile beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from mmprofile.apply.sentiment import (
    PROFILES,
    SPLITS,
    Encoder,
    HeldOut,
    Reviews,
    SentimentModule,
    Source,
    held_out,
    load_classifier,
    shown_profiles,
)
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import evaluate_baselines, parse_predictions, score_predictions, write_predictions
from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from mmprofile.train.loop import choose_precision, fit, load_weights, make_trainer
from mmprofile.train.module import check_optim
from mmprofile.train.run import Clock, finish, finished, open_run


def main(cfg: Any) -> None:
    """Entry point: profiles, training, scores; the same command again goes on where it stopped."""
    precision = choose_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    check_settings(cfg)
    folder = open_run(cfg)
    if finished(folder):
        return
    torch.set_flush_denormal(True)  # as in training
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    clock, schema = Clock(), Schema.from_config(cfg.profile)
    trainer = make_trainer(cfg, folder, precision)
    run = load_run(cfg.run)
    classifier = load_classifier(cfg.classifier, len(schema.attributes[0].values))
    encoder = Encoder(classifier.tokenizer, classifier.limit, cfg.inputs.max_tokens)
    found, profiles = collect(cfg, schema, run, trainer.strategy.root_device)
    data = Reviews(
        {split: one.reviews for split, one in found.items()}, profiles, schema, encoder, cfg.batch_size, cfg.seed
    )
    clock.lap("prepare")

    module = SentimentModule(
        classifier, schema, cfg.optim, data.steps_per_epoch(trainer.world_size) * cfg.trainer.max_epochs
    )
    count = sum(p.numel() for p in classifier.model.parameters())
    if trainer.is_global_zero:
        print(describe(cfg, found, count, folder, precision), flush=True)
    fit(trainer, module, data, folder)
    if not trainer.is_global_zero:
        return
    clock.lap("train")
    clock.seconds["train"] = module.seconds  # that of a killed process, too

    load_weights(module, folder / "checkpoints" / "best.ckpt")
    module.to(trainer.strategy.root_device)  # Lightning brings it back when it has done
    predictions = parse_predictions(schema, found["test"].reviews, module.predict(data.loader("test")))
    write_predictions(folder / "predictions.jsonl", predictions)
    test = score_predictions(schema, predictions, cfg.resamples).to_dict()
    test["accuracy"] = test["per_attribute"][schema.names[0]]["accuracy"]
    baselines = evaluate_baselines(schema, data, "test", cfg.resamples)
    clock.lap("evaluate")
    metrics = {"test": test, "baselines": baselines, "seconds": clock.seconds, "n_parameters": count}
    metrics |= {"history": module.history, "left_out": {split: one.left_out for split, one in found.items()}}
    facts = {"name": cfg.name, "task": cfg.task, "classifier": cfg.classifier.name, "profile": cfg.inputs.profile}
    finish(folder, schema, metrics, facts | {"data": run[1].data.name, "run": str(cfg.run), "seed": cfg.seed})


def check_settings(cfg: Any) -> None:
    """Refuses what would only be noticed after profiles are made.

    Raises:
        UserError: a setting makes no sense.
    """
    if cfg.inputs.profile not in PROFILES:
        raise UserError(f"inputs.profile={cfg.inputs.profile!r} is not one of {', '.join(PROFILES)}")
    check_optim(cfg.optim)
    for key in ("inputs.train_reviews", "inputs.max_tokens", "batch_size", "trainer.max_epochs"):
        if OmegaConf.select(cfg, key) < 1:
            raise UserError(f"{key}={OmegaConf.select(cfg, key)}: give 1 or more")


def collect(
    cfg: Any, schema: Schema, run: tuple[Path, Any, ProfileModel], device: torch.device
) -> tuple[dict[str, HeldOut], dict[str, dict[str, str]]]:
    """The reviews to classify, and the profiles beside them, of each split.

    Raises:
        UserError: the run's data cannot be had, or a split has no review to classify.
    """
    folder, run_cfg, model = run
    data = run_data(run_cfg, model.to(device))
    found = {
        split: held_out(data.draws, split, schema, cfg.inputs.train_reviews if split == "train" else 1)
        for split in SPLITS
    }
    for split, one in found.items():
        if not one.reviews:
            raise UserError(
                f"run={cfg.run}: {split} has no review to classify: of its users, {one.alone} have no review but those "
                f"that the profile is made of, {one.unrated} no other one with stars"
            )
    source = Source(
        folder / "model" / "model.safetensors",
        Path(cfg.out).expanduser() / "profiles",
        run_cfg.evaluation.beams,
        cfg.trainer.progress,
    )
    profiles = {split: shown_profiles(cfg.inputs.profile, model, data, split, source) for split in SPLITS}
    model.cpu()  # room for the classifier
    return found, profiles


def describe(cfg: Any, found: Mapping[str, HeldOut], count: int, folder: Path, precision: str) -> str:
    """A few lines on what is about to be done."""
    sizes = " / ".join(str(len(one.reviews)) for one in found.values())
    alone, unrated = (sum(getattr(one, name) for one in found.values()) for name in ("alone", "unrated"))
    left = f"; left out: {alone} users without another review, {unrated} without stars" if alone or unrated else ""
    return (
        f"{cfg.task} in {folder}\n"
        f"  classifier {cfg.classifier.name} ({cfg.classifier.text}): {count / 1e6:.1f} M parameters, {precision}\n"
        f"  shown: the review, profile {cfg.inputs.profile} (run {cfg.run})\n"
        f"  reviews {sizes} (train / validation / test){left}"
    )
