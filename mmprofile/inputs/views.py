"""A user and the views that a paradigm asks for. Pure functions without tensors; importable without torch.

A view is one way of looking at a user during joint training (Qiang et al., section 5.1 and 5.2): which of the reviews,
captions, photos and masked profile the model sees. The target is always the whole profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict
from zlib import crc32

import numpy as np

from mmprofile.config.settings import InputsConfig, ParadigmConfig
from mmprofile.errors import UserError
from mmprofile.profile.schema import Profile

VIEWS = ("fusion", "text", "masked_image", "masked_profile")
MODALITIES = ("text", "multi", "uni", "both")
SPLITS = ("train", "validation", "test")
VIEW_SCHEDULES = ("paired", "sampled")
PAIRINGS = ("paired", "unpaired")
_KEEP, _DROP, _LABEL = 1, 2, 3  # purposes of a number that is drawn for a photo or label: the numbers are independent

Show = Literal["none", "plain", "masked"]
Cues = Mapping[str, str | None]
"""The evidence that a generator put into a review or photo: attribute -> value; None or absent where there is none."""


class InputSettings(TypedDict, total=False):
    """How inputs are made: :class:`mmprofile.config.settings.InputsConfig` as plain data, and two keys of others.

    An exported model keeps them in its ``config.json``.

    Attributes:
        encoding: of texts, one of :data:`mmprofile.inputs.texts.ENCODINGS`.
        modality: of the paradigm, one of :data:`MODALITIES`.
    """

    reviews: int
    photos_per_review: int
    photos: int | None
    pairing: str
    missing: float
    missing_labels: float
    max_tokens: int
    sample_seed: int
    redraw: bool
    evidence: int
    encoding: str
    modality: str


@dataclass(frozen=True)
class User:
    """What is known of one user: the sampled reviews, their photos and, for training, the profile.

    Attributes:
        user_id: of the data set.
        reviews: their texts.
        photos: their ids.
        captions: one per photo; None where a photo has no caption.
        profile: None where it is to be predicted.
        weights: how much each attribute of the profile counts in the loss; 1 where it is absent.
    """

    user_id: str
    reviews: tuple[str, ...]
    photos: tuple[str, ...] = ()
    captions: tuple[str | None, ...] = ()
    profile: Profile | None = None
    weights: Mapping[str, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Example:
    """One user as the classical baselines see them.

    Attributes:
        text: the sampled reviews, concatenated.
        review_cues: one per sampled review.
        photo_cues: one per photo of these reviews.
        profile: gold profile; the baselines read it of training examples only.
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
        """Return the example of a user, without cues."""
        captions = "\n".join(caption for caption in user.captions if caption)
        return cls("\n".join(user.reviews), profile=user.profile or {}, captions=captions, photos=user.photos)


@dataclass(frozen=True)
class View:
    """What one view shows.

    Attributes:
        name: unique within a paradigm.
        kind: one of :data:`VIEWS`.
        reviews: whether it shows them.
        photos, captions: whether and how it shows them.
        profile: whether it shows the masked profile.
    """

    name: str
    kind: str
    reviews: bool = True
    photos: Show = "none"
    captions: Show = "none"
    profile: bool = False

    def __post_init__(self) -> None:
        assert self.kind in VIEWS, self.kind


@dataclass(frozen=True)
class Masking:
    """Probabilities of hiding a pixel, a caption's token, an attribute of the profile.

    Raises:
        UserError: one is not a probability.
    """

    image: float = 0.3
    caption: float = 0.3
    profile: float = 0.5

    def __post_init__(self) -> None:
        for name in ("image", "caption", "profile"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"paradigm.masking.{name}={getattr(self, name)} is not a probability (0 to 1)")


@dataclass(frozen=True)
class Paradigm:
    """A checked paradigm.

    Attributes:
        views: those that a model is trained on, the one used for prediction first.
        weights: one per view.
        masking: what its views hide.
    """

    views: tuple[View, ...]
    weights: list[float]
    masking: Masking

    @property
    def prediction_view(self) -> View:
        """The view that prediction uses."""
        return self.views[0]


def build_view(kind: str, modality: str, name: str | None = None) -> View:
    """Return one of the four training methods in one modality (table in ``docs/paper_map.md``).

    Args:
        kind: one of :data:`VIEWS`.
        modality: ``text`` (reviews only), ``multi`` (photos), ``uni`` (captions instead of photos), ``both``.
        name: of the view; None means ``kind``.
    """
    show: Show = "masked" if kind == "masked_image" else "none" if kind == "text" else "plain"
    return View(
        name=name or kind,
        kind=kind,
        reviews=kind != "masked_profile",
        photos=show if modality in ("multi", "both") else "none",
        captions=show if modality in ("uni", "both") else "none",
        profile=kind == "masked_profile",
    )


