"""What if: users with a photo, a review or the gate taken away, and how each attribute's probability moves by it.

Changes are functions of users, so that they can be combined; photos and reviews are counted from 0. Nothing here knows of
models: :meth:`mmprofile.inspection.inspector.Inspector.counterfactuals` asks one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mmprofile.inputs.views import User, pick_photos, with_photos_of
from mmprofile.model.decoding import Decoded
from mmprofile.profile.schema import UNKNOWN

BLACK = "black:"
"""In front of a photo's key: the same photo with every pixel black."""


class Effect(NamedTuple):
    """How a change moves the probability of one value.

    Attributes:
        user_id, change, attribute: of whom, what was changed (see :func:`changes`), in what.
        value: as a profile prints it.
        before, after: its probability, 0 to 1; not looked at by the search: 0.
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
    """The user without a photo and its caption."""
    return pick_photos(user, [i for i in range(len(user.photos)) if i != number])


def hide_photo(user: User, number: int) -> User:
    """The user without a photo; its caption, which is text, stays."""
    return replace(user, photos=user.photos[:number] + user.photos[number + 1 :])


def black_photo(user: User, number: int) -> User:
    """The user with a photo whose pixels are all black; its caption stays."""
    photos = [BLACK + photo if i == number else photo for i, photo in enumerate(user.photos)]
    return replace(user, photos=tuple(photos))


def black_photos(user: User) -> User:
    """The user with photos that are all black; captions stay."""
    return replace(user, photos=tuple(BLACK + photo for photo in user.photos))


def swap_photo(user: User, number: int, donor: User) -> User:
    """The user with a photo (and caption) of somebody else in a photo's place."""
    there = number % len(donor.photos)
    photos, captions = list(user.photos), list(user.captions)
    photos[number] = donor.photos[there]
    if captions:
        captions[number] = donor.captions[there] if donor.captions else None
    return replace(user, photos=tuple(photos), captions=tuple(captions))


def zero_gate(user: User) -> User:
    """The user whose photos do not get through the gate: H_txt is all that is read. Captions, which are text, stay."""
    return replace(user, photos=())


def drop_review(user: User, number: int) -> User:
    """The user without a review; its photos stay."""
    return replace(user, reviews=user.reviews[:number] + user.reviews[number + 1 :])


def changes(user: User, donor: User) -> dict[str, User]:
    """Everything that can be asked: a name -> the user changed.

    Args:
        user: with photos.
        donor: with photos, which come in the place of the user's.
    """
    found = {"zero gate": zero_gate(user), "black photos": black_photos(user), "unpaired": with_photos_of(user, donor)}
    for i in range(len(user.photos)):
        found[f"drop photo {i}"] = drop_photo(user, i)
        found[f"black photo {i}"] = black_photo(user, i)
        found[f"swap photo {i}"] = swap_photo(user, i, donor)
    return found | {f"drop review {i}": drop_review(user, i) for i in range(len(user.reviews))}


def blackened(load_photo: Callable[[str], np.ndarray]) -> Callable[[str], np.ndarray]:
    """What opens photos, black ones among them: photo key -> uint8 (3, H, W)."""

    def load(key: str) -> np.ndarray:
        return np.zeros_like(load(key.removeprefix(BLACK))) if key.startswith(BLACK) else load_photo(key)

    return load


def total_variation(before: Mapping[Any, float], after: Mapping[Any, float]) -> float:
    """Half the sum of the differences between two distributions, 0 to 1."""
    return sum(abs(after.get(value, 0.0) - before.get(value, 0.0)) for value in before.keys() | after.keys()) / 2


def effects(user_id: str, change: str, before: Decoded, after: Decoded) -> list[Effect]:
    """A row per attribute and value, of values that either of the two gives a probability."""
    rows = []
    for name, old in before.posteriors.items():
        new = after.posteriors[name]
        distance = total_variation(old, new)
        for value in dict.fromkeys([*old, *new]):
            p, q = old.get(value, 0.0), new.get(value, 0.0)
            rows.append(Effect(user_id, change, name, ", ".join(value) or UNKNOWN, p, q, q - p, distance))
    return rows


def moved(rows: Iterable[Effect]) -> dict[str, dict[str, np.ndarray]]:
    """Change -> attribute -> (users,) total variation, of the users for whom there is that change."""
    seen = {(row.change, row.attribute, row.user_id): row.total_variation for row in rows}
    table: dict[str, dict[str, list[float]]] = {}
    for (change, attribute, _), distance in seen.items():
        table.setdefault(change, {}).setdefault(attribute, []).append(distance)
    return {change: {name: np.array(some) for name, some in found.items()} for change, found in table.items()}
