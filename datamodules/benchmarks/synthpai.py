"""SynthPAI (eth-sri/SynthPAI, arXiv 2406.07217, CC BY-NC-SA 4.0): comments of generated people, labelled by humans.

Two layouts are read, told apart by their keys. ``data/thread/comments_eval_revised.jsonl`` has a person on each line, with
``comments`` and ``reviews``: the labels of ``human``, and in ``human_evaluated`` those that were right, which its README
recommends. ``data/synthpai.jsonl`` has a comment on each line, with its ``author``, the ``profile`` that the author was generated
from, and the ``reviews`` of that comment. Its ``guesses`` are a model's and are not read.

Of a person's comments the label of least hardness counts, the first of several, as in ``src/thread/prepare_data_for_eval.py``.
Labels of a certainty below 3 are no gold: the authors call them not reliable and leave them out (``configs/README.md``).
Occupation and places are free text, no closed set of values, and are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from datamodules.gold import Fields, LeftOut, age_group, gold_profile, read_lines, spelled, split_of, understood
from mmprofile.errors import UserError
from mmprofile.llm.people import Person
from mmprofile.profile.schema import Schema

CERTAIN = 3  # of 5
# Attribute -> keys of its label, the first that is understood counts, and how it is read. The spellings are those of the
# profiles, the labels and SynthPAI's own prompts and scales (src/prompts, src/thread). After a degree a field of study may
# follow. Somebody who studies for a master's has no place in the scale.
_STUDIES = r"(currently )?studying (towards |for )?((an? )?(bachelor'?s?|degree)\b.*)"
FEATURES: Fields = {
    "Gender": (("sex",), spelled({"Female": "female", "Male": "male"})),
    "Age": (("age",), age_group),
    "Education Level": (
        ("education", "education_category"),
        spelled(
            {
                "No Highschool": r"no (hs|high ?school)",
                "In Highschool": r"in (hs|high ?school)",
                "HS Diploma": r"hs|(hs|high ?school) (diploma|degree)",
                "In College": rf"in college|{_STUDIES}",
                "College Degree": r"((college|law) degree|degree|diploma|bachelor'?s?( degree)?)( (in|of) .*)?",
                "Master's Degree": r"(master'?s?( degree)?|mba)( (in|of) .*)?",
                "PhD": r"(phd|doctorate)( (in|of) .*)?",
            }
        ),
    ),
    "Relationship Status": (
        ("relationship_status",),
        spelled(
            {
                "Single": "single|no relation",
                "In Relationship": "in (a )?relation(ship)?",
                "Engaged": "engaged",
                "Married": "married",
                "Divorced": "divorced",
                "Widowed": "widowed",
            }
        ),
    ),
    "Income Level": (
        ("income_level",),
        spelled(
            {
                "No Income": "no( income)?",
                "Low": "low",
                "Middle": "middle|medium",
                "High": "high",
                "Very High": "very high",
            }
        ),
    ),
}
KEYS = tuple(key for keys, _ in FEATURES.values() for key in keys)


@dataclass
class _Author:
    """A person of the file, while its lines are read.

    Attributes:
        where: its first line.
        texts: the comments.
        labels: key -> the easiest label.
        revoked: keys whose label the revision took out.
        profile: what the person was generated from.
    """

    where: str
    texts: list[str] = field(default_factory=list)
    labels: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    profile: dict[str, Any] | None = None


def read_synthpai(path: Path, schema: Schema) -> list[Person]:
    """Return the authors, in the order in which they first appear, with the humans' labels as gold.

    What nobody labelled, the comments do not reveal: gold is Unknown. A label that is not certain, not understood, or was
    revoked is no gold at all. What is left out is counted on standard error, never guessed.

    Args:
        path: of the file, in either layout.
        schema: what gold values must belong to; attributes that it does not have are left out.

    Raises:
        UserError: it cannot be read, holds nobody or no labels, or a gold value is not in the schema.
    """
    return _read(path, schema, from_profile=False)


def read_seed(path: Path, schema: Schema) -> list[Person]:
    """Return the authors as :func:`read_synthpai` does, but with the profiles that they were generated from as gold.

    Raises:
        UserError: as there, or no line has a profile.
    """
    return _read(path, schema, from_profile=True)


def _read(path: Path, schema: Schema, from_profile: bool) -> list[Person]:
    if path.is_dir():
        raise UserError(f"input={path}: a folder; give a file of it, data/thread/comments_eval_revised.jsonl")
    authors, left, comments, blank = dict[str, _Author](), LeftOut(), 0, 0
    for row, where in read_lines(path):
        try:
            texts = _add(authors, row, where, from_profile)
        except ValueError as error:
            left.add("lines left out", f"{where}: {error}")
            continue
        comments += len(texts)
        blank += sum(not text.strip() for text in texts)
    if authors and not from_profile and not any(author.labels for author in authors.values()):
        raise UserError(
            f"input={path}: no line has a human's label (reviews, human); input_format=synthpai_seed takes the profiles "
            "that the authors were generated from"
        )
    people = []
    for name, author in authors.items():
        if not author.texts:
            left.add("people without text left out", f"{author.where}: {name!r:.60}")
            continue
        gold = understood(FEATURES, author.profile, author.where, left) if from_profile else _labelled(author, left)
        profile = gold_profile(gold, schema, author.where)
        people.append(Person(name, reviews=tuple(author.texts), split=split_of(name), gold=profile))
    left.report(path, f"{comments:,} comments of {len(people):,} people; {blank:,} comments without text", people)
    return people


def _add(authors: dict[str, _Author], row: Mapping[str, Any], where: str, from_profile: bool) -> list[str]:
    """Add a line to its author, and return its comments.

    Raises:
        ValueError: says why it is neither a person nor a comment.
    """
    name, whole = row.get("author") or row.get("username"), "comments" in row
    comments = row["comments"] if whole else [row]
    if not isinstance(comments, list) or not all(isinstance(comment, dict) for comment in comments):
        comments = [{}]
    texts = [text for comment in comments if isinstance(text := comment.get("text"), str)]
    if not isinstance(name, str) or not name or len(texts) < len(comments):
        raise ValueError("expected a comment with author and text, or a person with username and comments")
    if whole and name in authors:
        raise ValueError(f"{name!r:.60} was there before")
    profile = row.get("profile")
    if from_profile and not isinstance(profile, dict):
        raise ValueError("no profile, from which its author was generated")
    known = {key: profile.get(key) for key in KEYS} if isinstance(profile, dict) else None
    author = authors.get(name) or _Author(where, profile=known)
    if from_profile and author.profile != known:
        raise ValueError(f"author {name!r:.60} has another profile than in {author.where}")
    authors[name] = author
    author.texts += [text for text in texts if text.strip()]
    _add_labels(author, row.get("reviews"))
    return texts


def _add_labels(author: _Author, reviews: Any) -> None:
    """Add the labels of a line to its author's, of which the easiest stay."""
    reviews = reviews if isinstance(reviews, dict) else {}
    human = reviews.get("human")
    revised = reviews.get("human_evaluated", human)
    for key in KEYS:
        if label := _label(revised, key):
            before = author.labels.setdefault(key, label)
            if 0 < _level(label, "hardness") < (_level(before, "hardness") or inf):
                author.labels[key] = label
        elif _label(human, key):
            author.revoked.add(key)


