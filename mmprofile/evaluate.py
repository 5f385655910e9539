"""Scores a run: ``python -m mmprofile.evaluate run=outputs/both``."""

from mmprofile.config import check_command_line, entry_point, typed

if __name__ == "__main__":
    check_command_line("evaluate")


import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from mmprofile.baselines.classical import ceiling, majority, tfidf_lr
from mmprofile.batch import Batch
from mmprofile.build import load_pretrained
from mmprofile.decoding import Decoded
from mmprofile.errors import UserError
from mmprofile.metrics import Scores, score
from mmprofile.model import ProfileModel
from mmprofile.module import view_weights
from mmprofile.profile import Profile, Schema
from mmprofile.report import print_scores
from mmprofile.views import SCHEDULES, Masking, User, View, drop_photos, paradigm_views, unpaired

UNPAIRED_SEED = 0
MISSING_SEED = 1_000_003  # not one that a run is likely to draw by: other photos than inputs.missing drops


class Prediction(NamedTuple):
    """One user's generated profile; ``confidence``: attribute -> the probability of its values, where a system gives one."""

    user: User
    text: str
    profile: Profile
    faults: list[str]
    confidence: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A row of ``predictions.jsonl``."""
        gold = {name: list(values) for name, values in (self.user.profile or {}).items()}
        parsed = {name: list(values) for name, values in self.profile.items()}
        row = {"user_id": self.user.user_id, "gold": gold, "text": self.text, "parsed": parsed, "faults": self.faults}
        if self.confidence is None:
            return row
        return row | {"confidence": {name: round(share, 4) for name, share in self.confidence.items()}}


def check_paradigm(paradigm: Any) -> tuple[tuple[View, ...], list[float], Masking]:
    """Views, their weights and the masking of a paradigm's configuration.

    Raises:
        UserError: something in it is unknown or makes no sense.
    """
    views = paradigm_views(paradigm.modality, list(paradigm.views), paradigm.union)
    if paradigm.schedule not in SCHEDULES:
        raise UserError(f"paradigm.schedule={paradigm.schedule!r} is not one of {', '.join(SCHEDULES)}")
    return views, view_weights(views, dict(paradigm.weights)), Masking(**dict(paradigm.masking))


def make_data(cfg: Any, model: ProfileModel, folder: Path) -> Any:
    """The datamodule that a training configuration describes, over a prepared folder."""
    views, weights, masking = check_paradigm(cfg.paradigm)
    return instantiate(cfg.loader, _partial_=True)(
        folder=folder,
        model=model,
        views=views,
        inputs=OmegaConf.to_container(cfg.inputs) | {"encoding": cfg.text.encoding},  # type: ignore[operator]
        masking=masking,
        schedule=cfg.paradigm.schedule,
        weights=weights,
        seed=cfg.seed,
        eval_batch_size=cfg.evaluation.batch_size,
    )


def run_data(cfg: Any, model: ProfileModel) -> Any:
    """The datamodule of a run's own data, which are prepared again where they are not there any more."""
    return make_data(cfg, model, instantiate(cfg.data.prepare, _partial_=True)(schema=model.schema.observed))


def predict_users(
    model: ProfileModel, data: Any, users: Sequence[User], beams: int | None = None, label: str | None = None
) -> list[Prediction]:
    """Generates a profile for each user.

    Args:
        model: in evaluation mode.
        data: makes batches: ``loader(users)``.
        users: whose profiles.
        beams: see :meth:`mmprofile.model.ProfileModel.generate`.
        label: of a progress bar; None shows none.
    """
    if beams is not None:
        batches = _batches(model, data, users, label)
        return parse_predictions(
            model.schema, users, [text for batch in batches for text in model.generate(batch, beams)]
        )
    decoded = decode_users(model, data, users, label)
    predictions = parse_predictions(model.schema, users, [found.text for found in decoded])
    return [one._replace(confidence=found.confidence) for one, found in zip(predictions, decoded, strict=True)]


def decode_users(model: ProfileModel, data: Any, users: Sequence[User], label: str | None = None) -> list[Decoded]:
    """The likeliest profile of each user and the posteriors of its attributes; arguments as for :func:`predict_users`."""
    return [found for batch in _batches(model, data, users, label) for found in model.decode(batch)]


def _batches(model: ProfileModel, data: Any, users: Sequence[User], label: str | None) -> Iterator[Batch]:
    device = next(model.parameters()).device
    for batch in tqdm(data.loader(users), desc=label, disable=None if label else True, leave=False, dynamic_ncols=True):
        yield batch.to(device)


def parse_predictions(schema: Schema, users: Sequence[User], texts: Sequence[str]) -> list[Prediction]:
    """What a system wrote of each user, understood."""
    return [Prediction(user, text, *schema.parse(text)) for user, text in zip(users, texts, strict=True)]


