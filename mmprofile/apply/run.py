"""Measure what profiles are good for: ``python -m mmprofile.apply run=outputs/both classifier=bert inputs.profile=generated``.

A classifier is trained on reviews that the run's profiles were not made of, with or without the writer's profile beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch

from mmprofile.apply.sentiment import Encoder, Reviews, SentimentModule, load_classifier
from mmprofile.apply.shown import PROFILES, HeldOut, Source, held_out, shown_profiles
from mmprofile.config.settings import ApplyConfig
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import evaluate_baselines, parse_predictions, score_predictions, write_predictions
from mmprofile.evaluate.runs import PREDICTIONS, Run, load_run, run_data
from mmprofile.inputs.views import SPLITS
from mmprofile.model.checkpoints import check_bfloat16
from mmprofile.profile.schema import Schema, check_purpose
from mmprofile.train.checkpoints import BEST
from mmprofile.train.devices import choose_device, choose_precision
from mmprofile.train.guard import StepGuard, check_on_nan
from mmprofile.train.loop import fit, load_weights, make_trainer
from mmprofile.train.module import check_optim
from mmprofile.train.run import Clock, finish, finished, opened_run


class Material(NamedTuple):
    """What a classifier is trained and scored on.

    Attributes:
        held_out: split -> reviews to classify.
        profiles: split -> user id -> text of the profile beside the reviews; empty: none is shown.
    """

    held_out: dict[str, HeldOut]
    profiles: dict[str, dict[str, str]]


def main(cfg: ApplyConfig) -> None:
    """Collect profiles, train and score a classifier; the same command again continues where it stopped."""
    choose_device(cfg.trainer)
    precision = choose_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    check_bfloat16("classifier.dtype", cfg.classifier.dtype, cfg.trainer.accelerator, "float32")
    check_settings(cfg)
    with opened_run(cfg) as folder:
        if not finished(folder):
            apply(cfg, folder, precision)


def apply(cfg: ApplyConfig, folder: Path, precision: str) -> None:
    """Collect profiles, train a classifier beside them, score it and write the reports into the run's folder."""
    torch.set_flush_denormal(True)  # as in training
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    clock, schema = Clock(), Schema.from_config(cfg.profile)
    trainer = make_trainer(cfg.trainer, folder, precision)
    run = load_run(cfg.run)
    if cfg.inputs.profile != "none":
        check_purpose(run.model.schema, cfg.purpose, trained_for=run.cfg.purpose)
    classifier = load_classifier(cfg.classifier, len(schema.attributes[0].values))
    with torch.random.fork_rng():  # profiles that are there already draw nothing
        material = collect(cfg, schema, run, trainer.strategy.root_device)
    data = Reviews(
        reviews={split: held_out.reviews for split, held_out in material.held_out.items()},
        profiles=material.profiles,
        schema=schema,
        encoder=Encoder(classifier.tokenizer, classifier.limit, cfg.inputs.max_tokens),
        batch_size=cfg.batch_size,
        seed=cfg.seed,
    )
    clock.lap("prepare")

    steps = data.steps_per_epoch(trainer.world_size) * cfg.trainer.max_epochs
    module = SentimentModule(classifier, schema, cfg.optim, steps, StepGuard(folder, cfg.trainer.on_nan))
    n_parameters = sum(p.numel() for p in classifier.model.parameters())
    if trainer.is_global_zero:
        print(describe(cfg, material.held_out, n_parameters, folder, precision), flush=True)
    fit(trainer, module, data, folder)
    if not trainer.is_global_zero:
        return
    clock.lap("train")
    clock.seconds["train"] = module.seconds  # includes the epochs before a restart

    load_weights(module, folder / "checkpoints" / BEST)
    module.to(trainer.strategy.root_device)  # Lightning moves it back to the CPU after training
    texts = module.predict(data.loader("test"))
    predictions = parse_predictions(schema, material.held_out["test"].reviews, texts)
    write_predictions(folder / PREDICTIONS, predictions)
    test = score_predictions(schema, predictions, cfg.resamples).to_dict()
    test["accuracy"] = test["per_attribute"][schema.names[0]]["accuracy"]
    baselines = evaluate_baselines(schema, data, "test", cfg.resamples)
    clock.lap("evaluate")
    metrics = {
        "test": test,
        "baselines": baselines,
        "seconds": clock.seconds,
        "n_parameters": n_parameters,
        "history": module.history,
        "left_out": {split: held_out.left_out for split, held_out in material.held_out.items()},
    }
    finish(folder, schema, metrics, facts=facts(cfg, run))


