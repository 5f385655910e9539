"""What a run predicts of a few users, and the evidence that moved it: from its model, or from its predictions alone.

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
from mmprofile.inputs.data import BatchData, PhotoData, is_generated
from mmprofile.inputs.views import User, View
from mmprofile.inspection.counterfactuals import Effect, effects, without_each
from mmprofile.inspection.drawing import GateSummary, gate_summary
from mmprofile.inspection.inspector import Inspection, Inspector, check_gate
from mmprofile.model.decoding import Decoded
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

COUNT = 5
"""Users whose story is told."""
GATE_USERS = 100
"""Users with photos, at most, over whom gates are averaged: a large model reads each of them ten times."""
TOP_WORDS = 8
NO_LABEL = "-"
THUMBNAIL, QUALITY = 280, 80
"""Pixels of a photo's longer side, and the JPEG quality."""

Strengths = Mapping[tuple[str, int], Sequence[tuple[str, float]]]
"""(source, number) of a review or caption -> its words with a number each."""


class Influence(NamedTuple):
    """The photo or review without which an attribute's posterior changes most.

    Attributes:
        source: ``photo 0``, ``review 2``, ...
        distance: total variation without it, 0 to 1.
        before, after: probability of the predicted value with and without it.
        likeliest: the likeliest value without it.
    """

    source: str
    distance: float
    before: float
    after: float
    likeliest: str


class AttributeStory(NamedTuple):
    """What is predicted of one attribute.

    Attributes:
        attribute: of the schema.
        predicted, gold: values, as a profile prints them.
        right: whether they agree; None where gold is unknown.
        probability, gold_probability: of the two, by the model; None without a model or gold.
        influence: the most influential evidence; None without a model, or where nothing could be left out.
    """

    attribute: Attribute
    predicted: str
    gold: str
    right: bool | None
    probability: float | None = None
    gold_probability: float | None = None
    influence: Influence | None = None


