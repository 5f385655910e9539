"""Inspection and report with the tokenizers of published encoder-decoders: words are as people write them."""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmprofile.inputs.syntax import UNDECODED
from mmprofile.inputs.views import Masking, User
from mmprofile.inspection.drawing import write_counterfactuals, write_inspection
from mmprofile.inspection.inspector import Inspector
from mmprofile.model.build import build_model
from mmprofile.profile.schema import Schema
from mmprofile.report.stories import _shaded, _shades, _strengths, _top_words
from tests.support.inspecting import VIEWS
from tests.support.published import save_miniature

pytestmark = pytest.mark.fast

REVIEWS = ("The Café wasn't naïve, 寿司 🍜🍣!", "e\u0301te\u0301 Straße … “really” 👩‍👩‍👧", "$5 & plain")
INPUTS: Any = {"modality": "both", "reviews": 3, "photos_per_review": 1, "max_tokens": 200, "encoding": "joint"}
CHECKPOINTS = {"t5": "google/flan-t5-small", "mt5": "google/mt5-small", "bart": "facebook/bart-base"}


@pytest.fixture(scope="module")
def inspector_of(
    tmp_path_factory: pytest.TempPathFactory, vit_folder: Path, schema: Schema, photos: dict[str, np.ndarray]
) -> Callable[[str], Inspector]:
    @cache
    def make(family: str) -> Inspector:
        folder = save_miniature(CHECKPOINTS[family], tmp_path_factory.mktemp(family))
        vision = {"name": f"local-dir:{vit_folder}", "tokens": "cls", "grid": 2, "trainable": True}
        model = build_model(
            text={"name": str(folder)}, vision=vision, fusion={"kind": "xattn"}, schema=schema, inputs=INPUTS
        )
        users = [
            User("a", REVIEWS, ("sign", "car"), ("a sign “寿司” 🍜", None)),
            User("b", ("good",), ("plate",), ("a plate",)),
        ]
        return Inspector(model, model.collator(INPUTS, photos.__getitem__, Masking(), 0), VIEWS, users)

    return make


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_words_of_reviews_are_whole(family: str, inspector_of: Callable[[str], Inspector]) -> None:
    inspector = inspector_of(family)
    [inspection] = inspector.inspect(inspector.select(["a"]))
    texts = [word.text for word in inspection.words]
    assert not any(UNDECODED in text or "\u2581" in text or "\u0120" in text for text in texts)
    if family == "bart":  # the others do not know every sign, and write some in another way
        for source, expected in (("review", REVIEWS), ("caption", ("a sign “寿司” 🍜",))):
            for number, text in enumerate(expected):
                words = [word for word in inspection.words if (word.source, word.number) == (source, number)]
                assert "".join(word.text + " " * word.space for word in words).strip() == text


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_figures_are_drawn_without_a_warning(
    family: str, inspector_of: Callable[[str], Inspector], tmp_path: Path
) -> None:
    """The figures' font lacks signs of other scripts, which stderr is not the place for."""
    inspector = inspector_of(family)
    users = inspector.select(["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [inspection] = inspector.inspect(users)
        write_inspection(tmp_path, inspection, inspector)
        write_counterfactuals(tmp_path, inspector.counterfactuals(users))
    saved = np.load(tmp_path / "a.npz")
    assert saved["words"].tolist() == [word.text for word in inspection.words]


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_report_shows_reviews_as_they_are(family: str, inspector_of: Callable[[str], Inspector]) -> None:
    inspector = inspector_of(family)
    strengths = _strengths([*inspector.inspect(inspector.select(["a"]))])
    shades = _shades(strengths)
    for number, review in enumerate(REVIEWS):
        pieces = _shaded(review, shades["review", number])
        assert "".join(text for text, _ in pieces) == review
        shaded = [text for text, shade in pieces if shade is not None]
        words = {"t5": 0.5, "mt5": 0.5, "bart": 1.0}[family] * len(review.split())
        assert len(shaded) >= words
    assert all(UNDECODED not in word for word, _, _ in _top_words(strengths))
