"""An exported model to predict with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmprofile.model.model import ProfileModel


@pytest.fixture(scope="session")
def model_folder(tiny_model: Callable[..., ProfileModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model("xattn")
    model.settings["inputs"]["encoding"] = "segments"
    model.save_pretrained(folder)
    return folder
