"""Counterfactuals: users without a photo, a review or the gate, and how that moves the posterior of each attribute.

A change is a function of users, so changes can be combined. Photos and reviews are counted from 0. Nothing here knows of
models: :meth:`mmprofile.inspection.inspector.Inspector.counterfactuals` asks one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mmprofile.inputs.views import User, View, pick_photos, with_photos_of
from mmprofile.model.decoding import Decoded
from mmprofile.profile.schema import UNKNOWN

BLACK = "black:"
"""In front of a photo's key: the same photo with every pixel black."""


class Effect(NamedTuple):
    """How a change moves the probability of one value.

    Attributes:
        user_id, change, attribute: the user, the change (see :func:`changes`) and the attribute.
        value: as a profile prints it.
        before, after: its probability, 0 to 1; 0 where the search did not look at it.
        difference: after - before.
        total_variation: of the whole attribute, half the sum of its values' |difference|, 0 to 1.
    """

    user_id: str
    change: str
    attribute: str
    value: str
    before: float
    after: float
    difference: float
    total_variation: float


def drop_photo(user: User, number: int) -> User:
    """Return the user without a photo and its caption."""
    return pick_photos(user, [i for i in range(len(user.photos)) if i != number])


def hide_photo(user: User, number: int) -> User:
    """Return the user without a photo; its caption, which is text, stays."""
    return replace(user, photos=user.photos[:number] + user.photos[number + 1 :])


def black_photo(user: User, number: int) -> User:
    """Return the user with every pixel of a photo black; its caption stays."""
    photos = [BLACK + photo if i == number else photo for i, photo in enumerate(user.photos)]
    return replace(user, photos=tuple(photos))


def black_photos(user: User) -> User:
    """Return the user with all photos black; captions stay."""
    return replace(user, photos=tuple(BLACK + photo for photo in user.photos))


def swap_photo(user: User, number: int, donor: User) -> User:
    """Return the user with a photo (and its caption) replaced by one of the donor's."""
    source = number % len(donor.photos)
    photos, captions = list(user.photos), list(user.captions)
    photos[number] = donor.photos[source]
    if captions:
        captions[number] = donor.captions[source] if donor.captions else None
    return replace(user, photos=tuple(photos), captions=tuple(captions))


def zero_gate(user: User) -> User:
    """Return the user as the model reads it with the gate shut: H_txt alone. Captions, which are text, stay."""
    return replace(user, photos=())


def drop_review(user: User, number: int) -> User:
    """Return the user without a review; the photos stay."""
    return replace(user, reviews=user.reviews[:number] + user.reviews[number + 1 :])


def without_each(user: User, view: View) -> dict[str, User]:
    """Return the user without each photo and review that a view shows, by its name: ``photo 0``, ``review 2``, ...

    Without the only one there is nothing to predict from: then there is no version.
    """
    photos = range(len(user.photos)) if "plain" in (view.photos, view.captions) else ()
    versions = {f"photo {i}": drop_photo(user, i) for i in photos}
    versions |= {f"review {i}": drop_review(user, i) for i in range(len(user.reviews))}
    return versions if len(versions) > 1 else {}


def changes(user: User, donor: User) -> dict[str, User]:
    """Return the user after each change, by the change's name.

    Args:
        user: with photos.
        donor: another user with photos, which replace the user's.
    """
    changed = {
        "zero gate": zero_gate(user),
        "black photos": black_photos(user),
        "unpaired": with_photos_of(user, donor),
    }
    for i in range(len(user.photos)):
        changed[f"drop photo {i}"] = drop_photo(user, i)
        changed[f"black photo {i}"] = black_photo(user, i)
        changed[f"swap photo {i}"] = swap_photo(user, i, donor)
    return changed | {f"drop review {i}": drop_review(user, i) for i in range(len(user.reviews))}


def blackened(load_photo: Callable[[str], np.ndarray]) -> Callable[[str], np.ndarray]:
    """Return a function that loads photos, black ones too: photo key -> uint8 (3, H, W)."""

    def load(key: str) -> np.ndarray:
        return np.zeros_like(load(key.removeprefix(BLACK))) if key.startswith(BLACK) else load_photo(key)

    return load


def total_variation(before: Mapping[Any, float], after: Mapping[Any, float]) -> float:
    """Return half the sum of the absolute differences of two distributions, 0 to 1."""
    values = dict.fromkeys([*before, *after])  # in order: a set's order, and so the last digit, changes from run to run
    return sum(abs(after.get(value, 0.0) - before.get(value, 0.0)) for value in values) / 2


def effects(user_id: str, change: str, before: Decoded, after: Decoded) -> list[Effect]:
    """Return a row for each attribute and each value that has a probability before or after the change."""
    rows = []
    for name, old in before.posteriors.items():
        new = after.posteriors[name]
        distance = total_variation(old, new)
        for values in dict.fromkeys([*old, *new]):
            p, q = old.get(values, 0.0), new.get(values, 0.0)
            rows.append(
                Effect(
                    user_id=user_id,
                    change=change,
                    attribute=name,
                    value=", ".join(values) or UNKNOWN,
                    before=p,
                    after=q,
                    difference=q - p,
                    total_variation=distance,
                )
            )
    return rows


def distances_by_change(rows: Iterable[Effect]) -> dict[str, dict[str, np.ndarray]]:
    """Return change -> attribute -> total variation, (users,), of the users who have that change."""
    by_user = {(row.change, row.attribute, row.user_id): row.total_variation for row in rows}
    table: dict[str, dict[str, list[float]]] = {}
    for (change, attribute, _), distance in by_user.items():
        table.setdefault(change, {}).setdefault(attribute, []).append(distance)
    return {
        change: {name: np.array(distances) for name, distances in by_attribute.items()}
        for change, by_attribute in table.items()
    }
