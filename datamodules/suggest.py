"""A first profile schema, made of a labels file: ``python -m mmprofile.prepare data=custom ... suggest=mine.yaml``."""

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datamodules.custom import existing_file
from datamodules.label_file import label_rows, label_texts, unusable
from mmprofile.errors import UserError
from mmprofile.files import write_text
from mmprofile.profile.schema import UNKNOWN, Attribute

MOST_VALUES = 30
"""Values of an attribute at most; a column with more is free text or a number."""
FEW_VALUES = 10
"""Up to so many values may be those of a few people; of more, each should occur twice on average."""
BINS = 4
"""Bins of a number."""
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")  # 010 is a code


@dataclass
class Column:
    """What a column of a labels file holds.

    Attributes:
        name: as it is written first.
        cells: the cells that hold a label, without ``Unknown``.
        lists: whether a cell is a list.
        unknown: whether ``Unknown`` is given.
    """

    name: str
    cells: list[list[str]] = field(default_factory=list)
    lists: bool = False
    unknown: bool = False

    def add(self, value: Any) -> None:
        """Add a cell."""
        texts = label_texts(value)
        known = list(dict.fromkeys(text for text in texts if text.lower() != UNKNOWN.lower()))
        self.lists |= isinstance(value, list)
        self.unknown |= bool(texts) and not known
        if known or value == []:
            self.cells.append(known)

    def attribute(self) -> Attribute:
        """Return the attribute that the column seems to be.

        Raises:
            UserError: it seems to be none; says why.
        """
        spellings = Counter(text for cell in self.cells for text in cell)
        commonest: dict[str, str] = {}
        for text, _ in sorted(spellings.items(), key=lambda item: (-item[1], item[0])):
            commonest.setdefault(text.lower(), text)  # case is ignored
        values, sizes = list(commonest.values()), sorted({len(cell) for cell in self.cells})
        numbers = all(map(NUMBER.fullmatch, values)) and not self.lists
        if len(values) < 2:
            raise UserError(f"it has {'no value' if not values else f'one value, {values[0]!r}'}")
        if len(values) > MOST_VALUES or (len(values) > FEW_VALUES and 2 * len(values) > len(self.cells)):
            if numbers:
                return Attribute(self.name, kind="number", quantiles=BINS, unknown=self.unknown)
            raise UserError(f"{len(values):,} different texts for {len(self.cells):,} people: group them into values")
        order = (lambda text: (float(text), text)) if numbers else (lambda text: (text.lower(), text))
        kind = "set" if sizes != [1] else "ordinal" if numbers else "single"
        return Attribute(
            self.name,
            tuple(sorted(values, key=order)),
            kind=kind,
            size=sizes[-1],
            unknown=self.unknown,
            min_size=sizes[0] if kind == "set" else None,
        )


def suggest_schema(labels: str | None, path: str) -> str:
    """Write a first profile schema to a new file.

    Args:
        labels: a labels file.
        path: of the new file.

    Returns:
        What was written, what was left out, and what to do next.

    Raises:
        UserError: there is no labels file, it cannot be read, no column of it can be an attribute, or ``path`` is there.
    """
    target = Path(path).expanduser()
    if not labels:
        raise UserError("suggest= needs a labels file: data=custom data.prepare.source.labels=labels.jsonl")
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"suggest={path}: give a name that ends in .yaml")
    if target.exists():
        raise UserError(f"suggest={path}: the file is there already, and is not overwritten: choose another name")
    file = existing_file(labels, "labels")
    columns, users, left_out = _read(file)
    attributes, reasons = [], {}
    for column in columns:
        try:
            attributes.append(column.attribute())
        except UserError as error:
            reasons[column.name] = str(error)
    if not attributes:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it has no column besides user_id"
        raise UserError(f"{file}: no column can be an attribute ({why})")
    counts = {column.name: len(column.cells) for column in columns}
    lines = [
        f"# Suggested from {file.name} ({users:,} people). Look through it: are the values complete, their names what you mean?",
        f"name: {_plain(target.stem)}",
        "attributes:",
        *(f"  - {_row(attribute)} # {counts[attribute.name]:,} people" for attribute in attributes),
        *(["# Left out:"] if reasons else []),
        *(f"# - {_plain(name)}: {reason}" for name, reason in reasons.items()),
    ]
    write_text(target, "\n".join(lines) + "\n")
    said = [f"wrote {target}: {', '.join(attribute.name for attribute in attributes)}"]
    said += [f"left out {name}: {reason}" for name, reason in reasons.items()]
    said += [f"left out rows: {left_out}"] if left_out else []
    command = f"data.prepare.source.reviews=reviews.jsonl data.prepare.source.labels={shlex.quote(labels)}"
    said += [
        f"next: look through {target}, then python -m mmprofile.prepare data=custom {command} profile={shlex.quote(path)}"
    ]
    return "\n".join(said)


def _read(file: Path) -> tuple[list[Column], int, str]:
    """Return the columns of a labels file, the number of people, and a line on the rows that cannot be used."""
    columns: dict[str, Column] = {}
    users: set[str] = set()
    bad: list[str] = []
    for number, row in label_rows(file):
        reason = row if isinstance(row, str) else unusable(row, users)
        if reason is not None or isinstance(row, str):
            bad.append(f"row {number}: {reason}")
            continue
        users.add(str(row.pop("user_id")))
        for name, value in row.items():
            columns.setdefault(name.lower(), Column(name)).add(value)
    if not users:
        raise UserError(f"{file}: no row can be used{f', the first is {bad[0]}' if bad else ': it is empty'}")
    return list(columns.values()), len(users), f"{len(bad):,}, the first is {bad[0]}" if bad else ""


def _row(attribute: Attribute) -> str:
    """Return an attribute as a line of YAML that every reader of YAML takes for texts."""
    fields = attribute.to_dict()
    of_kind = {"kind": "single", "size": 1, "min_size": None, "values": (), "quantiles": None, "unknown": False}
    return _plain(
        {"name": attribute.name}
        | {key: fields[key] for key, usual in of_kind.items() if fields.get(key, usual) != usual}
    )


def _plain(value: Any) -> str:
    """Return YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n...\n").rstrip("\n")