def score_predictions(schema: Schema, predictions: Sequence[Prediction], resamples: int) -> Scores:
    """Scores predictions against the profiles their users carry."""
    return score(
        schema,
        [prediction.user.profile or {} for prediction in predictions],
        [prediction.profile for prediction in predictions],
        [prediction.faults for prediction in predictions],
        resamples=resamples,
    )


def evaluate_model(
    model: ProfileModel, data: Any, split: str, beams: int | None, settings: Any, progress: bool = True
) -> tuple[dict[str, Any], list[Prediction]]:
    """:func:`evaluate_users` of a model; ``settings``: the ``evaluation`` of its configuration."""
    model.eval()

    def predict(users: Sequence[User], label: str) -> list[Prediction]:
        return predict_users(model, data, users, beams, label if progress else None)

    users, view = data.judged(split), data.views[0]
    changed = changed_photos(users, data.inputs["pairing"], settings.missing)
    return evaluate_users(model.schema, users, predict, settings, view, changed)


def changed_photos(users: Sequence[User], pairing: str, missing: float | None) -> dict[str, list[User]]:
    """What is asked of a system besides: the same users with somebody else's photos, and with some photos missing.

    Args:
        users: of one split.
        pairing: ``unpaired``: the photos are somebody else's as it is.
        missing: the probability of missing; None: not asked.
    """
    changed = {"unpaired": unpaired(users, UNPAIRED_SEED) if pairing == "paired" else list(users)}
    if missing is not None:
        changed["missing"] = [drop_photos(user, missing, MISSING_SEED) for user in users]
    return changed


def evaluate_users(
    schema: Schema,
    users: Sequence[User],
    predict: Callable[[Sequence[User], str], list[Prediction]],
    settings: Any,
    view: View,
    changed: Mapping[str, Sequence[User]],
) -> tuple[dict[str, Any], list[Prediction]]:
    """Scores of a system on the users and, under a name each, on the same users with other photos.

    They are of the observed attributes; those of text-only attributes stand apart, under ``text_only``, where users have gold
    values of them.

    Args:
        schema: what is predicted.
        users: of one split, with profiles.
        predict: (users, label of a progress bar) -> predictions.
        settings: ``resamples``.
        view: what the system is shown; one that is shown no photos gives the same profiles whatever they are.
        changed: see :func:`changed_photos`.

    Returns:
        The ``test`` part of ``metrics.json``, and the predictions.
    """
    predictions = predict(users, "profiles")
    observed, text_only = schema.observed, schema.text_only
    plain = score_predictions(observed, predictions, settings.resamples).to_dict()
    metrics, blind = dict(plain), view.photos == "none" and view.captions == "none"
    for name, others in changed.items():
        same = blind or list(others) == list(users)
        metrics[name] = (
            dict(plain)
            if same
            else score_predictions(observed, predict(others, f"{name} photos"), settings.resamples).to_dict()
        )
    if text_only is not None and any((user.profile or {}).get(name) for user in users for name in text_only.names):
        metrics["text_only"] = score_predictions(text_only, predictions, settings.resamples).to_dict()
    return metrics, predictions


def evaluate_baselines(schema: Schema, data: Any, split: str, resamples: int) -> dict[str, Any]:
    """Majority class, TF-IDF + logistic regression and, where the true cues are known, their ceiling; of observed attributes."""
    schema = schema.observed
    train, test = data.examples("train"), data.examples(split)
    gold = [example.profile for example in test]
    systems = {"majority": majority, "tfidf_lr": tfidf_lr}
    if any(cues for example in train for cues in example.review_cues):
        systems["ceiling"] = ceiling
    return {
        name: score(schema, gold, system(schema, train, test), resamples=resamples).to_dict()
        for name, system in systems.items()
    }


def load_run(run: str) -> tuple[Path, Any, ProfileModel]:
    """A run's folder, configuration and best model.

    Raises:
        UserError: no finished run there.
    """
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").is_file():
        raise UserError(f"run={run}: no run there (no config.yaml); a run is a folder that mmprofile.train wrote")
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    cfg = typed("train", cfg)
    if cfg.model.system != "neural":
        raise UserError(
            f"run={run}: system {cfg.model.system} leaves no model behind; its scores are in {folder / 'metrics.json'}"
        )
    if not (folder / "model").is_dir():
        raise UserError(
            f"run={run}: its training has not finished; run the same mmprofile.train command again to go on"
        )
    return folder, cfg, load_pretrained(folder / "model")


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


def run_facts(cfg: Any) -> dict[str, Any]:
    """What a report says of a configuration."""
    facts = {
        "name": cfg.name,
        "paradigm": cfg.paradigm.name,
        "model": cfg.model.name,
        "data": cfg.data.name,
        "seed": cfg.seed,
    }
    return facts if cfg.purpose is None else facts | {"purpose": cfg.purpose}


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """One JSON object per user: user_id, gold, text, parsed, faults and, but for beams and systems without, confidence."""
    with path.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    entry_point("evaluate", main)
