"""A user's row -> the views a paradigm asks for. Pure functions; nothing here knows of tensors or models.

A view is one way of looking at a user during joint training (Qiang et al., section 5.1 and 5.2): which of the reviews,
captions, photos and masked profile the model sees. The target is always the whole profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zlib import crc32

import numpy as np

from mmprofile.errors import UserError
from mmprofile.profile.schema import Profile

Show = Literal["none", "plain", "masked"]
SPLITS = ("train", "validation", "test")
VIEWS = ("fusion", "text", "masked_image", "masked_profile")
MODALITIES = ("text", "multi", "uni", "both")
SCHEDULES = ("paired", "sampled")
PAIRINGS = ("paired", "unpaired")
_KEEP, _DROP = 1, 2  # purposes of a number drawn for a photo: one says nothing of the other


@dataclass(frozen=True)
class User:
    """What is known of one user: the sampled reviews, the photos that go with them, and (for training) the profile.

    ``captions`` runs parallel to ``photos``; None where a photo has no caption. ``weights``: how much an attribute of the
    profile counts in the loss, 1 where nothing is said.
    """

    user_id: str
    reviews: tuple[str, ...]
    photos: tuple[str, ...] = ()
    captions: tuple[str | None, ...] = ()
    profile: Profile | None = None
    weights: Mapping[str, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class View:
    """What one view shows. ``name`` is unique within a paradigm; ``kind`` is one of :data:`VIEWS`."""

    name: str
    kind: str
    reviews: bool = True
    photos: Show = "none"
    captions: Show = "none"
    profile: bool = False

    def __post_init__(self) -> None:
        assert self.kind in VIEWS, self.kind


def build_view(kind: str, modality: str, name: str | None = None) -> View:
    """One of the four training methods in one modality (table in ``docs/paper_map.md``).

    Args:
        kind: one of :data:`VIEWS`.
        modality: ``text`` (reviews only), ``multi`` (photos), ``uni`` (captions instead of photos), ``both``.
    """
    seen: Show = "masked" if kind == "masked_image" else "none" if kind == "text" else "plain"
    return View(
        name=name or kind,
        kind=kind,
        reviews=kind != "masked_profile",
        photos=seen if modality in ("multi", "both") else "none",
        captions=seen if modality in ("uni", "both") else "none",
        profile=kind == "masked_profile",
    )


def paradigm_views(modality: str, views: Sequence[str], union: bool = False) -> tuple[View, ...]:
    """The views of a paradigm, the one used for prediction first.

    Args:
        modality: one of :data:`MODALITIES`; with ``text`` only the view ``text`` makes sense.
        views: kinds of view to train on, from :data:`VIEWS`; ``fusion`` (or ``text``) is what prediction uses.
        union: with ``both``: add the views of ``multi`` and ``uni`` as well, named ``multi/fusion`` and so on.

    Raises:
        UserError: an unknown modality or view, or a combination without meaning.
    """
    if modality not in MODALITIES:
        raise UserError(f"paradigm.modality={modality!r} is not one of {', '.join(MODALITIES)}")
    unknown = [kind for kind in views if kind not in VIEWS]
    if unknown or not views or len(set(views)) != len(views):
        raise UserError(f"paradigm.views={list(views)}: give different views out of {', '.join(VIEWS)}")
    if modality == "text" and list(views) != ["text"]:
        raise UserError(f"paradigm.views={list(views)}: a text paradigm has no photos and takes views: [text] only")
    if modality != "text" and "fusion" not in views:
        raise UserError(
            f"paradigm.views={list(views)}: the view `fusion` is what prediction uses and cannot be left out"
        )
    if union and modality != "both":
        raise UserError(f"paradigm.union=true needs paradigm.modality=both, not {modality!r}")
    kinds = sorted(views, key=VIEWS.index)
    chosen = [build_view(kind, modality) for kind in kinds]
    if union:
        chosen += [build_view(kind, m, f"{m}/{kind}") for m in ("multi", "uni") for kind in kinds if kind != "text"]
    return tuple(chosen)


@dataclass(frozen=True)
class Masking:
    """Probabilities of hiding a pixel, a caption's token, an attribute of the profile."""

    image: float = 0.3
    caption: float = 0.3
    profile: float = 0.5

    def __post_init__(self) -> None:
        for name in ("image", "caption", "profile"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"paradigm.masking.{name}={getattr(self, name)} is not a probability (0 to 1)")


def user_rng(seed: int, user_id: str, *more: int) -> np.random.Generator:
    """A generator that depends on the seed, the user, ``more`` and nothing else (not on batch, order or worker)."""
    # The count keeps (s, u) and (s, u, 0) apart: NumPy ignores zeros at the end of a seed.
    return np.random.default_rng([seed, crc32(user_id.encode()), *more, 1 + len(more)])


def hidden_attributes(names: Sequence[str], probability: float, rng: np.random.Generator) -> list[str]:
    """The attributes that a masked-profile view hides: each with ``probability``, at least one."""
    hide = rng.random(len(names)) < probability
    hide[rng.integers(len(names))] |= not hide.any()
    return [name for name, hidden in zip(names, hide, strict=True) if hidden]


