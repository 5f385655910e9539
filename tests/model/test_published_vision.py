"""Photo encoders in the layout in which timm publishes them, against a stock timm model."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.inputs.views import Masking, User, build_view
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.model.vision import VISUAL_TOKENS, VisionEncoder
from mmprofile.profile.schema import Schema
from tests.support.published.vision import MINIATURE, QUICK_GELU, VISION, save_vision

pytestmark = pytest.mark.fast

CHECKPOINTS = {published.name: published for published in VISION}
NAMES = [*CHECKPOINTS]
PREFIX = {"deit_base_distilled_patch16_224": 2, "vit_base_patch14_reg4_dinov2": 5, "vit_base_patch16_siglip_224": 0}
INPUTS: Any = {
    "modality": "multi", "reviews": 3, "photos_per_review": 1, "max_tokens": 64, "sample_seed": 0, "encoding": "segments"
}  # fmt: skip
AUGREG, CLIP, DINO = (next(name for name in NAMES if part in name) for part in ("augreg2", "clip", "dinov2"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp("vit") for name in NAMES}
    for name, folder in made.items():
        save_vision(CHECKPOINTS[name], folder)
    return made


def pixels_of(encoder: VisionEncoder, count: int = 2) -> Tensor:
    size = encoder.data_config["input_size"]
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, *size), dtype=np.uint8))


def stock_states(folder: Path, name: str, pixels: Tensor, **options: Any) -> tuple[Tensor, Any]:
    """Return the states that a stock timm model of the published architecture has with the file's weights, head and all."""
    config = CHECKPOINTS[name].config
    weights = load_file(folder / "model.safetensors")
    vit: Any = timm.create_model(
        config["architecture"], num_classes=config["num_classes"], **MINIATURE, **options, pretrained=False
    ).eval()
    vit.load_state_dict(weights, strict=True)
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return vit.forward_features((pixels.float() / 255 - mean) / std), vit


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_is_what_timm_knows_of_it(name: str) -> None:
    config, known = CHECKPOINTS[name].config, timm.get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
    assert known["hf_hub_id"] == name
    assert known["architecture"] == config["architecture"]
    for key, value in config["pretrained_cfg"].items():
        if key != "custom_load":  # the registry's older source of some is a file of JAX
            assert known[key] == (tuple(value) if isinstance(value, list) else value), key


@pytest.mark.parametrize("name", NAMES)
def test_states_are_those_of_stock_timm(name: str, folders: dict[str, Path]) -> None:
    encoders = {tokens: VisionEncoder(f"local-dir:{folders[name]}", tokens).eval() for tokens in VISUAL_TOKENS}
    pixels = pixels_of(encoders["cls"])
    expected, vit = stock_states(folders[name], name, pixels)
    prefix = PREFIX.get(CHECKPOINTS[name].config["architecture"], 1)
    assert vit.num_prefix_tokens == prefix
    rows = CHECKPOINTS[name].config["pretrained_cfg"]["input_size"][-1] // vit.patch_embed.patch_size[0]
    assert expected.shape == (2, prefix + rows**2, 24)
    patches = expected[:, prefix:]
    first = expected[:, :1] if prefix else patches.mean(1, keepdim=True)
    square = patches.transpose(1, 2).reshape(2, 24, rows, rows)
    pooled = torch.nn.functional.adaptive_avg_pool2d(square, 7).flatten(2).transpose(1, 2)
    wanted = {"cls": first, "patch": torch.cat([first, patches], 1), "grid": torch.cat([first, pooled], 1)}
    assert (patches[0] - patches[1]).abs().max() > 0.1  # it sees
    for tokens, encoder in encoders.items():
        with torch.no_grad():
            states = encoder(pixels)
        torch.testing.assert_close(states, wanted[tokens], rtol=0, atol=1e-5)
        assert encoder.count == states.shape[1]
        assert encoder.width == states.shape[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(300, 400), (1000, 350), (40, 31)])