class Photo(NamedTuple):
    """A photo as a small JPEG; ``share``: of the attention, 0 to 1, mean over tokens; None without a gate."""

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
        attributes: in the schema's order.
        words: those with the largest mean |gate * H*|: word (no sign), where it stands, the mean.
        distances: ``photo 0``, ... -> total variation of each attribute without it.
    """

    user_id: str
    reviews: list[list[tuple[str, float | None]]]
    photos: list[Photo]
    attributes: list[AttributeStory]
    words: list[tuple[str, str, float]]
    distances: dict[str, list[float]]


class Evidence(NamedTuple):
    """What a report shows besides scores.

    Attributes:
        stories: of the first users of the test split, those with photos before those without.
        gates: a summary over the first users with photos; None: there is no gate.
        gate_users: the number of users in that summary.
        no_gate: why there is no gate.
        view: what the model is shown when it predicts; None without a model.
        texts: whether reviews and photos are shown.
    """

    stories: list[Story]
    gates: GateSummary | None = None
    gate_users: int = 0
    no_gate: str = ""
    view: View | None = None
    texts: bool = True

    def without_texts(self) -> "Evidence":
        """Return the evidence without reviews, captions and photos: predictions, and which review moved each most."""
        stories = [story._replace(reviews=[], photos=[], words=[]) for story in self.stories]
        return self._replace(stories=stories, texts=False)


def shown_evidence(evidence: Evidence, data: Any, texts: bool | None) -> Evidence:
    """Return what a report may show of the evidence.

    Args:
        evidence: all of it.
        data: ``data`` of the run's configuration.
        texts: whether to show what people wrote, and their photos; None: of the demo city's people only, who are invented.
    """
    shown = is_generated(data) if texts is None else texts
    return evidence if shown else evidence.without_texts()


def evidence_of_system(
    schema: Schema, draws: PhotoData, rows: Sequence[Mapping[str, Any]], count: int = COUNT
) -> Evidence:
    """Return the evidence of a system that leaves no model behind.

    Args:
        schema: of the profiles.
        draws: the users of the test split and their photos (:class:`datamodules.draws.Draws`).
        rows: of ``predictions.jsonl``.
        count: users whose story is told.
    """
    row_of = _by_user(rows)
    stories = [
        Story(
            user_id=user.user_id,
            reviews=[[(text, None)] for text in user.reviews],
            photos=_photos(user, draws, []),
            attributes=[_attribute_story(attribute, row_of[user.user_id]) for attribute in schema.attributes],
            words=[],
            distances={},
        )
        for user in _first(draws.users("test"), count)
    ]
    return Evidence(stories, no_gate="there is no gate to look at: the system is no model that was trained here")


def evidence_of_model(
    model: ProfileModel, data: BatchData, rows: Sequence[Mapping[str, Any]], count: int = COUNT
) -> Evidence:
    """Return the evidence of a trained model; ``data``: its datamodule, the rest as for :func:`evidence_of_system`."""
    all_users, view = data.users("test"), data.views[0]
    users, row_of = _first(all_users, count), _by_user(rows)
    with_photos = [user for user in all_users if user.photos][:GATE_USERS]
    inspected: dict[str, list[Inspection]] = {user.user_id: [] for user in users}
    gates, no_gate = None, ""
    try:
        check_gate(model.eval())
    except UserError as error:
        no_gate = str(error)
    else:
        inspector = Inspector.of_data(model, data, "test")
        for inspection in inspector.inspect([user for user in users if user.photos]):
            inspected[inspection.user.user_id].append(inspection)
        no_gate = "" if with_photos else "there is nothing to see of the gate: no user has a photo"
    stories = [
        _story(
            user=user,
            row=row_of[user.user_id],
            inspections=inspected[user.user_id],
            before=before,
            without=without,
            draws=data.draws,
            schema=model.schema,
            view=view,
        )
        for user, before, without in _decode_without_each(model, data, users, view)
    ]
    if not no_gate:
        gates = gate_summary(inspector, with_photos)
    return Evidence(stories=stories, gates=gates, gate_users=len(with_photos), no_gate=no_gate, view=view)


def _first(users: Sequence[User], count: int) -> list[User]:
    """Return the first users, those with photos before those without."""
    return sorted(users, key=lambda user: not user.photos)[:count]


def _by_user(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["user_id"]: row for row in rows}


def _decode_without_each(
    model: ProfileModel, data: BatchData, users: Sequence[User], view: View
) -> Iterator[tuple[User, Decoded, dict[str, Decoded]]]:
    """Yield each user, the prediction, and the prediction without each photo and review that the model is shown."""
    changed = [without_each(user, view) for user in users]
    queries = [query for user, versions in zip(users, changed, strict=True) for query in (user, *versions.values())]
    decoded = iter(decode_users(model, data, queries))
    for user, versions in zip(users, changed, strict=True):
        before = next(decoded)
        yield user, before, {name: next(decoded) for name in versions}


def _story(
    *,
    user: User,
    row: Mapping[str, Any],
    inspections: Sequence[Inspection],
    before: Decoded,
    without: Mapping[str, Decoded],
    draws: PhotoData,
    schema: Schema,
    view: View,
) -> Story:
    strengths = _strengths(inspections)
    shades = _shades(strengths)
    rows = {name: effects(user.user_id, name, before, after) for name, after in without.items()}
    return Story(
        user_id=user.user_id,
        reviews=[_shaded(text, shades.get(("review", i), [])) for i, text in enumerate(user.reviews)],
        photos=_photos(user, draws, inspections) if "plain" in (view.photos, view.captions) else [],
        attributes=[_attribute_story(attribute, row, before, rows) for attribute in schema.attributes],
        words=_top_words(strengths),
        distances={
            name: [_of_attribute(changed, a.name)[0].total_variation for a in schema.attributes]
            for name, changed in rows.items()
        },
    )


def _strengths(inspections: Sequence[Inspection]) -> Strengths:
    """Return each word's mean |gate * H*|, the mean over inspections of attributes that are written apart."""
    texts: dict[tuple[str, int], dict[int, tuple[str, list[float]]]] = {}
    for inspection in inspections:
        word_counts: Counter[tuple[str, int]] = Counter()
        means = inspection.by_word(np.abs(inspection.added).mean(1)).tolist()
        for word, strength in zip(inspection.words, means, strict=True):
            place = word.source, word.number
            texts.setdefault(place, {}).setdefault(word_counts[place], (word.text, []))[1].append(strength)
            word_counts[place] += 1
    return {
        place: [(text, float(np.mean(values))) for text, values in words.values()] for place, words in texts.items()
    }