def sample_reviews(
    user_id: str,
    reviews: Sequence[Mapping],
    captions: Mapping[str, str],
    count: int,
    photos_per_review: int,
    seed: int,
    epoch: int | None = None,
) -> tuple[tuple[Mapping, ...], User]:
    """Draws the reviews (and photos of each) that a model sees of a user; the same for every system and run.

    Args:
        user_id: seeds the draw together with ``seed``.
        reviews: rows of the prepared data set: ``text``, ``photo_ids``, ...
        captions: photo id -> caption.
        count: reviews to draw; all of them when there are fewer.
        photos_per_review: photos to draw of each review's; a photo is taken once.
        epoch: draw others than in other epochs.

    Returns:
        The rows drawn, in time order, and the user without profile.
    """
    rng = user_rng(seed, user_id, *([] if epoch is None else [epoch]))
    picked = sorted(rng.choice(len(reviews), size=min(count, len(reviews)), replace=False).tolist()) if reviews else []
    rows = tuple(reviews[i] for i in picked)
    photos: list[str] = []
    for row in rows:
        left = [photo for photo in row["photo_ids"] if photo not in photos]
        take = rng.choice(len(left), size=min(photos_per_review, len(left)), replace=False).tolist() if left else []
        photos += [left[i] for i in take]
    texts = tuple(row["text"] for row in rows)
    return rows, User(user_id, texts, tuple(photos), tuple(captions.get(photo) for photo in photos))


def donors(count: int, seed: int) -> list[int]:
    """For each of ``count`` users another one: a seeded permutation without fixed points; alone, the user itself."""
    order = np.random.default_rng(seed).permutation(count)
    return [donor for _, donor in sorted(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))]


def with_photos_of(user: User, donor: User) -> User:
    """The user with the photos and captions of somebody else."""
    return replace(user, photos=donor.photos, captions=donor.captions)


def unpaired(users: Sequence[User], seed: int) -> list[User]:
    """The same users, each with the photos (and captions) of somebody else."""
    return [with_photos_of(user, users[donor]) for user, donor in zip(users, donors(len(users), seed), strict=True)]


def keep_photos(user: User, count: int | None, seed: int) -> User:
    """The user with at most ``count`` of the photos: some of those that a larger ``count`` keeps, in their order."""
    if count is None or count >= len(user.photos):
        return user
    return pick_photos(user, sorted(np.argsort(_chances(user, seed, _KEEP))[:count].tolist()))


def drop_photos(user: User, probability: float, seed: int) -> User:
    """The user without some photos, each dropped with ``probability``; whether one is depends on user and photo alone."""
    if not probability:
        return user
    return pick_photos(user, np.flatnonzero(_chances(user, seed, _DROP) >= probability).tolist())


def _chances(user: User, seed: int, purpose: int) -> np.ndarray:
    """A number in [0, 1) for each photo, the same in whatever company it is shown."""
    return np.array([user_rng(seed, f"{user.user_id}/{photo}", purpose).random() for photo in user.photos])


def pick_photos(user: User, places: Sequence[int]) -> User:
    """The user with the photos (and their captions) at some places, in that order."""
    captions = tuple(user.captions[i] for i in places) if user.captions else ()
    return replace(user, photos=tuple(user.photos[i] for i in places), captions=captions)


def check_inputs(inputs: Any) -> None:
    """Refuses settings of ``inputs`` that make no sense.

    Raises:
        UserError: names the setting.
    """
    for name, least in (("reviews", 1), ("photos_per_review", 0), ("photos", 0), ("max_tokens", 1)):
        if inputs[name] is not None and inputs[name] < least:
            raise UserError(f"inputs.{name}={inputs[name]}: give {least} or more")
    if inputs["pairing"] not in PAIRINGS:
        raise UserError(f"inputs.pairing={inputs['pairing']!r} is not one of {', '.join(PAIRINGS)}")
    if not 0 <= inputs["missing"] <= 1:
        raise UserError(f"inputs.missing={inputs['missing']} is not a probability (0 to 1)")


Cues = Mapping[str, str | None]


@dataclass(frozen=True)
class Example:
    """One user as the classical baselines see them.

    Attributes:
        text: the sampled reviews, concatenated.
        review_cues: per sampled review, the evidence its generator put in: attribute name -> value, None or absent
            where nothing is shown.
        photo_cues: the same per photo of these reviews.
        profile: gold profile; used of train examples only.
        captions: of the photos, concatenated.
        photos: ids.
    """

    text: str
    review_cues: Sequence[Cues] = field(default_factory=list)
    photo_cues: Sequence[Cues] = field(default_factory=list)
    profile: Profile = field(default_factory=dict)
    captions: str = ""
    photos: Sequence[str] = ()

    @classmethod
    def of(cls, user: User) -> "Example":
        """What a user shows, without cues."""
        captions = "\n".join(caption for caption in user.captions if caption)
        return cls("\n".join(user.reviews), profile=user.profile or {}, captions=captions, photos=user.photos)


def view_weights(views: Sequence[View], weights: Mapping[str, float]) -> list[float]:
    """A weight per view, 1 where none is given.

    Raises:
        UserError: a weight of an unknown view, a negative one, or none above 0.
    """
    names = [view.name for view in views]
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise UserError(f"paradigm.weights: no view {unknown[0]!r}; views: {', '.join(names)}")
    found = [float(weights.get(name, 1.0)) for name in names]
    if min(found) < 0 or sum(found) <= 0:
        raise UserError(f"paradigm.weights={dict(weights)}: weights must not be negative, and one must be above 0")
    return found


def check_paradigm(paradigm: Any) -> tuple[tuple[View, ...], list[float], Masking]:
    """Views, their weights and the masking of a paradigm's configuration.

    Raises:
        UserError: something in it is unknown or makes no sense.
    """
    views = paradigm_views(paradigm.modality, list(paradigm.views), paradigm.union)
    if paradigm.schedule not in SCHEDULES:
        raise UserError(f"paradigm.schedule={paradigm.schedule!r} is not one of {', '.join(SCHEDULES)}")
    return views, view_weights(views, dict(paradigm.weights)), Masking(**dict(paradigm.masking))
