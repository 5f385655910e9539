"""Users with photos, and the rows of ``predictions.jsonl`` about them."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from mmprofile.inputs.views import User
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Profile

MakeRun = Callable[..., tuple[ProfileModel, Any]]


def jpeg(size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "orange").save(file, format="JPEG")
    return file.getvalue()


class City:
    """Users, and a photo file for any key: what draws give."""

    def __init__(self, users: Sequence[User]) -> None:
        self.test = list(users)

    def users(self, split: str) -> list[User]:
        return self.test

    def jpeg(self, key: str) -> bytes:
        return jpeg()


def rows_of(
    gold: Sequence[Profile], predicted: Sequence[Profile], confidences: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Rows of users ``user-0``, ``user-1``, ..."""
    rows: list[dict[str, Any]] = [
        {"user_id": f"user-{i}", "gold": g, "parsed": s} for i, (g, s) in enumerate(zip(gold, predicted, strict=True))
    ]
    if confidences is not None:
        for row, confidence in zip(rows, confidences, strict=True):
            row["confidence"] = dict.fromkeys(row["gold"], confidence)
    return rows


def written_rows(model: ProfileModel, data: Any) -> list[dict[str, Any]]:
    """Rows as a run would write them."""
    users = data.users("test")
    predicted = [model.decode(batch)[0].profile for batch in data.loader(users)]
    rows = rows_of([user.profile or {} for user in users], predicted)
    return [{**row, "user_id": user.user_id} for row, user in zip(rows, users, strict=True)]
