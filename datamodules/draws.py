"""Prepared folder -> the users of each split as every system sees them: reviews, photos and captions drawn of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.gold import read_gold
from datamodules.prepared import Prepared, open_prepared
from datamodules.text_only import Labelled, read_text_only
from mmprofile.errors import UserError
from mmprofile.inputs.evidence import MOST_USERS, EvidenceSelector
from mmprofile.inputs.views import (
    SPLITS,
    Example,
    InputSettings,
    User,
    donors,
    drop_labels,
    drop_photos,
    keep_photos,
    sample_reviews,
    with_photos_of,
)
from mmprofile.profile.schema import Profile, Schema

DrawnUser = tuple[tuple[Mapping[str, Any], ...], User]
"""The rows of the reviews that were drawn of a user, and the user as models see it."""


class Draws:
    """The users of each split with the reviews and photos that are drawn of each.

    Args:
        folder: a prepared folder.
        schema: the system's profile schema: the folder's, or that joined with text-only attributes, whose labels were attached
            (:mod:`datamodules.text_only`).
        inputs: ``reviews``, ``photos_per_review``, ``sample_seed``, ``redraw``, and if others than these are wanted
            ``photos`` (None), ``pairing`` (``paired``), ``missing``, ``missing_labels`` and ``evidence`` (0).
        captions: whether the system reads captions.
        selector: a trained model's, if ``inputs`` have ``evidence``; None: fitted to the training users.

    Attributes:
        selector: selects the sentences that are shown of reviews that were not drawn; None where ``evidence`` is 0.

    Raises:
        UserError: the folder's schema is another one, or captions or text-only labels are read and it has none.
    """

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        inputs: InputSettings,
        captions: bool,
        selector: EvidenceSelector | None = None,
    ) -> None:
        self.prepared = open_prepared(folder)
        all_there: InputSettings = {"photos": None, "pairing": "paired", "missing": 0.0, "missing_labels": 0.0}
        self.inputs: InputSettings = {**all_there, "evidence": 0, **inputs}
        self.text_only = None if self.prepared.schema == schema else schema.text_only
        self._labels: dict[str, Labelled] = {}
        if self.text_only is not None and self.prepared.schema == schema.observed:
            self._labels = read_text_only(self.prepared, self.text_only)
        elif self.prepared.schema != schema:
            raise UserError(
                f"{folder} was prepared with the profile schema {self.prepared.schema.name!r}, which differs from this "
                f"model's {schema.name!r}: prepare the data with this schema or choose the matching profile="
            )
        self.selector = selector
        if selector is None and self.inputs["evidence"]:
            self.selector = EvidenceSelector.fit(islice(self._evidence(), MOST_USERS), self.inputs["evidence"])
        self.captions = _captions_by_photo(self.prepared, captions)
        self._drawn: dict[str, list[DrawnUser]] = {}
        self._donors_of: dict[str, list[int]] = {}
        self._training: tuple[int, dict[int, User]] = -1, {}

    def of(self, split: str) -> list[DrawnUser]:
        """Return the drawn rows of every user, and the user as models see it: the same for every system and run.

        Raises:
            UserError: the split is empty.
        """
        if split not in self._drawn:
            table = self.prepared.datasets.get(split)
            if table is None or not len(table):
                raise UserError(
                    f"{self.prepared.folder}: the split {split!r} has no users; splits: {', '.join(SPLITS)}"
                )
            drawn = [self._draw(row, split) for row in table]
            self._drawn[split] = [
                (rows, with_photos_of(user, drawn[donor][1]))
                for (rows, user), donor in zip(drawn, self._donors(split), strict=True)
            ]
        return self._drawn[split]

    def users(self, split: str) -> list[User]:
        """Return the users of a split as models see them, with their profiles.

        Raises:
            UserError: as :meth:`of`.
        """
        return [user for _, user in self.of(split)]

    def judged(self, split: str) -> list[User]:
        """Return the users that predictions are scored on: their text-only attributes have gold values, not labels.

        Raises:
            UserError: as :meth:`of`.
        """
        if self.text_only is None:
            return self.users(split)
        gold = read_gold(self.prepared.folder, self.text_only)
        observed = self.prepared.schema.names
        return [
            replace(user, profile={n: v for n, v in user.profile.items() if n in observed} | gold.get(user.user_id, {}))
            for user in self.users(split)
            if user.profile is not None
        ]

    def examples(self, split: str) -> list[Example]:
        """Return the same users for the classical baselines, with the true cues where a city gives them."""
        cues = self.prepared.cues or {}
        return [
            replace(
                Example.of(user),
                review_cues=[cues.get(("review", row["review_id"]), {}) for row in rows],
                photo_cues=[cues.get(("photo", photo), {}) for photo in user.photos],
            )
            for rows, user in self.of(split)
        ]

    def jpeg(self, photo_id: str) -> bytes:
        """Return a photo's file."""
        return self.prepared.jpeg(photo_id)

    def training(self, epoch: int, index: int) -> User:
        """Return a training user as shown in an epoch; with ``redraw``, other reviews each time."""
        if not self.inputs["redraw"]:
            return self.of("train")[index][1]
        if self._training[0] != epoch:
            self._training = epoch, {}
        users, donor = self._training[1], self._donors("train")[index]
        for place in {index, donor} - users.keys():
            users[place] = self._draw(self.prepared.datasets["train"][place], "train", epoch)[1]
        return with_photos_of(users[index], users[donor])

    def _evidence(self) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
        """Yield the reviews and the rationales of each training user with labels."""
        for row in self.prepared.datasets["train"]:
            if row["user_id"] in self._labels:
                yield [review["text"] for review in row["reviews"]], self._labels[row["user_id"]].rationales

    def _donors(self, split: str) -> list[int]:
        """Return for each user of a split the position of the user whose photos it is shown."""
        if split not in self._donors_of:
            count = len(self.prepared.datasets[split])
            unpaired = self.inputs["pairing"] == "unpaired"
            if unpaired and count < 2:
                raise UserError(
                    f"inputs.pairing=unpaired: {split} has {count} user, so there is nobody else with photos"
                )
            self._donors_of[split] = donors(count, self.inputs["sample_seed"]) if unpaired else list(range(count))
        return self._donors_of[split]

    def _draw(self, row: Mapping[str, Any], split: str, epoch: int | None = None) -> DrawnUser:
        """Draw reviews and photos of a row of the prepared folder; in all epochs the same where ``epoch`` is None."""
        profile: Profile = {}
        for attribute in self.prepared.schema.attributes:
            values = row["profile"][attribute.name]
            if values or (values is not None and attribute.unknown):
                profile[attribute.name] = tuple(values)
        inputs, seed = self.inputs, self.inputs["sample_seed"]
        rows, user = sample_reviews(
            row["user_id"],
            row["reviews"],
            self.captions,
            count=inputs["reviews"],
            photos_per_review=inputs["photos_per_review"],
            seed=seed,
            epoch=epoch,
        )
        user = drop_photos(keep_photos(user, inputs["photos"], seed), inputs["missing"], seed)
        if self.selector is not None:
            ids = {review["review_id"] for review in rows}
            user = self.selector.shown(user, [r["text"] for r in row["reviews"] if r["review_id"] not in ids])
        labelled = self._labels.get(user.user_id, Labelled(profile={}, weights={}, rationales=[]))
        user = replace(user, profile=profile | labelled.profile, weights=labelled.weights)
        return rows, user if split == "test" else drop_labels(user, inputs["missing_labels"], seed)


def _captions_by_photo(prepared: Prepared, needed: bool) -> dict[str, str]:
    captions = prepared.captions
    if captions is None:
        if needed:
            raise UserError(
                f"{prepared.folder} has no captions.parquet, which this paradigm reads: caption the photos first "
                f"(python -m mmprofile.caption) or choose paradigm=multi"
            )
        return {}
    pairs = zip(prepared.photos["photo_id"], prepared.photos["sha256"], strict=True)
    return {photo: captions[sha] for photo, sha in pairs if sha in captions}
