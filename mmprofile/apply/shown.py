"""What a classifier is shown: reviews that no profile was made of, and the profiles of their writers."""

import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

from mmprofile.evaluate.predictions import predict_users, write_predictions
from mmprofile.evaluate.rows import profiles
from mmprofile.files import read_json_lines
from mmprofile.inputs.data import BatchData, PhotoData
from mmprofile.inputs.evidence import SENTENCE_END, distinct_sentences, sentences_of
from mmprofile.inputs.views import User, donors, user_rng
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Profile, Schema

PROFILES = ("none", "generated", "gold", "shuffled")
_HELD_OUT = 1_000_033  # purpose of a draw; the purposes of training draws are the epochs' numbers


class HeldOut(NamedTuple):
    """Reviews to classify. Each is a :class:`User` of one review, whose profile is the review's sentiment.

    Attributes:
        reviews: the reviews.
        alone: users left out because all of their reviews went into the profile.
        unrated: users left out because none of their other reviews has stars that are a value of the schema.
    """

    reviews: list[User]
    alone: int
    unrated: int

    @property
    def left_out(self) -> dict[str, int]:
        """Return the numbers of users left out, for ``metrics.json``."""
        return {"no_other_review": self.alone, "no_stars": self.unrated}


def held_out(draws: PhotoData, split: str, schema: Schema, count: int, sentences: int | None = None) -> HeldOut:
    """Draw up to ``count`` reviews of each user, none of those that the profile is made of and none with their text.

    Nor is there a review with one of the sentences that the profile is made of (``inputs.evidence``).

    The draw depends only on the run's ``inputs.sample_seed`` and the user: it is the same for all classifiers and seeds.

    Args:
        draws: the users of the run.
        split: whose users.
        schema: of one attribute, whose values are stars.
        count: reviews of a user at most.
        sentences: see :func:`first_sentences`.
    """
    (attribute,) = schema.attributes
    reviews, alone, unrated = list[User](), 0, 0
    for row, (drawn, user) in zip(draws.prepared.datasets[split], draws.of(split), strict=True):
        ids, texts = {review["review_id"] for review in drawn}, set(user.reviews)
        evidence = {*distinct_sentences(user.reviews[len(drawn) :])}
        others = [
            r
            for r in row["reviews"]
            if r["review_id"] not in ids and r["text"] not in texts and evidence.isdisjoint(sentences_of(r["text"]))
        ]
        rated = [(r["text"], value) for r in others if (value := sentiment(r["stars"])) in attribute.values]
        alone, unrated = alone + (not others), unrated + bool(others and not rated)
        rng = user_rng(draws.inputs["sample_seed"], user.user_id, _HELD_OUT)
        for i in sorted(rng.permutation(len(rated))[:count].tolist()):
            text, value = rated[i]
            shown = first_sentences(text, sentences)
            reviews.append(User(user.user_id, (shown,), profile={attribute.name: (value,)}))
    return HeldOut(reviews=reviews, alone=alone, unrated=unrated)


def first_sentences(text: str, count: int | None) -> str:
    """Return the first ``count`` sentences of a text, all of it where ``count`` is None.

    A sentence ends behind ``.``, ``!`` or ``?`` before a blank, and behind their full-width forms.
    """
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text if count is None or count > len(ends) else text[: ends[count - 1]]


def sentiment(stars: float | None) -> str | None:
    """Return a review's stars, rounded half up; None without stars."""
    return None if stars is None or not math.isfinite(stars) else str(math.floor(stars + 0.5))


def shown_profiles(choice: str, model: ProfileModel, data: BatchData, split: str, source: "Source") -> dict[str, str]:
    """Return the profile that is shown beside the reviews of each user of a split: user id -> text; empty for ``none``.

    Args:
        choice: one of :data:`PROFILES`. ``generated``: by the model, from the run's draw of reviews; ``gold``: the labels;
            ``shuffled``: generated, but of another user of the split.
        model: of the run.
        data: of the run.
        split: whose users.
        source: of generated profiles.
    """
    users = data.judged(split)
    if choice == "none":
        return {}
    if choice == "gold":
        return {user.user_id: known_labels(model.schema, user.profile or {}) for user in users}
    shown = source.profiles(model, data, split)
    if choice == "shuffled":
        shown = [shown[donor] for donor in donors(len(users), data.inputs["sample_seed"])]
    return {user.user_id: model.schema.render(profile) for user, profile in zip(users, shown, strict=True)}


def known_labels(schema: Schema, labels: Profile) -> str:
    """Return labels as the text of a profile: ``Unknown`` is said where it is the label, and nothing where there is none."""
    given = [attribute for attribute in schema.attributes if attribute.name in labels]
    return Schema(schema.name, given).render(labels) if given else ""


class Source(NamedTuple):
    """Generated profiles, made once for all classifiers.

    Attributes:
        weights: the file of the model's weights.
        cache: the folder that keeps the profiles.
        beams: see :func:`mmprofile.evaluate.predictions.predict_users`.
        progress: whether to show a progress bar.
    """

    weights: Path
    cache: Path
    beams: int | None
    progress: bool

    def profiles(self, model: ProfileModel, data: BatchData, split: str) -> list[Profile]:
        """Return the profiles that the model writes of the users of a split, now or in an earlier call.

        The name of the file depends on weights, search and what is shown of the users, so that runs may share a folder.
        """
        users = data.users(split)
        with self.weights.open("rb") as file:
            key = hashlib.file_digest(file, "sha256")
        key.update(repr((self.beams, users)).encode())
        path = self.cache / f"{split}-{key.hexdigest()[:16]}.jsonl"
        if not path.exists():
            print(f"generating the profiles of {len(users)} users ({split})", flush=True)
            label = f"profiles, {split}" if self.progress else None
            partial = path.with_suffix(
                f".{os.getpid()}"
            )  # a name per process: other ranks and classifiers write it, too
            write_predictions(partial, predict_users(model, data, users, self.beams, label))
            partial.replace(path)
        return profiles(read_json_lines(path), "parsed")
