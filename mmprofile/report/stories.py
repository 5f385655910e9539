"""What a run says of a few users, and what made it say so: of its model, else of its predictions alone.

Photos and reviews are counted from 0, as in :mod:`mmprofile.inspection.inspector`.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import decode_users
from mmprofile.inputs.views import User, View
from mmprofile.inspection.counterfactuals import Effect, drop_photo, drop_review, effects
from mmprofile.inspection.drawing import GateSummary, gate_summary
from mmprofile.inspection.inspector import Inspection, Inspector, check_gate
from mmprofile.model.decoding import Decoded
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

COUNT = 5
"""Users whose story is told."""
GATES_OF = 100
"""Users at most, those with photos, over whom gates are summed up: a large model reads each of them ten times."""
TOP_WORDS = 8
THUMBNAIL, QUALITY = 280, 80
"""Pixels of a photo's longer side, and of the JPEG."""


class Driver(NamedTuple):
    """The one photo or review without which an attribute's posterior changes most.

    Attributes:
        without: ``photo 0``, ``review 2``, ...
        moved: total variation, 0 to 1.
        before, after: probability of the value predicted.
        likeliest: the value that is likeliest without it.
    """

    without: str
    moved: float
    before: float
    after: float
    likeliest: str


class Answer(NamedTuple):
    """What is said of one attribute; ``right`` is None where gold is unknown, the rest where there is no model to ask."""

    attribute: Attribute
    predicted: str
    gold: str
    right: bool | None
    probability: float | None
    of_gold: float | None
    driver: Driver | None


class Photo(NamedTuple):
    """A photo as a small JPEG, and its share of attention, 0 to 1, mean over what is read; None without a gate."""

    key: str
    jpeg: bytes
    caption: str | None
    share: float | None


class Story(NamedTuple):
    """One user.

    Attributes:
        user_id: as in ``predictions.jsonl``.
        reviews: each in pieces, words with their mean |gate * H*|: 0 the user's least, 1 the largest; None: not known.
        photos: with captions.
        answers: in the schema's order.
        words: those with the largest mean |gate * H*|: word (no sign), where it stands, the mean.
        moved: ``photo 0``, ... -> total variation of each attribute without it.
    """

    user_id: str
    reviews: list[list[tuple[str, float | None]]]
    photos: list[Photo]
    answers: list[Answer]
    words: list[tuple[str, str, float]]
    moved: dict[str, list[float]]


class Evidence(NamedTuple):
    """What there is to tell besides scores.

    Attributes:
        stories: of the first users of the test split, those with photos before those without.
        gates: a summary over the first users with photos; None: there is no gate, and ``why``.
        gates_of: how many users.
        why: no gate.
        view: what the model is shown when it predicts; None without a model.
    """

    stories: list[Story]
    gates: GateSummary | None = None
    gates_of: int = 0
    why: str = ""
    view: View | None = None


def evidence_of_system(schema: Schema, draws: Any, rows: Sequence[Mapping[str, Any]], count: int = COUNT) -> Evidence:
    """Of a system that leaves no model behind.

    Args:
        schema: what it predicts.
        draws: gives the users of the test split and their photos (:class:`datamodules.draws.Draws`).
        rows: of ``predictions.jsonl``.
        count: users whose story is told.
    """
    users = _chosen(draws.users("test"), count)
    said = _by_user(rows)
    stories = [
        Story(user.user_id, [[(t, None)] for t in user.reviews], _photos(user, draws, []), answers, [], {})
        for user in users
        for answers in [[_answer(attribute, said[user.user_id]) for attribute in schema.attributes]]
    ]
    return Evidence(stories, why="there is no gate to look at: the system is no model that was trained here")


def evidence_of_model(
    model: ProfileModel, data: Any, rows: Sequence[Mapping[str, Any]], count: int = COUNT
) -> Evidence:
    """Of a trained model; ``data``: its datamodule, the rest as for :func:`evidence_of_system`."""
    everybody, view = data.users("test"), data.views[0]
    users, said = _chosen(everybody, count), _by_user(rows)
    inspector, why = None, ""
    try:
        check_gate(model.eval())
        inspector = Inspector(model, data.collator, data.views, everybody, data.eval_batch_size)
    except UserError as error:
        why = str(error)
    inspected: dict[str, list[Inspection]] = {user.user_id: [] for user in users}
    for found in inspector.inspect([user for user in users if user.photos]) if inspector is not None else ():
        inspected[found.user.user_id].append(found)
    stories = [
        _story(user, said[user.user_id], inspected[user.user_id], before, after, data.draws, model.schema, view)
        for user, before, after in _asked(model, data, users, view)
    ]
    seen = [user for user in everybody if user.photos][:GATES_OF]
    gates = gate_summary(inspector, seen) if inspector is not None and seen else None
    if inspector is not None and not seen:
        why = "there is nothing to see of the gate: no user has a photo"
    return Evidence(stories, gates, len(seen), why, view)


def _chosen(users: Sequence[User], count: int) -> list[User]:
    return sorted(users, key=lambda user: not user.photos)[:count]


def _by_user(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["user_id"]: row for row in rows}


