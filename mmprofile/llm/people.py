"""The people that the stage reads: their words and cues, and what a prompt shows of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmprofile.profile.schema import Profile

CUES = ("watched", "searched", "posted", "age", "gender", "region", "signature")
"""Kinds of heterogeneous cues (ProfileBench): keyphrases of behaviour, then what people tell about themselves."""


@dataclass(frozen=True)
class Person:
    """One user.

    Attributes:
        user_id: names the user.
        reviews: texts written by them, reviews or comments.
        cues: of :data:`CUES`, kind -> phrases.
        split: ``train``, ``validation`` or ``test``.
        gold: attribute -> values, ``()`` for Unknown; an attribute that is missing has no gold value.
    """

    user_id: str
    reviews: tuple[str, ...] = ()
    cues: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: str = "train"
    gold: Profile = field(default_factory=dict)

    def text(self) -> str:
        """Return what a prompt shows: a line for each kind of cue, then a line for each text."""
        lines = [f"{kind}: {', '.join(self.cues[kind])}" for kind in CUES if self.cues.get(kind)]
        return "\n".join([*lines, *(f"- {' '.join(review.split())}" for review in self.reviews)])
