"""What a model is shown of a user, and which photos are opened for it."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.evidence import EvidenceSelector
from mmprofile.inputs.views import build_view
from mmprofile.model.model import ProfileModel
from mmprofile.predict.rows import InputUser
from mmprofile.predict.users import UserPhotos, batches, plain, select
from mmprofile.profile.schema import Attribute

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


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    for name in ("1", "2", "3", "broken"):
        (tmp_path / f"{name}.jpg").touch()


def test_nothing_of_earlier_users_is_remembered(
    tiny_model: Callable[..., ProfileModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is flat, whatever the number of users."""
    model = tiny_model("xattn")
    model.settings["inputs"]["encoding"] = "segments"
    assert model.vision is not None
    model.vision.trainable = False  # so it remembers photos
    model.vision.forget()
    collators: list[Collator] = []
    collator = model.collator
    monkeypatch.setattr(model, "collator", lambda *args: collators.append(collator(*args)) or collators[0])
    photos = UserPhotos(tmp_path, process, model.transform)
    users = [InputUser(f"u{i}", [f"text {i}"], photos=[f"{1 + i % 3}.jpg"]) for i in range(6)]
    for _, batch in batches(model, users, photos, 2):
        model.decode(batch)
        assert 0 < len(collators[0]._tokens) <= 4
        assert 0 < len(collators[0]._digests) <= 2
        assert 0 < len(model.vision._remembered) <= 2
    assert not collators[0]._tokens
    assert not collators[0]._digests
    assert not model.vision._remembered


def test_sentences_that_look_like_evidence_come_from_the_reviews_that_are_not_drawn(tmp_path: Path) -> None:
    photos, view = UserPhotos(tmp_path, process, np.asarray), build_view("text", "text")
    row = InputUser("ann", ["My soup.", "My soup. My wife.", "My son.", "Rain."])
    plain, _ = select(row, INPUTS, view, photos)
    shown, used = select(row, INPUTS, view, photos, EvidenceSelector(1, {"wife": 2.0, "son": 1.0}))
    assert shown.reviews[:-1] == plain.reviews
    assert shown.reviews[-1] == ("My son." if "My soup. My wife." in plain.reviews else "My wife.")
    assert used["reviews"] == 2


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
    looked_at = used.pop("unusable_photos")
    assert used == {"reviews": 2, "photos": 2, "captions": 0}
    assert looked_at in ({}, {"broken.jpg": "truncated"})  # there may be enough before it
    assert select(row, INPUTS, build_view("fusion", "multi"), photos).user == user  # the same draw each time
    assert photos(user.photos[0]).shape == (8, 8, 3)
    whole = {**INPUTS, "reviews": 4}
    assert select(row, whole, build_view("fusion", "multi"), photos).used["unusable_photos"] == {
        "broken.jpg": "truncated"
    }
    one = select(row, {**INPUTS, "photos": 1}, build_view("fusion", "multi"), photos)
    assert len(one.user.photos) == 1
    photos.forget()
    with pytest.raises(KeyError):
        photos(user.photos[0])


def test_no_more_photos_are_opened_than_are_shown(tmp_path: Path) -> None:
    opened: list[Path] = []
    photos = UserPhotos(tmp_path, lambda path: (opened.append(path), process(path))[1], np.asarray)
    row = InputUser("ann", ["a", "b", "c"], photos=["1.jpg", "2.jpg", "3.jpg"])
    select(row, INPUTS, build_view("fusion", "multi"), photos)
    assert len(opened) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the files of a Unix system")
def test_only_regular_files_in_the_folder_are_opened(tmp_path: Path) -> None:
    """A path comes from anybody: a device, a pipe or a link that leads out would hang or reveal something."""
    inside = tmp_path / "inside"
    inside.mkdir()
    os.mkfifo(inside / "pipe")
    (inside / "out.jpg").symlink_to(tmp_path / "1.jpg")
    (inside / "loop.jpg").symlink_to(inside / "loop.jpg")
    (inside / "in.jpg").touch()
    (inside / "link.jpg").symlink_to(inside / "in.jpg")
    opened: list[Path] = []
    photos = UserPhotos(inside, lambda path: (opened.append(path), process(path))[1], np.asarray)
    found = {
        path: photos.problem(path)
        for path in (
            "pipe", "out.jpg", "loop.jpg", "../1.jpg", "/dev/zero", str(tmp_path / "1.jpg"), "http://x/y.jpg", ".",
            "a" * 5000, "nowhere.jpg", "in.jpg", "link.jpg", str(inside / "in.jpg"),
        )
    }  # fmt: skip
    assert [*found.values()] == [
        "no_regular_file", "outside", "missing", "outside", "outside", "outside", "missing", "no_regular_file",
        "missing", "missing", None, None, None,
    ]  # fmt: skip
    assert {path.name for path in opened} == {"in.jpg"}


def test_a_model_without_photos_opens_none(tmp_path: Path) -> None:
    photos = UserPhotos(tmp_path, process, None)
    row = InputUser("ann", ["a"], photos=["broken.jpg"], captions=["x"])
    _, used = select(row, INPUTS, build_view("fusion", "uni"), photos)
    assert used == {"reviews": 1, "photos": 0, "captions": 1, "unusable_photos": {}}


def test_values_in_json() -> None:
    single, exact = Attribute("S", ("a", "b"), unknown=True), Attribute("E", ("a", "b"), "set", 1, unknown=True)
    any_size = Attribute("A", ("a", "b"), "set", 2, unknown=True, min_size=0)
    assert [plain(single, values) for values in (("a",), ())] == ["a", None]
    assert [plain(exact, values) for values in (("a",), ())] == [["a"], []]
    assert [plain(any_size, values) for values in (("a",), ("None",), ())] == [["a"], [], None]
    assert [any_size.words(value) for value in ("a", ["a", "b"], [], "None")] == [["a"], ["a", "b"], ["None"], ["None"]]
    assert Attribute("N", kind="number", edges=(2,)).words(1.5) == ["below 2"]