def _asked(
    model: ProfileModel, data: Any, users: Sequence[User], view: View
) -> Iterator[tuple[User, Decoded, dict[str, Decoded]]]:
    """Each user, what is predicted, and what would be without each of the photos and reviews that the model is shown."""
    changed = [_without_each(user, view) for user in users]
    flat = [one for user, others in zip(users, changed, strict=True) for one in (user, *others.values())]
    found = iter(decode_users(model, data, flat))
    for user, others in zip(users, changed, strict=True):
        before = next(found)
        yield user, before, {name: next(found) for name in others}


def _without_each(user: User, view: View) -> dict[str, User]:
    shown = range(len(user.photos)) if "plain" in (view.photos, view.captions) else ()
    found = {f"photo {i}": drop_photo(user, i) for i in shown}
    found |= {f"review {i}": drop_review(user, i) for i in range(len(user.reviews))}
    return found if len(found) > 1 else {}  # without the only one there is nothing to predict from


def _story(
    user: User,
    said: Mapping[str, Any],
    inspected: Sequence[Inspection],
    before: Decoded,
    after: Mapping[str, Decoded],
    draws: Any,
    schema: Schema,
    view: View,
) -> Story:
    strengths = _strengths(inspected)
    rows = {name: effects(user.user_id, name, before, one) for name, one in after.items()}
    every = [strength for words in strengths.values() for _, strength in words] or [0.0]
    low, width = min(every), max(every) - min(every) or 1.0
    shades = {place: [(word, (value - low) / width) for word, value in words] for place, words in strengths.items()}
    ordered = sorted(
        (
            (word, f"{source} {number}", strength)
            for (source, number), words in strengths.items()
            for word, strength in words
            if any(map(str.isalnum, word))
        ),
        key=lambda found: -found[2],
    )
    shown = "plain" in (view.photos, view.captions)
    return Story(
        user.user_id,
        [_shaded(text, shades.get(("review", i), [])) for i, text in enumerate(user.reviews)],
        _photos(user, draws, inspected) if shown else [],
        [_answer(attribute, said, before, rows) for attribute in schema.attributes],
        ordered[:TOP_WORDS],
        {name: [_effect(found, a.name)[0].total_variation for a in schema.attributes] for name, found in rows.items()},
    )


def _strengths(inspected: Sequence[Inspection]) -> dict[tuple[str, int], list[tuple[str, float]]]:
    """(source, number) -> the words that are read there and their mean |gate * H*|; mean over what is written apart."""
    found: dict[tuple[str, int], dict[int, tuple[str, list[float]]]] = {}
    for one in inspected:
        seen: Counter[tuple[str, int]] = Counter()
        for word, strength in zip(one.words, one.by_word(np.abs(one.added).mean(1)).tolist(), strict=True):
            place = word.source, word.number
            found.setdefault(place, {}).setdefault(seen[place], (word.text, []))[1].append(strength)
            seen[place] += 1
    return {
        place: [(text, float(np.mean(values))) for text, values in words.values()] for place, words in found.items()
    }


def _shaded(text: str, words: Sequence[tuple[str, float]]) -> list[tuple[str, float | None]]:
    """A text, whole and as it is, in pieces: the words that are read of it with their shades, and what lies between them."""
    pieces: list[tuple[str, float | None]] = []
    done = 0
    for word, shade in words:
        at = text.find(word, done)
        if at >= 0:  # a tokenizer need not know every sign
            pieces += [(text[done:at], None), (word, shade)]
            done = at + len(word)
    return [piece for piece in (*pieces, (text[done:], None)) if piece[0]]


def _photos(user: User, draws: Any, inspected: Sequence[Inspection]) -> list[Photo]:
    shares = [found.photo_attention.mean(0) for found in inspected]
    mean = np.mean(shares, axis=0).tolist() if shares else [None] * len(user.photos)
    captions = user.captions or (None,) * len(user.photos)
    return [
        Photo(key, thumbnail(draws.jpeg(key)), caption, share)
        for key, caption, share in zip(user.photos, captions, mean, strict=True)
    ]


def thumbnail(jpeg: bytes) -> bytes:
    """A photo's file -> a small JPEG of it."""
    small = Image.open(io.BytesIO(jpeg)).convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def _answer(
    attribute: Attribute,
    said: Mapping[str, Any],
    before: Decoded | None = None,
    after: Mapping[str, Sequence[Effect]] | None = None,
) -> Answer:
    predicted, gold = (attribute.canonical(said[part].get(attribute.name, ())) for part in ("parsed", "gold"))
    posterior = before.posteriors[attribute.name] if before is not None else None
    driver = None
    if after:
        name = max(after, key=lambda name: _effect(after[name], attribute.name)[0].total_variation)
        here = _effect(after[name], attribute.name)
        mine = [row for row in here if row.value == _text(predicted)]
        old, new = (mine[0].before, mine[0].after) if mine else (0.0, 0.0)
        driver = Driver(name, here[0].total_variation, old, new, max(here, key=lambda row: row.after).value)
    return Answer(
        attribute,
        _text(predicted),
        _text(gold),
        predicted == gold if gold else None,
        posterior.get(predicted, 0.0) if posterior is not None else None,
        posterior.get(gold, 0.0) if posterior is not None and gold else None,
        driver,
    )


def _effect(rows: Sequence[Effect], attribute: str) -> list[Effect]:
    return [row for row in rows if row.attribute == attribute]


def _text(values: Sequence[str]) -> str:
    return ", ".join(values) or UNKNOWN
