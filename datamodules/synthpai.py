"""SynthPAI's comments (eth-sri/SynthPAI, arXiv 2406.07217, CC BY-NC-SA 4.0), as its ``synthpai.jsonl`` has them, as people.

A line is a comment with its author's profile; we read ``author``, ``text`` and, of ``profile``, ``sex``, ``age``, ``education``,
``relationship_status`` and ``income_level`` (``conf/profile/synthpai.yaml``). Occupation and places are free text, no closed set
of values, and are left out.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.gold import gold_profile, read_lines, split_of
from mmprofile.errors import UserError
from mmprofile.llm.people import Person
from mmprofile.profile.schema import Schema

AGES = {
    "18-24": range(18, 25),
    "25-34": range(25, 35),
    "35-49": range(35, 50),
    "50-64": range(50, 65),
    "65+": range(65, 130),
}
# Spellings of the profiles and of SynthPAI's own labelling prompt and evaluation (src/prompts, src/thread), case ignored. Whole
# texts, but for education, where a field of study may follow: a master's student is in none, for the scale has no place for one.
SPELLINGS: dict[str, tuple[str, dict[str, str]]] = {
    "Gender": ("sex", {"Female": "female", "Male": "male"}),
    "Education Level": (
        "education",
        {
            "No Highschool": r"no (hs|high ?school)",
            "In Highschool": r"in (hs|high ?school)",
            "HS Diploma": r"hs|(hs|high ?school) (diploma|degree)",
            "In College": r"in college|((currently )?studying (towards )?(an? )?bachelor'?s?\b.*)",
            "College Degree": r"((college|law) degree|degree|diploma|bachelor'?s?( degree)?)( (in|of) .*)?",
            "Master's Degree": r"master'?s?( degree)?( (in|of) .*)?",
            "PhD": r"(phd|doctorate)( (in|of) .*)?",
        },
    ),
    "Relationship Status": (
        "relationship_status",
        {
            "Single": "single",
            "In Relationship": "in (a )?relationship",
            "Engaged": "engaged",
            "Married": "married",
            "Divorced": "divorced",
            "Widowed": "widowed",
        },
    ),
    "Income Level": (
        "income_level",
        {
            "No Income": "no( income)?",
            "Low": "low",
            "Middle": "middle|medium",
            "High": "high",
            "Very High": "very high",
        },
    ),
}


def read_synthpai(path: str | Path, schema: Schema) -> list[Person]:
    """Return the authors of comments, in the order in which they first appear, with their comments in the file's order.

    Gold values that are not understood are left out, never guessed: a line on standard error counts them and shows the first.

    Args:
        path: of the file.
        schema: what gold values must belong to; attributes that it does not have are left out.

    Raises:
        UserError: it cannot be read, a line is no comment, an author has no text or two profiles, or a gold value is not in
            the schema.
    """
    path = Path(path).expanduser()
    texts, profiles, first = dict[str, list[str]](), dict[str, dict[str, Any]](), dict[str, str]()
    comments = 0
    for row, where in read_lines(path):
        author, text, profile = row.get("author"), row.get("text"), row.get("profile")
        if not isinstance(author, str) or not author or not isinstance(text, str) or not isinstance(profile, dict):
            raise UserError(f"{where}: expected a comment with author and text, texts, and profile, an object")
        known = {key: profile.get(key) for key in ("age", *(key for key, _ in SPELLINGS.values()))}
        if profiles.setdefault(author, known) != known:
            raise UserError(f"{where}: author {author!r} has another profile than in {first[author]}")
        first.setdefault(author, where)
        comments += 1
        texts.setdefault(author, []).extend([text] if text.strip() else [])
    if not texts:
        raise UserError(f"input={path}: nobody in it")
    people, strange = [], []
    for author, written in texts.items():
        if not written:
            raise UserError(f"{first[author]}: author {author!r} has no text at all; take the lines out")
        gold, faults = _gold(profiles[author])
        strange += [f"{first[author]}: {fault}" for fault in faults]
        profile = gold_profile(gold, schema, first[author])
        people.append(Person(author, reviews=tuple(written), split=split_of(author), gold=profile))
    blank = comments - sum(map(len, texts.values()))
    print(f"{path}: {comments:,} comments of {len(people):,} people; {blank:,} comments without text", file=sys.stderr)
    if strange:
        print(f"  {len(strange):,} gold values not understood and left out, the first: {strange[0]}", file=sys.stderr)
    return people


def _gold(profile: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return attribute -> value where it is understood, and the values that are not understood."""
    gold, faults = dict[str, str](), list[str]()
    age = profile["age"]
    if group := next((name for name, years in AGES.items() if age in years), None):
        gold["Age"] = group
    elif age is not None:
        faults.append(f"age {age!r}")
    for attribute, (key, values) in SPELLINGS.items():
        value = profile[key]
        text = " ".join(str(value or "").lower().replace("’", "'").split())
        label = next((label for label, spelling in values.items() if re.fullmatch(spelling, text)), None)
        if label:
            gold[attribute] = label
        elif text:
            faults.append(f"{key} {value!r}")
    return gold, faults
