"""Answers of a model: the profile text in them, and a file of answers as a system."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmprofile.errors import UserError
from mmprofile.files import read_numbered_lines
from mmprofile.inputs.data import UserData
from mmprofile.inputs.views import User, View
from mmprofile.profile.schema import UNKNOWN, Schema

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.S)


def profile_text(answer: str) -> str:
    """Return the content of an answer's first fenced block, or the whole answer where it has none."""
    fenced = _FENCE.search(answer)
    return (fenced[1] if fenced else answer).strip()


class AnswerFile:
    """A file of answers: JSONL of ``{"user_id", "text"}`` or ``{"user_id", "profile": {attribute: value(s)}}``.

    Args:
        path: of the file.
        view: what the model was shown of a user.
        schema: of the profiles.

    Raises:
        UserError: the file cannot be read, a line is no answer, or a user has two.
    """

    repeats = False
    n_parameters: int | None = None

    def __init__(self, path: Path, view: View, schema: Schema) -> None:
        self.path, self.view = path, view
        rows = [
            _row(line.value, line.place, schema) for line in read_numbered_lines(path, "model.options.path", "answer")
        ]
        repeated = [user for user, count in Counter(user for user, _ in rows).items() if count > 1]
        _refuse(self.path, "that stand there more than once", repeated)
        self.texts = dict(rows)

    def fit(self, data: UserData) -> None:
        """Compare the users with those of the test split.

        Raises:
            UserError: an answer is missing, or its user is unknown.
        """
        users = [user.user_id for user in data.users("test")]
        _refuse(self.path, "of the test split without an answer", [user for user in users if user not in self.texts])
        _refuse(self.path, "that are not in the test split", sorted(self.texts.keys() - set(users)))

    def facts(self) -> dict[str, Any]:
        """Return nothing: how the answers were made is not known."""
        return {}

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """Return the text that the file has for each user."""
        return [self.texts[user.user_id] for user in users]


def _refuse(path: Path, problem: str, users: Sequence[str]) -> None:
    if users:
        more = ", ..." if len(users) > 3 else ""
        raise UserError(f"{path}: {len(users)} users {problem}: {', '.join(users[:3])}{more}")


def _row(row: Any, where: str, schema: Schema) -> tuple[str, str]:
    """Return the user id and the profile text of a line."""
    if isinstance(row, dict) and isinstance(row.get("user_id"), str):
        if isinstance(row.get("text"), str):
            return row["user_id"], profile_text(row["text"])
        if isinstance(row.get("profile"), dict):
            return row["user_id"], _render(row["profile"], schema)
    raise UserError(f"{where}: expected an object with user_id, and text or profile")


def _render(profile: Mapping[str, Any], schema: Schema) -> str:
    """Return the text of a profile, right or wrong: what does not fit the schema is a fault when it is parsed."""
    parts = []
    for name, value in profile.items():
        values = schema[name].words(value) if name in schema.names else value if isinstance(value, list) else [value]
        parts.append(f"{name}: {', '.join(UNKNOWN if item is None else str(item) for item in values) or UNKNOWN}")
    return "; ".join(parts)
