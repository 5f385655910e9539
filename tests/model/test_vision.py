"""The photo encoder against timm itself: states, pooling, normalisation; and everything that cannot be loaded."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.inputs.batch import mask_pixels
from mmprofile.model.vision import VisionEncoder, photo_transform

pytestmark = pytest.mark.fast

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))


def states(encoder: VisionEncoder, pixels: Tensor, mean: float = 0.5, std: float = 0.5) -> Tensor:
    """timm's own answer to normalised pixels."""
    return encoder.vit.forward_features((pixels.float() / 255 - mean) / std)


def test_cls_patch_and_grid_states(vit_folder: Path, pixels: Tensor) -> None:
    encoders = {
        tokens: VisionEncoder(f"local-dir:{vit_folder}", tokens, grid=2).eval() for tokens in ("cls", "patch", "grid")
    }
    with torch.no_grad():
        expected = states(encoders["cls"], pixels)
        found = {tokens: encoder(pixels) for tokens, encoder in encoders.items()}
    assert expected.shape == (3, 1 + 16, 24)
    torch.testing.assert_close(found["cls"], expected[:, :1], rtol=0, atol=1e-6)
    torch.testing.assert_close(found["patch"], expected, rtol=0, atol=1e-6)
    # Patches 0, 1, 4, 5 are the upper left quarter of 4 x 4, and so on.
    quarters = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    pooled = torch.stack([expected[:, 1:][:, quarter].mean(1) for quarter in quarters], 1)
    torch.testing.assert_close(found["grid"], torch.cat([expected[:, :1], pooled], 1), rtol=0, atol=1e-6)
    assert encoders["cls"].width == 24


def test_weights_come_from_the_folder(vit_folder: Path) -> None:
    first, second = (VisionEncoder(f"local-dir:{vit_folder}") for _ in range(2))
    bare = VisionEncoder(f"local-dir:{vit_folder}", pretrained=False)
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(first.parameters(), bare.parameters(), strict=True))


def test_a_grid_finer_than_the_patches_is_the_patches(vit_folder: Path, pixels: Tensor) -> None:
    fine, patch = (VisionEncoder(f"local-dir:{vit_folder}", tokens, grid=7).eval() for tokens in ("grid", "patch"))
    torch.testing.assert_close(fine(pixels), patch(pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("prefix", "extra"), [(0, {"class_token": False, "global_pool": "avg"}), (3, {"reg_tokens": 2})]
)
def test_other_prefixes(pixels: Tensor, prefix: int, extra: dict[str, Any]) -> None:
    encoder = VisionEncoder(VIT, "patch", pretrained=False, model_args={**SMALL, **extra}).eval()
    expected = states(encoder, pixels)
    assert expected.shape[1] == prefix + 16
    cls = expected[:, :1] if prefix else expected.mean(1, keepdim=True)
    wanted = torch.cat([cls, expected[:, prefix:]], 1)
    torch.testing.assert_close(encoder(pixels), wanted, rtol=0, atol=1e-6)


def test_normalisation_is_the_models_own(pixels: Tensor) -> None:
    plain = VisionEncoder(VIT, pretrained=False, model_args=SMALL).eval()
    assert (plain.mean.flatten().tolist(), plain.std.flatten().tolist()) == ([0.5] * 3, [0.5] * 3)
    imagenet = VisionEncoder("deit_tiny_patch16_224", pretrained=False, model_args=SMALL).eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    normal = imagenet.vit.forward_features((pixels.float() / 255 - mean) / std)
    torch.testing.assert_close(imagenet(pixels), normal[:, :1], rtol=0, atol=1e-5)
    assert (imagenet(pixels) - states(imagenet, pixels)[:, :1]).abs().max() > 1e-3


def test_transform_is_timms_but_for_the_normalisation(vit_folder: Path) -> None:
    config = timm.data.resolve_model_data_config(VisionEncoder(f"local-dir:{vit_folder}").vit)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    found = photo_transform(config)(image)
    assert (found.shape, found.dtype) == ((3, 32, 32), np.uint8)
    normal = timm.data.create_transform(**config, is_training=False)(image)
    torch.testing.assert_close((torch.from_numpy(found) / 255 - 0.5) / 0.5, normal, rtol=0, atol=1e-6)


def test_frozen_tower(vit_folder: Path, pixels: Tensor) -> None:
    free, frozen = (
        VisionEncoder(f"local-dir:{vit_folder}", trainable=trainable).train() for trainable in (True, False)
    )
    assert free(pixels).requires_grad
    assert not frozen(pixels).requires_grad
    assert [p for p in frozen.parameters() if p.requires_grad] == []
    assert free.vit.training
    assert not frozen.vit.training
    with torch.no_grad():
        assert not free(pixels).requires_grad


def test_rebuilt_without_its_source(vit_folder: Path, pixels: Tensor) -> None:
    encoder = VisionEncoder(f"local-dir:{vit_folder}", "grid", grid=2, trainable=False).eval()
    arguments = json.loads(json.dumps(encoder.rebuild_arguments()))
    assert str(vit_folder) not in json.dumps(arguments)
    again = VisionEncoder(**arguments, pretrained=False).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(pixels), encoder(pixels))
    assert (again.tokens, again.grid, again.trainable) == ("grid", 2, False)
    assert photo_transform(again.data_config)(Image.new("RGB", (9, 7))).shape == (3, 32, 32)


