"""Photos without captions are captioned while profiles are predicted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmprofile import Profiler
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.predict.run import main
from tests.support.rawdata import write_lines
from tests.support.tinyblip import save_blip2

REVIEWS = ["a fine place", "nice pizza"]


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]) -> Path:
    return save_blip2(tmp_path_factory.mktemp("blip2"), "t5", make_tokenizer)


@pytest.fixture(params=["both", "uni"])
def folder(request: pytest.FixtureRequest, tiny_model: Callable[..., ProfileModel], tmp_path: Path) -> Path:
    """A model that reads captions, with photos or without."""
    model = tiny_model("xattn" if request.param == "both" else "none")
    model.settings["inputs"] = {**model.settings["inputs"], "encoding": "segments", "modality": request.param}
    if request.param == "uni":
        model.vision = model.settings["vision"] = None
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def predict(folder: Path, source: Path, *words: str) -> list[dict[str, Any]]:
    output = source.with_suffix(".out.jsonl")
    main(load_config("predict", [f"run={folder}", f"input={source}", f"output={output}", *words]))
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_the_same_as_with_these_captions_given(folder: Path, blip2: Path, tmp_path: Path) -> None:
    for name, colour in (("1.png", "red"), ("2.png", "white")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / name)
    captioner = Profiler.from_pretrained(folder, captioner=blip2)._captioner
    assert captioner is not None
    captions = captioner([Image.open(tmp_path / name) for name in ("1.png", "2.png")])
    assert all(captions)
    people = [
        {"user_id": "ann", "reviews": REVIEWS, "photos": ["1.png", "2.png"]},
        {"user_id": "bob", "reviews": REVIEWS, "photos": ["2.png"], "captions": ["soup on wooden table"]},
        {"user_id": "eve", "reviews": REVIEWS},
    ]
    write_lines(tmp_path / "bare.jsonl", people)
    write_lines(tmp_path / "full.jsonl", [{**people[0], "captions": captions}, *people[1:]])
    bare = predict(folder, tmp_path / "bare.jsonl", f"captioner.checkpoint={blip2}")
    full = predict(folder, tmp_path / "full.jsonl")
    assert [row["used"]["captions"] for row in bare] == [2, 1, 0]
    assert bare == full
    assert bare != predict(folder, tmp_path / "bare.jsonl")
    profiler = Profiler.from_pretrained(folder, captioner=blip2)
    profile = profiler.predict(REVIEWS, [tmp_path / "1.png", tmp_path / "2.png"], explain=True)
    assert profile.confidence == pytest.approx(bare[0]["confidence"], abs=6e-4)


def test_a_captioner_that_is_not_there_is_named_as_it_was_given(folder: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "users.jsonl", [{"user_id": "ann", "reviews": REVIEWS}])
    with pytest.raises(UserError, match=r"^captioner\.checkpoint='/nowhere' cannot be loaded"):
        predict(folder, tmp_path / "users.jsonl", "captioner.checkpoint=/nowhere")


def test_a_model_that_reads_no_captions_needs_no_captioner(model_folder: Path, blip2: Path, tmp_path: Path) -> None:
    model = load_pretrained(model_folder)
    model.settings["inputs"]["modality"] = "multi"
    model.save_pretrained(tmp_path / "model")
    write_lines(tmp_path / "users.jsonl", [{"user_id": "ann", "reviews": REVIEWS}])
    with pytest.raises(UserError, match="this model reads no captions"):
        predict(tmp_path / "model", tmp_path / "users.jsonl", f"captioner.checkpoint={blip2}")
