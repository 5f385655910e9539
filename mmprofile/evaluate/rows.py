"""The rows of a run's ``predictions.jsonl``, which may come from anybody; read without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json_lines
from mmprofile.profile.schema import Profile

PREDICTIONS = "predictions.jsonl"


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's ``predictions.jsonl``.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    path = folder / PREDICTIONS
    try:
        rows = read_json_lines(path)
        for row in rows:
            _check_row(row)
        return rows
    except (OSError, *MALFORMED) as error:
        raise UserError(f"{path}: cannot be read ({error}); a finished run has one") from error


def _check_row(row: Mapping[str, Any]) -> None:
    """Check that a row has a user and two profiles.

    Raises:
        ValueError, KeyError, AttributeError: it does not.
    """
    texts = [
        row["user_id"],
        *(value for part in ("gold", "parsed") for values in row[part].values() for value in values),
    ]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"user {row['user_id']!r} or a value is no text")


def profiles(rows: Sequence[Mapping[str, Any]], part: str) -> list[Profile]:
    """Return the ``gold`` or ``parsed`` profiles of the rows of ``predictions.jsonl``."""
    return [{name: tuple(values) for name, values in row[part].items()} for row in rows]