def _shades(strengths: Strengths) -> Strengths:
    """Scale strengths to 0 for a user's least and 1 for the largest."""
    values = [strength for words in strengths.values() for _, strength in words] or [0.0]
    low, width = min(values), max(values) - min(values) or 1.0
    return {place: [(word, (value - low) / width) for word, value in words] for place, words in strengths.items()}


def _top_words(strengths: Strengths) -> list[tuple[str, str, float]]:
    """Return the words with the largest strengths, without punctuation: word, where it stands, strength."""
    words = [
        (word, f"{source} {number}", strength)
        for (source, number), pairs in strengths.items()
        for word, strength in pairs
        if any(map(str.isalnum, word))
    ]
    return sorted(words, key=lambda word: -word[2])[:TOP_WORDS]


def _shaded(text: str, words: Sequence[tuple[str, float]]) -> list[tuple[str, float | None]]:
    """Cut a text into pieces, in order and without loss: its words with their shades, and what lies between them."""
    pieces: list[tuple[str, float | None]] = []
    end = 0
    for word, shade in words:
        at = text.find(word, end)
        if at >= 0:  # a tokenizer need not know every sign
            pieces += [(text[end:at], None), (word, shade)]
            end = at + len(word)
    return [piece for piece in (*pieces, (text[end:], None)) if piece[0]]


def _photos(user: User, draws: PhotoData, inspections: Sequence[Inspection]) -> list[Photo]:
    shares = [inspection.photo_attention.mean(0) for inspection in inspections]
    mean = np.mean(shares, axis=0).tolist() if shares else [None] * len(user.photos)
    captions = user.captions or (None,) * len(user.photos)
    return [
        Photo(key=key, jpeg=thumbnail(draws.jpeg(key)), caption=caption, share=share)
        for key, caption, share in zip(user.photos, captions, mean, strict=True)
    ]


def thumbnail(jpeg: bytes) -> bytes:
    """Return a photo's file as a small JPEG."""
    small = Image.open(io.BytesIO(jpeg)).convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def _attribute_story(
    attribute: Attribute,
    row: Mapping[str, Any],
    before: Decoded | None = None,
    without: Mapping[str, Sequence[Effect]] | None = None,
) -> AttributeStory:
    predicted, gold = (attribute.canonical(row[part].get(attribute.name, ())) for part in ("parsed", "gold"))
    story = AttributeStory(
        attribute=attribute,
        predicted=_text(predicted),
        gold=_text(gold) if attribute.name in row["gold"] else NO_LABEL,
        right=predicted == gold if gold else None,
        influence=_influence(attribute.name, _text(predicted), without) if without else None,
    )
    if before is None:
        return story
    posterior = before.posteriors[attribute.name]
    return story._replace(
        probability=posterior.get(predicted, 0.0), gold_probability=posterior.get(gold, 0.0) if gold else None
    )


def _influence(attribute: str, predicted: str, without: Mapping[str, Sequence[Effect]]) -> Influence:
    """Return the photo or review without which the attribute's posterior moves most."""
    rows_of = {source: _of_attribute(rows, attribute) for source, rows in without.items()}
    source = max(rows_of, key=lambda source: rows_of[source][0].total_variation)
    rows = rows_of[source]
    of_predicted = [row for row in rows if row.value == predicted]
    return Influence(
        source=source,
        distance=rows[0].total_variation,
        before=of_predicted[0].before if of_predicted else 0.0,
        after=of_predicted[0].after if of_predicted else 0.0,
        likeliest=max(rows, key=lambda row: row.after).value,
    )


def _of_attribute(rows: Sequence[Effect], attribute: str) -> list[Effect]:
    return [row for row in rows if row.attribute == attribute]


def _text(values: Sequence[str]) -> str:
    return ", ".join(values) or UNKNOWN
