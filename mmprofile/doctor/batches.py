"""The largest batches of a run: of the longest users where the data are prepared, of invented users otherwise."""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmprofile.config.settings import TrainConfig
from mmprofile.evaluate.runs import make_data
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.texts import TextReader
from mmprofile.inputs.views import User, View, check_paradigm
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema

WORDS = 100
"""Of each review of an invented user: the longest of a batch where the average has 60, as on Yelp."""
SENTENCE = "we came here for dinner with friends and the noodles were warm the bill was fair and we will be back"
CAPTION = "a plate of noodles on a wooden table"


class Batches(NamedTuple):
    """What a run computes at most at a time.

    Attributes:
        training: a step's batch, in all views.
        prediction: a batch of the evaluation, in the view that predicts.
        weights: of the views in the joint loss; None where each user is in one view.
        photo_bytes: of decoded photos that are kept in memory, at most.
        source: where the texts come from, in a few words.
    """

    training: Batch
    prediction: Batch
    weights: list[float] | None
    photo_bytes: int
    source: str


def largest_batches(cfg: TrainConfig, model: ProfileModel, prepared: Path | None) -> Batches:
    """Return the largest batches of a run.

    Args:
        cfg: of the run.
        model: makes the batches; its weights are not used.
        prepared: the prepared folder; None: there is none yet.

    Raises:
        UserError: the data do not go with the configuration: captions are missing, say.
    """
    paradigm = check_paradigm(cfg.paradigm)
    blank = np.zeros((3, 0, 0), np.uint8) if model.transform is None else model.transform(Image.new("RGB", (256, 256)))
    if prepared is not None:
        data = make_data(cfg, model, prepared)
        users, collator = data.users("train"), data.collator
        photos, source = len(data.prepared.photos), "the longest of the prepared data"
    else:
        users = [invented(cfg, model.schema, number) for number in range(max(cfg.loader.batch_size, 1))]
        inputs: Any = {**cfg.inputs, "encoding": cfg.text.encoding}  # type: ignore[dict-item]
        collator = model.collator(inputs, lambda photo: blank, paradigm.masking, cfg.seed)
        photos, source = 0, f"reviews of {WORDS} words"
    paired = cfg.paradigm.schedule == "paired"
    views: tuple[View, ...] = paradigm.views
    longest = _longest(users, collator, max(cfg.loader.batch_size, cfg.evaluation.batch_size))
    training = longest[: cfg.loader.micro_batch_size or cfg.loader.batch_size]
    return Batches(
        training=collator(training, views, drawn=None if paired else [0] * len(training)),
        prediction=collator(longest[: cfg.evaluation.batch_size], views[:1]),
        weights=list(paradigm.weights or [1.0] * len(views)) if paired else None,
        photo_bytes=min(cfg.loader.cache_mb << 20, photos * blank.nbytes),
        source=source,
    )


def _longest(users: Sequence[User], reader: TextReader, count: int) -> list[User]:
    """Return the users with the most tokens in their reviews; a user may come several times if there are too few."""
    lengths = [sum(map(len, reader.review_tokens(user.reviews))) for user in users]
    order = sorted(range(len(users)), key=lambda i: -lengths[i])
    return [users[order[i % len(order)]] for i in range(count)] if order else []


def invented(cfg: TrainConfig, schema: Schema, number: int) -> User:
    """Return a user of no data set, with as many reviews, photos and captions as the configuration draws."""
    count = cfg.inputs.reviews * cfg.inputs.photos_per_review
    count = count if cfg.inputs.photos is None else min(count, cfg.inputs.photos)
    words = list(islice(cycle(SENTENCE.split()), WORDS - 1))
    return User(
        user_id=f"user-{number}",
        reviews=tuple(
            " ".join([f"{number}.{review}", *words])
            for review in range(cfg.inputs.reviews + bool(cfg.inputs.evidence))  # the sentences are one more
        ),
        photos=tuple(f"{number}.{photo}" for photo in range(count)),
        captions=(CAPTION,) * count,
        profile={
            attribute.name: attribute.canonical(attribute.values[: attribute.size]) for attribute in schema.attributes
        },
    )