def test_pixel_masks() -> None:
    photo = np.random.default_rng(0).integers(1, 256, (3, 64, 64), dtype=np.uint8)
    masked = mask_pixels(photo, 0.25, np.random.default_rng(1))
    assert 0.2 < (masked[0] == 0).mean() < 0.3
    assert np.array_equal(masked == 0, np.broadcast_to(masked[:1] == 0, masked.shape))
    assert np.array_equal(masked[masked > 0], photo[masked > 0])
    assert masked.dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "vit_tiny_patch99_7", "pretrained": False},
            "model.vision.name='vit_tiny_patch99_7' cannot be loaded",
        ),
        ({"name": "vit_tiny_patch99_7", "pretrained": False}, "near: vit_tiny"),
        ({"name": "resnet10t", "pretrained": False}, "is no Vision Transformer"),
        ({"name": "xcit_nano_12_p16_224", "pretrained": False}, "is no Vision Transformer"),
        ({"name": "local-dir:/no/such/folder"}, "local-dir:/path/to/folder"),
        ({"name": VIT, "tokens": "pixels"}, "model.vision.tokens='pixels' is not one of cls, patch, grid"),
        ({"name": VIT, "pretrained": False, "model_args": {"colour": 1}}, "cannot be loaded"),
    ],
)
def test_what_cannot_be_had(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        VisionEncoder(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_folders(tmp_path: Path, vit_folder: Path) -> None:
    config = (vit_folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="cannot be loaded"):
        VisionEncoder(f"local-dir:{tmp_path}")  # no weights
    (tmp_path / "model.safetensors").write_bytes((vit_folder / "model.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be loaded"):
        VisionEncoder(f"local-dir:{tmp_path}")
    for broken in ("{", json.dumps({"model_args": {}})):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(UserError, match="cannot be loaded"):
            VisionEncoder(f"local-dir:{tmp_path}")


def test_a_frozen_tower_reads_a_photo_once(vit_folder: Path, pixels: Tensor) -> None:
    encoder = VisionEncoder(f"local-dir:{vit_folder}", "patch", trainable=False)
    plain = encoder(pixels)
    read: list[int] = []
    encoder.vit.patch_embed.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    with torch.inference_mode():
        assert torch.equal(encoder(pixels, [b"a", None, b"c"]), plain)
    again = encoder(pixels.flip(0), [b"c", None, b"a"])
    torch.testing.assert_close(again, plain.flip(0), rtol=0, atol=1e-6)
    assert torch.equal(encoder(pixels[[0, 0]], [b"a", b"c"]), plain[[0, 2]])  # by key, whatever the pixels
    assert read == [3, 1]  # all three, then the one without a key, then none
    # What was seen by other weights, or in another precision, is not used.
    with torch.autocast("cpu", torch.bfloat16):
        encoder(pixels[:1], [b"a"])
    weights = {name: value + 0.1 for name, value in encoder.state_dict().items()}
    encoder.load_state_dict(weights)
    changed = encoder(pixels[:1], [b"a"])
    assert read == [3, 1, 1, 1]
    assert (changed - plain[:1]).abs().max() > 1e-3
    assert torch.equal(changed, encoder(pixels[:1]))


@pytest.mark.parametrize("change", ["part loaded", "written to", "copy loaded"])
def test_what_other_weights_saw_is_forgotten(vit_folder: Path, pixels: Tensor, change: str) -> None:
    encoder = VisionEncoder(f"local-dir:{vit_folder}", trainable=False)
    plain = encoder(pixels, [b"a", b"b", b"c"])
    original = encoder
    if change == "part loaded":
        encoder.vit.load_state_dict({name: value + 0.1 for name, value in encoder.vit.state_dict().items()})
    elif change == "written to":
        with torch.no_grad():
            encoder.vit.norm.bias.add_(0.1)
    else:
        encoder = pickle.loads(pickle.dumps(copy.deepcopy(encoder)))
        encoder.load_state_dict({name: value + 0.1 for name, value in encoder.state_dict().items()})
    changed = encoder(pixels, [b"a", b"b", b"c"])
    assert (changed - plain).abs().max() > 1e-3
    assert torch.equal(changed, encoder(pixels))
    if original is not encoder:
        assert torch.equal(original(pixels.flip(0), [b"a", b"b", b"c"]), plain)  # still remembers


def test_a_tower_that_learns_remembers_nothing(vit_folder: Path, pixels: Tensor) -> None:
    encoder = VisionEncoder(f"local-dir:{vit_folder}")
    assert torch.equal(encoder(pixels[[0, 1]], [b"a", b"a"]), encoder(pixels[[0, 1]]))
    assert encoder(pixels, [b"a", b"b", b"c"]).requires_grad


def test_where_torch_counts_no_writes_nothing_is_remembered(
    vit_folder: Path, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembering = VisionEncoder(f"local-dir:{vit_folder}", trainable=False)
    expected = remembering(pixels, [b"a", b"b", b"c"])
    monkeypatch.setattr("mmprofile.model.vision.WRITES", "_renamed")
    encoder = VisionEncoder(f"local-dir:{vit_folder}", trainable=False)
    assert torch.equal(encoder(pixels, [b"a", b"b", b"c"]), expected)
    with torch.no_grad():
        encoder.vit.norm.bias.add_(0.1)
    assert torch.equal(encoder(pixels, [b"a", b"b", b"c"]), encoder(pixels))


def test_memory_for_photos_is_bounded(vit_folder: Path, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmprofile.model.vision.REMEMBERED_MB", 0)
    encoder = VisionEncoder(f"local-dir:{vit_folder}", trainable=False)
    assert torch.equal(encoder(pixels, [b"a", b"b", b"c"]), encoder(pixels))
    other = encoder(pixels.flip(0), [b"a", b"b", b"c"])
    assert torch.equal(other, encoder(pixels.flip(0)))
    encoder._left = 1  # room for what begins before it is full
    plain = encoder(pixels, [b"a", b"b", b"c"])
    again = encoder(pixels.flip(0), [b"a", b"b", b"c"])
    assert torch.equal(again[0], plain[0])
    torch.testing.assert_close(again[1:], plain.flip(0)[1:], rtol=0, atol=1e-6)
