"""Sensitive attributes are predicted and exported for a stated purpose only, which is written beside them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmprofile import Profiler
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.model.model import ProfileModel
from mmprofile.predict.run import main
from mmprofile.profile.schema import Attribute, Schema

AGES = Schema("ages", [Attribute("Age", ("young", "old"), sensitive=True), Attribute("Pet", ("cat", "dog"))])
REFUSED = r"profile ages: Age are sensitive: say what they are for, purpose="


@pytest.fixture
def model(tiny_model: Callable[..., ProfileModel]) -> ProfileModel:
    model = tiny_model(schema=AGES)
    model.settings["inputs"]["encoding"] = "segments"
    return model


def test_predict_asks_for_a_purpose_and_writes_it(model: ProfileModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "users.jsonl").write_text(json.dumps({"user_id": "ann", "reviews": ["the soup was warm"]}) + "\n")
    words = [f"run={tmp_path / 'model'}", f"input={tmp_path / 'users.jsonl'}", f"output={tmp_path / 'out.jsonl'}"]
    with pytest.raises(UserError, match=REFUSED):
        main(load_config("predict", words))
    assert not (tmp_path / "out.jsonl").exists()
    main(load_config("predict", [*words, "purpose=a study of bias"]))
    [row] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["purpose"] == "a study of bias"
    assert set(row["profile"]) == {"Age", "Pet"}


def test_the_purpose_of_the_training_is_not_that_of_a_prediction(model: ProfileModel) -> None:
    """Other people are predicted for a purpose of its own, even where the model says what it was trained for."""
    model.settings["purpose"] = "a survey of students"
    with pytest.raises(UserError, match=REFUSED):
        Profiler(model).predict(reviews=["the soup was warm"])
    profile = Profiler(model, purpose="a study of bias").predict(reviews=["the soup was warm"])
    assert profile.purpose == profile.to_dict()["purpose"] == "a study of bias"


def test_a_model_of_sensitive_attributes_is_exported_with_a_purpose(model: ProfileModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=REFUSED):
        Profiler(model).save_pretrained(tmp_path / "none")
    assert not list((tmp_path / "none").glob("*"))
    model.settings["purpose"] = "a survey of students"
    Profiler(model).save_pretrained(tmp_path / "stated")
    card = (tmp_path / "stated" / "README.md").read_text()
    assert "Age: sensitive, and not to be predicted for anything but: a survey of students." in card
    loaded = Profiler.from_pretrained(tmp_path / "stated", purpose="a study of bias")
    assert loaded.predict(reviews=["bread was good"]).purpose == "a study of bias"
