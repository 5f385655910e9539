"""Answers that somebody has of a model: what stands in them, and a file of them as a system."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmprofile.errors import UserError
from mmprofile.inputs.views import User, View
from mmprofile.profile.schema import UNKNOWN

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.S)


def profile_text(answer: str) -> str:
    """An answer as it is, or what stands in its first fenced block where it has one; parsing does the rest."""
    fenced = _FENCE.search(answer)
    return (fenced[1] if fenced else answer).strip()


class AnswerFile:
    """Answers that somebody has: JSONL of ``{"user_id", "text"}`` or ``{"user_id", "profile": {attribute: value(s)}}``.

    Raises:
        UserError: the file cannot be read, a line is no answer, or users are doubled; later: missing or unknown ones.
    """

    repeats = False
    n_parameters: int | None = None

    def __init__(self, path: Path, view: View) -> None:
        self.path, self.view = path, view
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"model.options.path={self.path}: cannot be read ({error})") from error
        rows = [_row(line, f"{self.path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
        doubled = [user for user, count in Counter(user for user, _ in rows).items() if count > 1]
        _refuse(self.path, "that stand there more than once", doubled)
        self.texts = dict(rows)

    def fit(self, data: Any) -> None:
        """Compares the users with those of the test split."""
        users = [user.user_id for user in data.users("test")]
        _refuse(self.path, "of the test split without an answer", [user for user in users if user not in self.texts])
        _refuse(self.path, "that are not in the test split", sorted(self.texts.keys() - set(users)))

    def facts(self) -> dict[str, Any]:
        """Nothing is known of how they were made."""
        return {}

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """What the file says."""
        return [self.texts[user.user_id] for user in users]


def _refuse(path: Path, what: str, users: Sequence[str]) -> None:
    if users:
        more = ", ..." if len(users) > 3 else ""
        raise UserError(f"{path}: {len(users)} users {what}: {', '.join(users[:3])}{more}")


def _row(line: str, where: str) -> tuple[str, str]:
    """User and text of a line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: no JSON ({error}); expected one answer a line") from error
    if isinstance(row, dict) and isinstance(row.get("user_id"), str):
        if isinstance(row.get("text"), str):
            return row["user_id"], profile_text(row["text"])
        if isinstance(row.get("profile"), dict):
            return row["user_id"], _written(row["profile"])
    raise UserError(f"{where}: expected an object with user_id, and text or profile")


def _written(profile: Mapping[str, Any]) -> str:
    """The text of a profile, right or wrong: what it has too much is a fault when parsed, as in a text."""
    parts = []
    for name, value in profile.items():
        values = value if isinstance(value, list) else [value]
        parts.append(f"{name}: {', '.join(UNKNOWN if one is None else str(one) for one in values) or UNKNOWN}")
    return "; ".join(parts)
