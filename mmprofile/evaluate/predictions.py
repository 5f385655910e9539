"""The profiles that a system predicts for the users of a split: made, scored, written and read."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mmprofile.config.settings import EvaluationConfig
from mmprofile.evaluate.confidence import collect_answers, confidence_scores
from mmprofile.files import write_json_lines
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.data import BatchData, ExampleData
from mmprofile.inputs.views import User, View, drop_photos, unpaired
from mmprofile.model.confidence import Confidence, WithoutCaptions
from mmprofile.model.decoding import Decoded
from mmprofile.model.model import ProfileModel
from mmprofile.profile.calibrator import Calibrator, Values
from mmprofile.profile.metrics import Scores, score
from mmprofile.profile.schema import Profile, Schema
from mmprofile.systems.classical import ceiling, majority, tfidf_lr

UNPAIRED_SEED = 0
MISSING_SEED = 1_000_003  # not one that a run is likely to draw by: other photos than inputs.missing drops


class Prediction(NamedTuple):
    """One user's predicted profile.

    Attributes:
        user: with the gold profile.
        text: what the system wrote.
        profile, faults: the text, parsed.
        confidence: attribute -> the probability of its values; None where a system gives none.
        uncalibrated: the same before calibration; None where the model has no calibrator.
        sets: attribute -> the values among which the true one is for most users; None likewise.
    """

    user: User
    text: str
    profile: Profile
    faults: list[str]
    confidence: Mapping[str, float] | None = None
    uncalibrated: Mapping[str, float] | None = None
    sets: Mapping[str, Sequence[Values]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a row of ``predictions.jsonl``."""
        gold = {name: list(values) for name, values in (self.user.profile or {}).items()}
        parsed = {name: list(values) for name, values in self.profile.items()}
        row: dict[str, Any] = {"user_id": self.user.user_id, "gold": gold}
        row |= {"text": self.text, "parsed": parsed, "faults": self.faults}
        for key, shares in (("confidence", self.confidence), ("uncalibrated", self.uncalibrated)):
            if shares is not None:
                row[key] = {name: round(share, 4) for name, share in shares.items()}
        return row if self.sets is None else row | {"sets": {n: [[*v] for v in sets] for n, sets in self.sets.items()}}


def predict_users(
    model: ProfileModel,
    data: BatchData,
    users: Sequence[User],
    beams: int | None = None,
    label: str | None = None,
    risk: float | None = None,
) -> list[Prediction]:
    """Return each user's predicted profile.

    Args:
        model: in evaluation mode.
        data: makes the batches.
        users: whose profiles.
        beams: see :meth:`mmprofile.model.model.ProfileModel.generate`.
        label: of a progress bar; None shows none.
        risk: of the sets of values; None: there are none.
    """
    if beams is not None:
        texts = [text for batch in _batches(model, data, users, label) for text in model.generate(batch, beams)]
        return parse_predictions(model.schema, users, texts)
    return _predictions(users, decode_users(model, data, users, label), model.confidence, risk)


def decode_users(
    model: ProfileModel, data: BatchData, users: Sequence[User], label: str | None = None
) -> list[Decoded]:
    """Return each user's likeliest profile with the posteriors of its attributes; arguments as :func:`predict_users`."""
    return [decoded for batch in _batches(model, data, users, label) for decoded in model.decode(batch)]


def _predictions(
    users: Sequence[User], profiles: Sequence[Decoded], known: Confidence | None, risk: float | None = None
) -> list[Prediction]:
    """Return what our search wrote; it is legal, so its text need not be parsed."""
    return [
        _prediction(user, decoded, None if known is None else known.of(len(user.photos), _captions(user)), risk)
        for user, decoded in zip(users, profiles, strict=True)
    ]


def _prediction(user: User, decoded: Decoded, calibrator: Calibrator | None, risk: float | None) -> Prediction:
    written = Prediction(user, decoded.text, decoded.profile, faults=[], confidence=decoded.confidence)
    if calibrator is None:
        return written
    return written._replace(
        confidence=decoded.calibrated(calibrator).confidence,
        uncalibrated=decoded.confidence,
        sets=None if risk is None else calibrator.sets(decoded.posteriors, decoded.profile, risk),
    )


def _captions(user: User) -> int:
    return sum(caption is not None for caption in user.captions)


def fit_confidence(model: ProfileModel, data: BatchData) -> Confidence:
    """Return what the validation users tell of a model's confidence, and of what missing captions cost."""
    users = data.users("validation")
    gold = [{n: model.schema[n].canonical(values) for n, values in (user.profile or {}).items()} for user in users]

    def fitted(shown: Sequence[User]) -> tuple[Calibrator, float]:
        decoded = decode_users(model, data, shown)
        scores = score(model.schema.observed, gold, [profile.profile for profile in decoded], resamples=0)
        return Calibrator.fit([profile.posteriors for profile in decoded], gold), scores.macro_f1

    calibrator, macro_f1 = fitted(users)
    bare = [replace(user, captions=(None,) * len(user.captions)) for user in users]
    reads_captions = data.views[0].captions != "none" and any(map(_captions, users))
    measured = reads_captions and not math.isnan(macro_f1)
    return Confidence(
        users=len(users),
        calibrator=calibrator,
        without_captions=WithoutCaptions(*fitted(bare), macro_f1_with=macro_f1) if measured else None,
    )


