"""The command ``predict``: profiles of anybody, from a file of users (see :mod:`mmprofile.predict.users`).

Output, a user a line: ``{"user_id", "profile", "text", "faults", "used", "confidence"}``. Confidence is the probability that
the model gives to each attribute's values; it is not calibrated, and left out with ``beams=``.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import torch
from hydra.utils import instantiate
from tqdm import tqdm

from mmprofile.config.settings import PredictConfig
from mmprofile.errors import UserError
from mmprofile.evaluate.runs import load_run
from mmprofile.inputs.views import Masking, View, paradigm_views
from mmprofile.model.model import ProfileModel
from mmprofile.predict.users import InputUser, UserPhotos, read_users, select
from mmprofile.profile.schema import Profile, Schema


def main(cfg: PredictConfig) -> None:
    """Write the profiles of all users in the input file, to a file or to standard output."""
    torch.set_flush_denormal(True)  # as in training
    path = Path(cfg.input).expanduser()
    users = read_users(path)
    run = load_run(cfg.run)
    photos = UserPhotos(path.parent, instantiate(cfg.photos), run.model.transform)
    rows = tqdm(
        predict(run.model, users, photos, cfg.beams or run.cfg.evaluation.beams, cfg.batch_size),
        total=len(users), unit="user", disable=None, leave=False,
    )  # fmt: skip
    if cfg.output is None:
        _write(rows, sys.stdout)
    else:
        target = Path(cfg.output).expanduser()
        try:
            with target.open("w", encoding="utf-8") as file:
                _write(rows, file)
        except OSError as error:
            raise UserError(f"output={cfg.output}: cannot be written ({error.strerror})") from error
        print(f"{len(users)} profiles in {target}")
    for line in warnings(run.model, users, photos):
        print(line, file=sys.stderr)


def predict(
    model: ProfileModel, users: Sequence[InputUser], photos: UserPhotos, beams: int | None, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield the profiles of users, in order, as rows of the output file.

    Args:
        model: in evaluation mode.
        users: whose profiles.
        photos: of these users.
        beams: see :meth:`mmprofile.model.model.ProfileModel.generate`.
        batch_size: users at a time.
    """
    inputs, view = model.settings["inputs"], prediction_view(model)
    collator = model.collator(inputs, photos, Masking(), 0)
    remaining = iter(users)
    while chunk := list(islice(remaining, batch_size)):
        selections = [select(user, inputs, view, photos) for user in chunk]
        batch = collator([selection.user for selection in selections], (view,))
        decoded = model.decode(batch) if beams is None else None
        texts = model.generate(batch, beams) if decoded is None else [profile.text for profile in decoded]
        photos.forget()
        for i, (selection, text) in enumerate(zip(selections, texts, strict=True)):
            parsed = model.schema.parse(text)
            row: dict[str, Any] = {
                "user_id": selection.user.user_id,
                "profile": plain_profile(model.schema, parsed.profile),
                "text": text,
                "faults": parsed.faults,
                "used": selection.used,
            }
            if decoded is not None:
                row["confidence"] = {name: round(share, 3) for name, share in decoded[i].confidence.items()}
            yield row


def plain_profile(schema: Schema, profile: Profile) -> dict[str, Any]:
    """Return a profile as JSON has it: a value or None where an attribute has a single one, else a list."""
    return {
        name: list(values) if schema[name].kind != "single" else (values[0] if values else None)
        for name, values in profile.items()
    }


def prediction_view(model: ProfileModel) -> View:
    """Return the view that a model predicts from."""
    modality = model.settings["inputs"]["modality"]
    return paradigm_views(modality, ["text" if modality == "text" else "fusion"])[0]


def warnings(model: ProfileModel, users: Sequence[InputUser], photos: UserPhotos) -> Iterator[str]:
    """Yield what the user should know about these predictions."""
    reads_captions = prediction_view(model).captions != "none"
    if reads_captions and any(user.photos for user in users) and not any(user.captions for user in users):
        yield "this model was trained with captions of the photos, and the input has none: expect worse"
    if "purpose" in model.settings:
        yield f"this model was trained for the purpose: {model.settings['purpose']}"
    if photos.reasons:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(photos.reasons.items()))
        yield f"photos left out: {counts} (named in each user's `used.unusable_photos`)"


def _write(rows: Iterable[dict[str, Any]], file: TextIO) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
