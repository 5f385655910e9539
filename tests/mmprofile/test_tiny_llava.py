"""The tiny LLaVA is its two halves: timm's ViT and the tiny Llama, as transformers has them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, LlavaForConditionalGeneration

from mmprofile.backbones import LlavaVision, local_name
from mmprofile.baselines.tiny_llava import IMAGE_TOKEN, TEXT, VISION, tiny_llava, vision_tower
from mmprofile.vision import VisionEncoder


@pytest.fixture(scope="module")
def llava() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(tiny_llava()).eval()


def test_the_tower_sees_what_timm_sees() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), dtype=np.uint8))
    timm = VisionEncoder(f"local-dir:{VISION}", "patch").eval()
    tower, processor = vision_tower(VISION)
    states = tower((pixels / 255 - timm.mean) / timm.std).last_hidden_state
    torch.testing.assert_close(states, timm(pixels), rtol=0, atol=1e-5)
    assert (processor.image_mean, processor.image_std) == (timm.mean.flatten().tolist(), timm.std.flatten().tolist())


def test_a_photo_is_prepared_alike(llava: LlavaForConditionalGeneration) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    ours = LlavaVision(llava, str(tiny_llava()), None, False).transform(image)
    theirs = VisionEncoder(f"local-dir:{VISION}").transform(image)
    assert ours.shape == theirs.shape == (3, 96, 96)
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # two resampling codes: rounding


def test_the_language_model_is_the_tiny_llama(llava: LlavaForConditionalGeneration) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llava())
    ids = tokenizer(" review: The pizza was great.", return_tensors="pt")["input_ids"]
    llama = AutoModelForCausalLM.from_pretrained(TEXT, dtype=torch.float32).eval()
    torch.testing.assert_close(llava(input_ids=ids).logits, llama(input_ids=ids).logits, rtol=0, atol=1e-5)
    assert llava.config.image_token_id == tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)


def test_it_is_put_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path))
    folder = Path(local_name("mmprofile:tiny/llava"))
    assert folder.parent == tmp_path / "models"
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert tiny_llava() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert list(folder.parent.iterdir()) == [folder]
