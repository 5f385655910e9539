"""Scores a run: ``python -m mmprofile.evaluate run=outputs/both``."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import User, View, drop_photos, unpaired
from mmprofile.model.decoding import Decoded
from mmprofile.model.model import ProfileModel
from mmprofile.profile.metrics import Scores, score
from mmprofile.profile.schema import Profile, Schema
from mmprofile.systems.classical import ceiling, majority, tfidf_lr

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


def predict_users(
    model: ProfileModel, data: Any, users: Sequence[User], beams: int | None = None, label: str | None = None
) -> list[Prediction]:
    """Generates a profile for each user.

    Args:
        model: in evaluation mode.
        data: makes batches: ``loader(users)``.
        users: whose profiles.
        beams: see :meth:`mmprofile.model.model.ProfileModel.generate`.
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


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """One JSON object per user: user_id, gold, text, parsed, faults and, but for beams and systems without, confidence."""
    with path.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n")


def profiles(predictions: Sequence[Mapping[str, Any]], part: str) -> list[Profile]:
    """The ``gold`` or ``parsed`` profiles of the rows of ``predictions.jsonl``."""
    return [{name: tuple(values) for name, values in row[part].items()} for row in predictions]


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``predictions.jsonl``.

    Raises:
        UserError: it is not there or cannot be read.
    """
    path = folder / "predictions.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); a finished run has one") from error
