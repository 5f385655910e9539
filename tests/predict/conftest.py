"""An exported model to predict with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmprofile.model.confidence import Confidence
from mmprofile.model.model import ProfileModel
from mmprofile.profile.calibrator import AttributeCalibration, Calibrator


@pytest.fixture(scope="session")
def model_folder(tiny_model: Callable[..., ProfileModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model("xattn")
    model.settings["inputs"]["encoding"] = "segments"
    part = AttributeCalibration(temperature=2.0, scores=(0.5,) * 9)
    model.confidence = Confidence(9, Calibrator(dict.fromkeys(model.schema.names, part)))
    model.save_pretrained(folder)
    return folder