def _batches(model: ProfileModel, data: BatchData, users: Sequence[User], label: str | None) -> Iterator[Batch]:
    device = next(model.parameters()).device
    for batch in tqdm(data.loader(users), desc=label, disable=None if label else True, leave=False, dynamic_ncols=True):
        yield batch.to(device)


def parse_predictions(schema: Schema, users: Sequence[User], texts: Sequence[str]) -> list[Prediction]:
    """Return the predictions that a system's texts hold, one text per user."""
    predictions = []
    for user, text in zip(users, texts, strict=True):
        parsed = schema.parse(text)
        predictions.append(Prediction(user=user, text=text, profile=parsed.profile, faults=parsed.faults))
    return predictions


def score_predictions(schema: Schema, predictions: Sequence[Prediction], resamples: int) -> Scores:
    """Score predictions against the profiles that their users carry."""
    return score(
        schema,
        gold=[prediction.user.profile or {} for prediction in predictions],
        predicted=[prediction.profile for prediction in predictions],
        faults=[prediction.faults for prediction in predictions],
        resamples=resamples,
    )


def evaluate_model(
    model: ProfileModel, data: BatchData, split: str, beams: int | None, settings: EvaluationConfig,
    progress: bool = True,
) -> tuple[dict[str, Any], list[Prediction]]:  # fmt: skip
    """Score a model on a split; the results are those of :func:`evaluate_users`.

    Of a model with auxiliary classifiers they also have the decoder's and the classifiers' own scores, under ``decoder``
    and ``classifiers``.

    Args:
        model: put into evaluation mode.
        data: makes the batches.
        split: whose users are predicted.
        beams: see :meth:`mmprofile.model.model.ProfileModel.generate`.
        settings: ``evaluation`` of the model's configuration.
        progress: show progress bars.
    """
    model.eval()

    def predict(users: Sequence[User], label: str) -> list[Prediction]:
        return predict_users(model, data, users, beams, label if progress else None, settings.risk)

    users = data.judged(split)
    metrics, predictions = evaluate_users(
        schema=model.schema,
        users=users,
        predict=predict,
        resamples=settings.resamples,
        view=data.views[0],
        changed=changed_photos(users, data.inputs["pairing"], settings.missing),
    )
    if any(prediction.sets is not None for prediction in predictions):
        metrics["risk"] = settings.risk
    if model.auxiliary is not None:
        label = "decoder and classifiers" if progress else None
        opinions = [model.opinions(batch) for batch in _batches(model, data, users, label)]
        for name, parts in zip(("decoder", "classifiers"), zip(*opinions, strict=True), strict=True):
            alone = _predictions(users, [decoded for part in parts for decoded in part], None)
            metrics[name] = score_predictions(model.schema.observed, alone, settings.resamples).to_dict()
    return metrics, predictions


def changed_photos(users: Sequence[User], pairing: str, missing: float | None) -> dict[str, list[User]]:
    """Return what else a system is scored on: the same users with other users' photos, and with some photos missing.

    Args:
        users: of one split.
        pairing: ``inputs.pairing``; with ``unpaired`` the users already have other users' photos.
        missing: the probability that a photo is missing; None: do not score that.
    """
    changed = {"unpaired": unpaired(users, UNPAIRED_SEED) if pairing == "paired" else list(users)}
    if missing is not None:
        changed["missing"] = [drop_photos(user, missing, MISSING_SEED) for user in users]
    return changed


def evaluate_users(
    *,
    schema: Schema,
    users: Sequence[User],
    predict: Callable[[Sequence[User], str], list[Prediction]],
    resamples: int,
    view: View,
    changed: Mapping[str, Sequence[User]],
) -> tuple[dict[str, Any], list[Prediction]]:
    """Score a system on users and, under a name each, on the same users with other photos.

    The scores cover the observed attributes. Text-only attributes are scored apart, under ``text_only``, if users have
    gold values of them.

    Args:
        schema: of the profiles.
        users: of one split, with profiles.
        predict: (users, label of a progress bar) -> predictions.
        resamples: of the bootstrap.
        view: what the system is shown; a system that is shown no photos is not asked again.
        changed: see :func:`changed_photos`.

    Returns:
        The ``test`` part of ``metrics.json``, and the predictions.
    """
    predictions = predict(users, "profiles")
    observed, text_only = schema.observed, schema.text_only
    plain = score_predictions(observed, predictions, resamples).to_dict()
    metrics, blind = dict(plain), view.photos == "none" and view.captions == "none"
    for name, changed_users in changed.items():
        if blind or list(changed_users) == list(users):
            metrics[name] = dict(plain)
        else:
            again = predict(changed_users, f"{name} photos")
            metrics[name] = score_predictions(observed, again, resamples).to_dict()
    if text_only is not None and any((user.profile or {}).get(name) for user in users for name in text_only.names):
        metrics["text_only"] = score_predictions(text_only, predictions, resamples).to_dict()
    answers = collect_answers(schema, observed.names, [prediction.to_dict() for prediction in predictions])
    if answers:
        metrics["confidence"] = {name: found._asdict() for name, found in confidence_scores(answers).items()}
    return metrics, predictions


def evaluate_baselines(schema: Schema, data: ExampleData, split: str, resamples: int) -> dict[str, Any]:
    """Score the baselines on the observed attributes.

    They are the majority class, TF-IDF with logistic regression and, where the true cues are known, the ceiling.
    """
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
    """Write one JSON object per user, as :meth:`Prediction.to_dict` gives it; whole or not at all."""
    write_json_lines(path, [prediction.to_dict() for prediction in predictions])
