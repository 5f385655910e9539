"""PRISM (xaddwell/multimodal-privacy, arXiv 2511.03248): posts, topics and images of generated people, and twelve attributes.

A folder holds ``posts.json``, person -> ``posts`` (post1 -> text), ``topics`` (topic -> titles) and ``img_urls``; and
``target.json``, person -> attributes. Posts are read as reviews. Topics and their titles are what a person follows, and are
read as the cue ``watched``. Images are counted and not read.

Six attributes have closed values. Income comes in brackets of two scales that overlap; ours are the coarsest cuts of both.
Places, appearance, shopping habits and hobbies are free text or lists and are left out; health and religion are left out
although their values are closed, as special categories of personal data.
"""

from pathlib import Path
from typing import Any

from datamodules.gold import Fields, LeftOut, age_group, gold_profile, published, spelled, split_of, understood
from mmprofile.errors import UserError
from mmprofile.files import read_json
from mmprofile.llm.people import Person
from mmprofile.profile.schema import Schema

OCCUPATIONS = (
    "Artist", "Chef", "Civil Servant", "Data Analyst", "Driver", "Financial Advisor", "Marketing Specialist", "Mechanic",
    "Nurse", "Researcher", "Software Engineer", "Teacher",
)  # fmt: skip
TARGETS: Fields = {
    "Gender": (("sex",), spelled({"Female": "female", "Male": "male"})),
    "Age": (("age",), age_group),
    "Education Level": (
        ("education",),
        spelled(
            {
                "No Schooling": "no schooling",
                "Primary School": "primary school",
                "High School": "high school",
                "Associate Degree": r"associate('?s)?( degree)?",
                "Bachelor's Degree": r"bachelor('?s)?( degree)?",
                "Master's Degree": r"master('?s)?( degree)?",
                "PhD": r"ph\.?d\.?|doctorate",
            }
        ),
    ),
    "Occupation": (("occupation",), spelled({name: name.lower() for name in OCCUPATIONS})),
    "Relationship Status": (
        ("relationship state",),
        spelled({"Single": "single", "Married": "married", "Divorced": "divorced", "Widowed": "widowed"}),
    ),
    "Income": (
        ("income",),
        spelled(
            {
                "Below 35000": "< ?35000",
                "35000-130000": "35000-60000|60000-90000|90000-130000|35000-50000|50000-70000|70000-100000|100000-130000",
                "130000-180000": "130000-180000",
                "Above 180000": "> ?180000|180000-220000|> ?220000",
            }
        ),
    ),
}


def read_prism(folder: Path, schema: Schema) -> list[Person]:
    """Return the people of ``posts.json``, in its order. What is left out is counted on standard error, never guessed.

    Args:
        folder: with ``posts.json`` and ``target.json``.
        schema: what gold values must belong to; attributes that it does not have are left out.

    Raises:
        UserError: a file is not there or cannot be read, nobody is in it, or a gold value is not in the schema.
    """
    posts, targets = (_people(path) for path in published(folder, "posts.json", "target.json"))
    left, people, images = LeftOut(), list[Person](), 0
    for name, content in posts.items():
        where = f"posts.json, {name!r:.60}"
        texts, topics, pictures = _content(content)
        if not name or not (texts or topics):
            left.add("people without a name, or posts and topics, left out", where)
            continue
        images += pictures
        target = targets.get(name)
        if not isinstance(target, dict):
            left.add("people without gold", f"target.json has no object for {name!r:.60}")
        gold = gold_profile(understood(TARGETS, target, f"target.json, {name!r:.60}", left), schema, where)
        cues = {"watched": topics} if topics else {}
        people.append(Person(name, reviews=texts, cues=cues, split=split_of(name), gold=gold))
    for name in sorted(targets.keys() - posts.keys()):
        left.add("people of target.json without posts left out", f"{name!r:.60}")
    left.report(folder, f"posts of {len(people):,} people; {images:,} images are not read", people)
    return people


def _people(path: Path) -> dict[str, Any]:
    """Return what a file holds, person -> content.

    Raises:
        UserError: it cannot be read, or is no object.
    """
    try:
        people = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it again") from error
    if not isinstance(people, dict):
        raise UserError(f"{path}: expected an object, person -> content")
    return people


def _content(content: Any) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the posts of a person, the topics with their titles, and the number of images."""
    content = content if isinstance(content, dict) else {}
    posts, topics, images = (content.get(key) for key in ("posts", "topics", "img_urls"))
    texts = list(posts.values()) if isinstance(posts, dict) else []
    phrases: list[Any] = []
    for topic, titles in topics.items() if isinstance(topics, dict) else []:
        phrases += [topic, *(titles if isinstance(titles, list) else [])]
    return _texts(texts), _texts(phrases), len(images) if isinstance(images, list) else 0


def _texts(values: list[Any]) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str) and value.strip())