def test_photos_are_prepared_as_timm_does(name: str, shape: tuple[int, int], folders: dict[str, Path]) -> None:
    settings = CHECKPOINTS[name].config["pretrained_cfg"]
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    resolved = timm.data.resolve_data_config({}, pretrained_cfg=settings)
    stock = timm.data.create_transform(**resolved, is_training=False)(image)
    encoder = VisionEncoder(f"local-dir:{folders[name]}", pretrained=False)
    prepared = encoder.transform(image)
    assert prepared.shape == tuple(settings["input_size"])
    assert prepared.dtype == np.uint8
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(torch.from_numpy(prepared) / 255, stock * std + mean, rtol=0, atol=1 / 255)
    assert (encoder.mean, encoder.std) == (pytest.approx(mean), pytest.approx(std))


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_left_out_without_a_complaint(
    name: str, folders: dict[str, Path], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with caplog.at_level(logging.INFO):
        encoder = VisionEncoder(f"local-dir:{folders[name]}")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert not any("Missing keys" in record.getMessage() for record in caplog.records)
    assert [str(warning.message) for warning in recwarn] == []
    weights = load_file(folders[name] / "model.safetensors")
    heads = {key for key in weights if key.startswith("head")}
    assert bool(heads) == bool(CHECKPOINTS[name].config["num_classes"])
    kept = encoder.vit.state_dict()
    assert set(kept) == set(weights) - heads
    assert all(torch.equal(value, weights[key]) for key, value in kept.items())


@pytest.fixture(scope="module")
def build(t5_folder: Path, schema: Schema) -> Callable[..., ProfileModel]:
    """``build(name, tokens, trainable)`` -> a model with this photo encoder in evaluation mode."""

    def make(name: str, tokens: str, trainable: bool = True) -> ProfileModel:
        torch.manual_seed(1)
        return build_model(
            text={"name": str(t5_folder)},
            vision={"name": name, "tokens": tokens, "grid": 7, "trainable": trainable},
            fusion={"kind": "xattn"},
            schema=schema,
            inputs=INPUTS,
        ).eval()

    return make


def logits_of(model: ProfileModel, users: list[User]) -> tuple[Tensor, list[Any]]:
    """Return the logits of a batch in which photos are read, and the profiles written."""
    assert isinstance(model.vision, VisionEncoder)
    size = model.vision.data_config["input_size"]
    rng = np.random.default_rng(2)
    photos = {key: rng.integers(0, 256, size, dtype=np.uint8) for key in ("sign", "plate", "car", "door")}
    batch = model.collator(INPUTS, photos.__getitem__, Masking(), 0)(users, (build_view("fusion", "multi"),))
    with torch.no_grad():
        output = model(batch)
    return output.logits, [decoded.profile for decoded in model.decode(batch)]


@pytest.mark.parametrize(
    ("name", "tokens", "trainable"),
    [(name, tokens, trained) for name in NAMES for tokens, trained in (("cls", True), ("grid", False))]
    + [(DINO, "patch", True), (AUGREG, "patch", False), (CLIP, "grid", True), (AUGREG, "cls", False)],
)
def test_an_export_is_the_same_to_the_bit(
    name: str, tokens: str, trainable: bool, folders: dict[str, Path], build: Callable[..., ProfileModel],
    users: list[User], tmp_path: Path,
) -> None:  # fmt: skip
    model = build(f"local-dir:{folders[name]}", tokens, trainable)
    assert model.vision is not None
    assert all(parameter.requires_grad == trainable for parameter in model.vision.parameters())
    model.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert again.vision is not None
    assert all(parameter.requires_grad == trainable for parameter in again.vision.parameters())
    logits, profiles = logits_of(model, users)
    same, written = logits_of(again, users)
    assert torch.equal(logits, same)
    assert profiles == written
    image = Image.effect_noise((90, 70), 99).convert("RGB")
    assert model.transform is not None
    assert again.transform is not None
    assert np.array_equal(model.transform(image), again.transform(image))


@pytest.mark.parametrize("size", [160, 384])
def test_a_checkpoint_of_another_photo_size_than_its_architecture(
    size: int, build: Callable[..., ProfileModel], users: list[User], tmp_path: Path
) -> None:
    """As one trained on at 384 pixels: only its config.json says so."""
    folder = tmp_path / "vit"
    folder.mkdir()
    save_vision(CHECKPOINTS[AUGREG], folder, input_size=[3, size, size])
    model = build(f"local-dir:{folder}", "grid")
    encoder = model.vision
    assert isinstance(encoder, VisionEncoder)
    expected, _ = stock_states(folder, AUGREG, pixels_of(encoder), img_size=size)
    torch.testing.assert_close(encoder(pixels_of(encoder))[:, 0], expected[:, 0], rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "export")
    again = load_pretrained(tmp_path / "export")
    assert torch.equal(logits_of(model, users)[0], logits_of(again, users)[0])


def test_older_checkpoints_have_another_kind_of_file(tmp_path: Path, folders: dict[str, Path]) -> None:
    save_vision(CHECKPOINTS[AUGREG], tmp_path, file="pytorch_model.bin")
    older = VisionEncoder(f"local-dir:{tmp_path}")
    newer = VisionEncoder(f"local-dir:{folders[AUGREG]}")
    assert all(torch.equal(a, b) for a, b in zip(older.parameters(), newer.parameters(), strict=True))


def test_a_folder_is_named_with_and_without_its_scheme(
    folders: dict[str, Path], build: Callable[..., ProfileModel], users: list[User]
) -> None:
    named, plain = build(f"local-dir:{folders[AUGREG]}", "cls"), build(str(folders[AUGREG]), "cls")
    assert torch.equal(logits_of(named, users)[0], logits_of(plain, users)[0])
    assert isinstance(plain.vision, VisionEncoder)
    assert plain.vision.name == "vit_base_patch16_224"


@pytest.fixture
def cached(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache on a machine without network."""
    for name in (AUGREG, CLIP):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.parent.mkdir(parents=True)
        snapshot.symlink_to(folders[name])
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("cached")
def test_a_hub_id_and_the_registered_name_are_the_same_encoder(folders: dict[str, Path]) -> None:
    folder = VisionEncoder(f"local-dir:{folders[AUGREG]}").eval()
    pixels = pixels_of(folder)
    for name in ("vit_base_patch16_224", "vit_base_patch16_224.augreg2_in21k_ft_in1k"):
        registered = VisionEncoder(name, model_args=MINIATURE).eval()
        assert torch.equal(registered(pixels), folder(pixels))
        assert registered.data_config["crop_pct"] == folder.data_config["crop_pct"]
    for name in (f"hf-hub:{AUGREG}", AUGREG):
        hub = VisionEncoder(name).eval()
        assert torch.equal(hub(pixels), folder(pixels))
        assert hub.name == "vit_base_patch16_224"


@pytest.mark.usefixtures("cached")
def test_clip_with_the_activation_it_was_trained_with(folders: dict[str, Path]) -> None:
    """timm has it under a name of its own; the published folder says GELU."""
    quick, plain = VisionEncoder(QUICK_GELU, model_args=MINIATURE).eval(), VisionEncoder(f"hf-hub:{CLIP}").eval()
    pixels = pixels_of(quick)
    expected, _ = stock_states(folders[CLIP], CLIP, pixels, act_layer="quick_gelu")
    torch.testing.assert_close(quick(pixels)[:, 0], expected[:, 0], rtol=0, atol=1e-5)
    assert (quick(pixels) - plain(pixels)).abs().max() > 1e-3
    again = VisionEncoder(**quick.rebuild_arguments(), pretrained=False).eval()
    again.load_state_dict(quick.state_dict())
    assert torch.equal(again(pixels), quick(pixels))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_base_patch16_244", "vit_base_patch16_224"),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1", "augreg2_in21k_ft_in1k"),
        ("deit_base_distiled_patch16_224", "deit_base_distilled_patch16_224"),
        ("vit_base_patch14_dinov2_reg4", "vit_base_patch14_reg4_dinov2"),
    ],
)
def test_a_wrong_name_says_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(UserError, match=near) as error:
        VisionEncoder(name)
    assert "\n" not in str(error.value)
