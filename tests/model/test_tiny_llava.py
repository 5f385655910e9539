"""The tiny LLaVA is its two halves: timm's ViT and the tiny Llama, as transformers has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
)

from mmprofile.model.checkpoints import local_name
from mmprofile.model.hub import fetch
from mmprofile.model.tiny_llava import IMAGE_TOKEN, TEXT, VISION, tiny_llava, vision_tower
from mmprofile.model.vision import LlavaVision, VisionEncoder

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def llava() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(tiny_llava(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def timm() -> VisionEncoder:
    return VisionEncoder(f"local-dir:{VISION}", "patch").eval()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """A drawing, and noise."""
    drawing = Image.new("RGB", (160, 120), "white")
    ImageDraw.Draw(drawing).ellipse((30, 20, 110, 90), fill="tomato", outline="black")
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    return [drawing, Image.fromarray(noise)]


def test_the_tower_sees_what_timm_sees(timm: VisionEncoder, images: list[Image.Image]) -> None:
    pixels = torch.from_numpy(np.stack([timm.transform(image) for image in images]))
    tower, processor = vision_tower(VISION)
    states = tower((pixels / 255 - timm.mean) / timm.std).last_hidden_state
    torch.testing.assert_close(states, timm(pixels), rtol=0, atol=1e-5)
    means = list(processor.image_mean), list(processor.image_std)
    assert means == (timm.mean.flatten().tolist(), timm.std.flatten().tolist())


def test_a_photo_is_prepared_alike(llava: Any, timm: VisionEncoder, images: list[Image.Image]) -> None:
    vision = LlavaVision(llava, fetch(str(tiny_llava()), "model.text.name"), None, False)
    for image in images:
        ours, theirs = vision.transform(image), timm.transform(image)
        assert ours.shape == theirs.shape == (3, 96, 96)
        assert np.abs(ours.astype(int) - theirs).max() <= 1  # two resampling codes: rounding


def test_a_photo_becomes_tokens_as_large_as_words(llava: Any, timm: VisionEncoder, images: list[Image.Image]) -> None:
    inputs = AutoProcessor.from_pretrained(tiny_llava())(images=images, return_tensors="pt")
    states = []
    with timm.vit.norm.register_forward_pre_hook(lambda _, given: states.append(given[0][:, 1:])):
        timm.vit.forward_features(inputs["pixel_values"])
    tokens = torch.stack(list(llava.get_image_features(**inputs).pooler_output))
    assert tokens.shape == (2, 36, llava.config.text_config.hidden_size)
    torch.testing.assert_close(tokens, llava.model.multi_modal_projector(states[0]), rtol=0, atol=1e-4)
    assert 0.5 < tokens.std() / llava.get_input_embeddings().weight.std() < 2


def test_the_language_model_is_the_tiny_llama(llava: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llava())
    ids = tokenizer(" review: The pizza was great.", return_tensors="pt")["input_ids"]
    llama = AutoModelForCausalLM.from_pretrained(TEXT, dtype=torch.float32).eval()
    torch.testing.assert_close(llava(input_ids=ids).logits, llama(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_its_processor_puts_a_photo_where_its_token_is(llava: Any, images: list[Image.Image]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava())
    inputs = processor(text=f" photo: {IMAGE_TOKEN} review: Good.", images=images[:1], return_tensors="pt")
    assert (inputs["input_ids"] == llava.config.image_token_id).sum() == llava.config.image_seq_length == 36
    assert llava(**inputs).logits.isfinite().all()  # which fails where photos and tokens are not as many


def test_it_is_put_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path))
    folder = Path(local_name("mmprofile:tiny/llava"))
    assert folder.parent == tmp_path / "models"
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert tiny_llava() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert list(folder.parent.iterdir()) == [folder]