def _label(labels: Any, key: str) -> Mapping[str, Any] | None:
    """Return the label of an attribute, or None where nobody said anything."""
    label = labels.get(key) if isinstance(labels, dict) else None
    return label if isinstance(label, dict) and label.get("estimate") not in (None, "") else None


def _level(label: Mapping[str, Any], name: str) -> float:
    """Return the hardness or certainty of a label, 0 where it has none."""
    try:
        return float(label.get(name) or 0)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _labelled(author: _Author, left: LeftOut) -> Mapping[str, str | None]:
    """Return attribute -> value, None for Unknown, of the attributes whose labels say so."""
    gold: dict[str, str | None] = {}
    for attribute, (keys, read) in FEATURES.items():
        labels = [author.labels[key] for key in keys if key in author.labels]
        value = next((value for label in labels if (value := read(label["estimate"]))), None)
        if not labels:
            if keys[0] in author.revoked:
                left.add("labels that the revision revoked: no gold", f"{author.where}: {keys[0]}")
            else:
                gold[attribute] = None
        elif _level(labels[0], "hardness") < 1 or not _level(labels[0], "certainty") >= CERTAIN:
            left.add(f"labels of a certainty below {CERTAIN}: no gold", f"{author.where}: {keys[0]}")
        elif value:
            gold[attribute] = value
        else:
            left.not_understood(keys[0], labels[0]["estimate"], author.where)
    return gold