def check_settings(cfg: ApplyConfig) -> None:
    """Refuse what would otherwise be noticed only after profiles are made.

    Raises:
        UserError: a setting makes no sense.
    """
    if cfg.inputs.profile not in PROFILES:
        raise UserError(f"inputs.profile={cfg.inputs.profile!r} is not one of {', '.join(PROFILES)}")
    check_optim(cfg.optim)
    check_on_nan(cfg.trainer.on_nan)
    sizes = {
        "inputs.train_reviews": cfg.inputs.train_reviews,
        "inputs.max_tokens": cfg.inputs.max_tokens,
        "inputs.sentences": 1 if cfg.inputs.sentences is None else cfg.inputs.sentences,
        "batch_size": cfg.batch_size,
        "trainer.max_epochs": cfg.trainer.max_epochs,
    }
    for key, value in sizes.items():
        if value < 1:
            raise UserError(f"{key}={value}: give 1 or more")


def collect(cfg: ApplyConfig, schema: Schema, run: Run, device: torch.device) -> Material:
    """Return the reviews to classify, and the profiles beside them, of each split.

    Raises:
        UserError: the run's data cannot be prepared, or a split has no review to classify.
    """
    model = run.model.to(device)
    data = run_data(run)
    reviews = {
        split: held_out(
            data.draws, split, schema, cfg.inputs.train_reviews if split == "train" else 1, cfg.inputs.sentences
        )
        for split in SPLITS
    }
    for split, part in reviews.items():
        if not part.reviews:
            raise UserError(
                f"run={cfg.run}: {split} has no review to classify: of its users, {part.alone} have no review but those "
                f"that the profile is made of, {part.unrated} no other one with stars"
            )
    source = Source(
        weights=run.folder / "model" / "model.safetensors",
        cache=Path(cfg.out).expanduser() / "profiles",
        beams=run.cfg.evaluation.beams,
        progress=cfg.trainer.progress,
    )
    profiles = {split: shown_profiles(cfg.inputs.profile, model, data, split, source) for split in SPLITS}
    model.cpu()  # room for the classifier
    return Material(reviews, profiles)


def facts(cfg: ApplyConfig, run: Run) -> dict[str, object]:
    """Return what the report says of the configuration."""
    return {
        "name": cfg.name,
        "task": cfg.task,
        "classifier": cfg.classifier.name,
        "profile": cfg.inputs.profile,
        "sentences": cfg.inputs.sentences,
        "data": run.cfg.data.name,
        "run": str(cfg.run),
        "seed": cfg.seed,
        **({"purpose": purpose} if (purpose := cfg.purpose or run.cfg.purpose) else {}),
    }


def describe(cfg: ApplyConfig, reviews: Mapping[str, HeldOut], n_parameters: int, folder: Path, precision: str) -> str:
    """Return a few lines on the training that is about to start."""
    sizes = " / ".join(str(len(part.reviews)) for part in reviews.values())
    alone, unrated = (sum(getattr(part, name) for part in reviews.values()) for name in ("alone", "unrated"))
    left = f"; left out: {alone} users without another review, {unrated} without stars" if alone or unrated else ""
    shown = "the review" if cfg.inputs.sentences is None else f"the review (first sentences: {cfg.inputs.sentences})"
    return (
        f"{cfg.task} in {folder}\n"
        f"  classifier {cfg.classifier.name} ({cfg.classifier.text}): {n_parameters / 1e6:.1f} M parameters, {precision}\n"
        f"  shown: {shown}, profile {cfg.inputs.profile} (run {cfg.run})\n"
        f"  reviews {sizes} (train / validation / test){left}"
    )