def paradigm_views(modality: str, views: Sequence[str], union: bool = False) -> tuple[View, ...]:
    """Return the views of a paradigm, the one used for prediction first.

    Args:
        modality: one of :data:`MODALITIES`; with ``text`` only the view ``text`` makes sense.
        views: kinds of view to train on, from :data:`VIEWS`; prediction uses ``fusion`` (or ``text``).
        union: with ``both``: add the views of ``multi`` and ``uni``, named ``multi/fusion`` and so on.

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


def view_weights(views: Sequence[View], weights: Mapping[str, float]) -> list[float]:
    """Return a weight per view, 1 where none is given.

    Raises:
        UserError: a weight of an unknown view, a negative one, or none above 0.
    """
    names = [view.name for view in views]
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise UserError(f"paradigm.weights: no view {unknown[0]!r}; views: {', '.join(names)}")
    full = [float(weights.get(name, 1.0)) for name in names]
    if min(full) < 0 or sum(full) <= 0:
        raise UserError(f"paradigm.weights={dict(weights)}: weights must not be negative, and one must be above 0")
    return full


def check_paradigm(paradigm: ParadigmConfig) -> Paradigm:
    """Return the views, their weights and the masking of a paradigm's settings.

    Raises:
        UserError: a setting is unknown or makes no sense.
    """
    views = paradigm_views(paradigm.modality, list(paradigm.views), paradigm.union)
    if paradigm.schedule not in VIEW_SCHEDULES:
        raise UserError(f"paradigm.schedule={paradigm.schedule!r} is not one of {', '.join(VIEW_SCHEDULES)}")
    masking = paradigm.masking
    return Paradigm(
        views=views,
        weights=view_weights(views, dict(paradigm.weights)),
        masking=Masking(image=masking.image, caption=masking.caption, profile=masking.profile),
    )


def check_inputs(inputs: InputsConfig) -> None:
    """Refuse settings of ``inputs`` that make no sense.

    Raises:
        UserError: names the setting.
    """
    for name, least in (("reviews", 1), ("photos_per_review", 0), ("photos", 0), ("max_tokens", 1), ("evidence", 0)):
        value = getattr(inputs, name)
        if value is not None and value < least:
            raise UserError(f"inputs.{name}={value}: give {least} or more")
    if inputs.pairing not in PAIRINGS:
        raise UserError(f"inputs.pairing={inputs.pairing!r} is not one of {', '.join(PAIRINGS)}")
    for name in ("missing", "missing_labels"):
        if not 0 <= getattr(inputs, name) <= 1:
            raise UserError(f"inputs.{name}={getattr(inputs, name)} is not a probability (0 to 1)")


def user_rng(seed: int, user_id: str, *more: int) -> np.random.Generator:
    """Return a generator that depends on the seed, the user and ``more``, not on batch, order or worker."""
    # The count keeps (s, u) and (s, u, 0) apart: NumPy ignores zeros at the end of a seed.
    return np.random.default_rng([seed, crc32(user_id.encode()), *more, 1 + len(more)])


def hidden_attributes(names: Sequence[str], probability: float, rng: np.random.Generator) -> list[str]:
    """Return the attributes that a masked-profile view hides: each with ``probability``, at least one."""
    hide = rng.random(len(names)) < probability
    hide[rng.integers(len(names))] |= not hide.any()
    return [name for name, hidden in zip(names, hide, strict=True) if hidden]


def sample_reviews(
    user_id: str,
    reviews: Sequence[Mapping[str, Any]],
    captions: Mapping[str, str],
    count: int,
    photos_per_review: int,
    seed: int,
    epoch: int | None = None,
) -> tuple[tuple[Mapping[str, Any], ...], User]:
    """Draw the reviews (and photos of each) that a model sees of a user; the same for every system and run.

    Args:
        user_id: seeds the draw together with ``seed``.
        reviews: rows of the prepared data set: ``text``, ``photo_ids``, ...
        captions: photo id -> caption.
        count: reviews to draw; all of them when there are fewer.
        photos_per_review: photos to draw of each review's; a photo is taken once.
        seed: of the draw.
        epoch: draw anew in each epoch; None draws the same in all.

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
    return rows, User(user_id, texts, photos=tuple(photos), captions=tuple(captions.get(photo) for photo in photos))


def donors(count: int, seed: int) -> list[int]:
    """Return another user for each of ``count`` users: a seeded permutation without fixed points, unless ``count`` is 1."""
    order = np.random.default_rng(seed).permutation(count)
    return [donor for _, donor in sorted(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))]


def with_photos_of(user: User, donor: User) -> User:
    """Return the user with the photos and captions of ``donor``."""
    return replace(user, photos=donor.photos, captions=donor.captions)


def unpaired(users: Sequence[User], seed: int) -> list[User]:
    """Return the same users, each with the photos and captions of another user."""
    return [with_photos_of(user, users[donor]) for user, donor in zip(users, donors(len(users), seed), strict=True)]


def keep_photos(user: User, count: int | None, seed: int) -> User:
    """Return the user with at most ``count`` of the photos, in their order; a larger ``count`` keeps these and more."""
    if count is None or count >= len(user.photos):
        return user
    return pick_photos(user, sorted(np.argsort(_photo_numbers(user, seed, _KEEP))[:count].tolist()))


def drop_photos(user: User, probability: float, seed: int) -> User:
    """Return the user without some photos: each is dropped with ``probability``, which depends on user and photo alone."""
    if not probability:
        return user
    return pick_photos(user, np.flatnonzero(_photo_numbers(user, seed, _DROP) >= probability).tolist())


def drop_labels(user: User, probability: float, seed: int) -> User:
    """Return the user without some labels: each is dropped with ``probability``, which depends on user and attribute alone."""
    if not probability or user.profile is None:
        return user
    kept = {n: v for n, v in user.profile.items() if _number(user, n, seed, _LABEL) >= probability}
    return replace(user, profile=kept)


def pick_photos(user: User, places: Sequence[int]) -> User:
    """Return the user with the photos (and their captions) at some places, in that order."""
    captions = tuple(user.captions[i] for i in places) if user.captions else ()
    return replace(user, photos=tuple(user.photos[i] for i in places), captions=captions)


def _photo_numbers(user: User, seed: int, purpose: int) -> np.ndarray:
    """Return a random number in [0, 1) for each photo (photos,), whatever the other photos are."""
    return np.array([_number(user, photo, seed, purpose) for photo in user.photos])


def _number(user: User, name: str, seed: int, purpose: int) -> float:
    """Return a random number in [0, 1) for something of a user."""
    return float(user_rng(seed, f"{user.user_id}/{name}", purpose).random())
