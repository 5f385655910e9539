"""PersonaMem-v2 (bowen-upenn/PersonaMem-v2, arXiv 2512.06688): chats of generated people with an assistant.

``benchmark/text/benchmark.csv`` has many questions a persona, with ``persona_id``, ``expanded_persona`` (JSON, with keys that are
not fixed) and ``chat_history_32k_link``, the file of the chat. Only what the user writes there is read: the first message,
the system's, holds the persona and so the gold, and the assistant was told it, too. The questions are not read either.

The benchmark asks which answer suits the user. We ask for what the persona says of itself under keys with closed values:
gender, age, marital status and highest degree. Occupation, origin and all else are free text and are left out.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from datamodules.gold import (
    Fields,
    LeftOut,
    Reading,
    age_group,
    gold_profile,
    published,
    spelled,
    split_of,
    understood,
)
from mmprofile.errors import UserError
from mmprofile.files import parse_json, read_json
from mmprofile.llm.people import Person
from mmprofile.profile.schema import Schema

BENCHMARK = "benchmark/text/benchmark.csv"
COLUMNS = ("persona_id", "chat_history_32k_link", "expanded_persona")
LONGEST_CELL = 1 << 24
_FIELD = r"( (in|of) .*)?"


def _before_remarks(read: Reading) -> Reading:
    """Return a reading of what stands before a remark: "Single; focused on academics", "Woman (she/her)"."""
    return lambda raw: read(re.split(r"[;,(]", raw)[0] if isinstance(raw, str) else raw)


PERSONA: Fields = {
    "Gender": (
        ("gender", "gender_identity", "demographics.gender"),
        _before_remarks(
            spelled(
                {
                    "Female": r"((cis|trans)(gender)? )?(female|woman)",
                    "Male": r"((cis|trans)(gender)? )?(male|man)",
                    "Non-binary": r"non-? ?binary",
                }
            )
        ),
    ),
    "Age": (("age", "demographics.age"), age_group),
    "Relationship Status": (
        (
            "marital_status", "relationship_status", "relationshipStatus", "demographics.marital_status",
            "demographics.relationship_status", "social_life.relationship_status",
        ),
        _before_remarks(
            spelled(
                {
                    "Single": "single",
                    "In Relationship": r"(in a )?(committed |long-term )?relationship|partnered",
                    "Engaged": "engaged",
                    "Married": "married",
                    "Divorced": "divorced",
                    "Widowed": "widow(ed|er)?",
                }
            )
        ),
    ),
    "Education Level": (
        ("highest_degree", "education.highest_degree", "degree"),
        _before_remarks(
            spelled(
                {
                    "High School": r"high school( diploma)?",
                    "Associate Degree": rf"associate('?s)?( degree)?{_FIELD}",
                    "Bachelor's Degree": rf"(bachelor('?s)?( degree)?|b\.?a\.?|b\.?sc?\.?){_FIELD}",
                    "Master's Degree": rf"(master('?s)?( degree)?|mba|m\.?a\.?|m\.?sc?\.?){_FIELD}",
                    "PhD": rf"(ph\.?d\.?|doctorate){_FIELD}",
                }
            )
        ),
    ),
}  # fmt: skip


def read_personamem(source: Path, schema: Schema) -> list[Person]:
    """Return the personas, in the order in which they first appear. What is left out is counted on standard error.

    Args:
        source: the folder of the download, or another CSV file of ``benchmark/text`` in it.
        schema: what gold values must belong to; attributes that it does not have are left out.

    Raises:
        UserError: the CSV file cannot be read, has other columns or holds nobody, or a gold value is not in the schema.
    """
    [table] = published(source, BENCHMARK) if source.is_dir() else [source]
    root = source if source.is_dir() else source.absolute().parent.parent.parent
    left, people, rows, images = LeftOut(), list[Person](), 0, 0
    first = dict[str, Mapping[str, str]]()
    for row, where in _rows(table):
        rows += 1
        name = row["persona_id"].strip()
        if not name:
            left.add("rows without persona_id left out", where)
        elif name not in first:
            first[name] = row
            try:
                texts, pictures = _own_words(root, row["chat_history_32k_link"])
            except ValueError as error:
                left.add("personas without a chat left out", f"{where}: {error}")
                continue
            images += pictures
            gold = gold_profile(_gold(row["expanded_persona"], where, left), schema, where)
            people.append(Person(name, reviews=texts, split=split_of(name), gold=gold))
        elif any(row[column] != first[name][column] for column in COLUMNS):
            left.add("rows with another persona or chat than the persona's first left out", where)
    left.report(table, f"{rows:,} rows, chats of {len(people):,} personas; {images:,} images are not read", people)
    return people


def _rows(path: Path) -> Iterator[tuple[Mapping[str, str], str]]:
    """Yield the cells of our columns, and the place of each row.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or [])]:
                raise UserError(f"input={path}: no column {missing[0]}; expected PersonaMem-v2's {BENCHMARK}")
            for number, row in enumerate(reader, 1):
                yield {column: row[column] or "" for column in COLUMNS}, f"{path.name}, row {number}"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"input={path}: cannot be read ({error})") from error


def _own_words(root: Path, link: str) -> tuple[tuple[str, ...], int]:
    """Return what the user wrote in a chat, and the number of images in it.

    Raises:
        ValueError: there is no such file in the download, or it is no chat, or the user wrote nothing.
    """
    path = PurePosixPath(link.strip())
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{link!r:.60} leads to no file of the download")
    try:
        chat = read_json(root / path)
    except OSError as error:
        raise ValueError(f"{link!r:.80}: {error.strerror}") from error
    history = chat.get("chat_history") if isinstance(chat, dict) else None
    turns = [turn for turn in history if isinstance(turn, dict)] if isinstance(history, list) else []
    contents = [turn.get("content") for turn in turns if turn.get("role") == "user"]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = tuple(text for text in found if isinstance(text, str) and text.strip())
    if not texts:
        raise ValueError(f"{link!r:.80}: no message of the user")
    return texts, sum(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


def _gold(cell: str, where: str, left: LeftOut) -> Mapping[str, str]:
    """Return attribute -> value where the persona in a cell has one that is understood."""
    try:
        persona = parse_json(cell)
    except ValueError:
        persona = None
    if not isinstance(persona, dict):
        left.add("personas without gold: expanded_persona is no JSON object", where)
    return understood(PERSONA, persona, where, left)
