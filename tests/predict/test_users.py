"""Users of an input file: what is refused, and what a model is shown of each."""

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from mmprofile.errors import UserError
from mmprofile.inputs.views import build_view
from mmprofile.predict.users import InputUser, UserPhotos, read_users, select

pytestmark = pytest.mark.fast

INPUTS = {"reviews": 2, "photos_per_review": 1, "sample_seed": 0}


class Processed(NamedTuple):
    jpeg: bytes | None
    reason: str | None


def process(path: Path) -> Processed:
    """A black photo, or none where the name says so."""
    if path.stem == "broken":
        return Processed(None, "truncated")
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="JPEG")
    return Processed(file.getvalue(), None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"reviews": ["a"]}\n{"reviews": [', "line 2"),
        ("[1, 2]", "line 1"),
        ('{"user_id": "a"}', "neither reviews nor photos"),
        ('{"user_id": "a", "reviews": ["x"]}\n{"user_id": "a", "reviews": ["y"]}', "second time"),
        ('{"reviews": "x"}', "list of strings"),
        (
            '{"reviews": ["x"], "photos": ["a.jpg"], "captions": []}\n{"photos": ["b"], "captions": ["x", "y"]}',
            "2 captions",
        ),
        ("", "no users"),
    ],
)
def test_bad_users_are_named_by_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "users.jsonl").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        read_users(tmp_path / "users.jsonl")


def test_users_are_read_with_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "users.jsonl").write_text('{"reviews": ["a", " ", null]}\n\n{"user_id": 7, "photos": ["x.jpg"]}\n')
    assert read_users(tmp_path / "users.jsonl") == [InputUser("1", ["a"]), InputUser("7", [], photos=["x.jpg"])]


def test_as_many_are_shown_as_in_training_and_unusable_photos_are_named(tmp_path: Path) -> None:
    photos = UserPhotos(tmp_path, process, np.asarray)
    row = InputUser(
        "ann", ["a", "b", "c"], photos=["1.jpg", "broken.jpg", "2.jpg", "3.jpg"], captions=["x", "y", None, "z"]
    )
    user, used = select(row, INPUTS, build_view("fusion", "multi"), photos)
    assert len(user.reviews) == len(user.photos) == 2
    assert set(user.reviews) < {"a", "b", "c"}
    assert (
        dict(zip(user.photos, user.captions, strict=True)).items()
        <= {"1.jpg": "x", "2.jpg": None, "3.jpg": "z"}.items()
    )
    assert used == {"reviews": 2, "photos": 2, "captions": 0, "unusable_photos": {"broken.jpg": "truncated"}}
    assert select(row, INPUTS, build_view("fusion", "multi"), photos).user == user  # the same draw each time
    assert photos.reasons == {"truncated": 2}
    assert photos("1.jpg").shape == (8, 8, 3)
    one = select(row, {**INPUTS, "photos": 1}, build_view("fusion", "multi"), photos)
    assert len(one.user.photos) == 1
    photos.forget()
    with pytest.raises(KeyError):
        photos("1.jpg")


def test_a_model_without_photos_opens_none(tmp_path: Path) -> None:
    photos = UserPhotos(tmp_path, process, None)
    row = InputUser("ann", ["a"], photos=["broken.jpg"], captions=["x"])
    _, used = select(row, INPUTS, build_view("fusion", "uni"), photos)
    assert used == {"reviews": 1, "photos": 0, "captions": 1, "unusable_photos": {}}
    assert not photos.reasons
