"""Every model that conf names, made of miniatures of its published checkpoints: what stock transformers computes, and exports.

``tests/train/test_published_runs.py`` takes the same checkpoints through the commands.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

from mmprofile.config.compose import load_config
from mmprofile.config.settings import TrainConfig
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import Masking, User, View, check_paradigm
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from mmprofile.train.run import make_model
from tests.support.hubmodels import FUSION, TEXT, answer, close, row_ids
from tests.support.published import PUBLISHED, save_miniature
from tests.support.published.chain import SIZES, WRITERS, trained_models

CLASSES: dict[str, Any] = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
    "llava": AutoModelForImageTextToText,
}
STEPS = 2
INPUTS: Any = {"modality": "multi", "reviews": 3, "photos_per_review": 1, "max_tokens": 96, "encoding": "joint"}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``miniature(name)`` -> the folder of the miniature of a published checkpoint."""
    return cache(lambda name: save_miniature(name, tmp_path_factory.mktemp("published") / name.rpartition("/")[2]))


@pytest.fixture(scope="module")
def images(users: list[User]) -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    names = sorted({photo for user in users for photo in user.photos})
    return {name: Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)) for name in names}


@pytest.fixture(scope="module")
def collate(images: dict[str, Image.Image]) -> Callable[..., Batch]:
    def batch(model: ProfileModel, users: list[User], *views: View) -> Batch:
        def load(name: str) -> np.ndarray:
            assert model.transform is not None
            return model.transform(images[name])

        masking = Masking(image=0.3, profile=0.5, caption=0.3)
        return model.collator(model.settings["inputs"], load, masking, 0)(users, views)

    return batch


def compose(name: str, size: str, miniature: Callable[[str], Path]) -> TrainConfig:
    """A model of ``conf/model`` in one of its sizes, of miniatures of the checkpoints that it names."""
    plain = load_config("train", [f"model={name}", "paradigm=multi"]).model
    assert set(plain.sizes) == set(SIZES)
    blind = plain.fusion.kind == "none" and plain.head == "lm"
    words = [f"model.size={size}", f"paradigm={'text' if blind else 'multi'}", "inputs.max_tokens=96"]
    if plain.fusion.kind.endswith("aspect"):
        words.append("model.fusion.parser=window")  # instead of spaCy's, which would have to be fetched
    cfg: TrainConfig = load_config("train", [f"model={name}", *words])
    text, vision = str(cfg.model.text.name), str(cfg.model.vision.name)
    if size != "tiny":
        (hub,) = [known for known in PUBLISHED if known.startswith(f"timm/{vision}.")]
        cfg.model.text.name, cfg.model.vision.name = str(miniature(text)), f"local-dir:{miniature(hub)}"
    return cfg


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*trained_models()])
def test_exports_of_every_model_in_every_size_are_bit_equal(
    name: str, size: str, miniature: Callable[[str], Path], collate: Callable[..., Batch], users: list[User],
    schema: Schema, tmp_path: Path,
) -> None:  # fmt: skip
    cfg = compose(name, size, miniature)
    torch.manual_seed(0)
    model = make_model(cfg, schema)
    views, users = check_paradigm(cfg.paradigm).views, users[:2]
    batch, before = collate(model, users, *views), {key: value.clone() for key, value in model.state_dict().items()}
    adam = torch.optim.Adam([*model.pretrained_parts(), *model.new_parts()], 1e-3)
    for _ in range(STEPS):
        adam.zero_grad()
        model(batch).view_losses.sum().backward()
        adam.step()
    model.eval()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
    frozen = {key for key, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    assert changed
    assert not changed & frozen
    with torch.no_grad():
        expected, profiles = model(batch), model.decode(collate(model, users, views[0]))
    for folder in ("model", "again"):
        model.save_pretrained(tmp_path / folder)
        model = load_pretrained(tmp_path / folder)
        same = collate(model, users, *views)
        assert torch.equal(same.text_ids, batch.text_ids)
        with torch.no_grad():
            output = model(same)
        assert torch.equal(output.view_losses, expected.view_losses)
        assert (output.logits is None) == (expected.logits is None)
        assert output.logits is None or torch.equal(output.logits, expected.logits)
        assert model.decode(collate(model, users, views[0])) == profiles


def build(folder: Path, schema: Schema, vocabulary: str = "full") -> ProfileModel:
    """A model that a checkpoint alone makes: a LLaVA with its own tower, any other without photos."""
    vision = {"tokens": "grid", "grid": 3, "trainable": True} if "llava" in folder.name else None
    kind = {"kind": "none" if vision is None else "prefix"}
    text = {"name": str(folder)}
    parts: Any = {"schema": schema, "inputs": INPUTS, "vocabulary": vocabulary}
    return build_model(text=text, vision=vision, fusion=kind, **parts).eval()


@pytest.mark.parametrize("name", WRITERS)
def test_logits_are_those_of_stock_transformers(
    name: str, miniature: Callable[[str], Path], collate: Callable[..., Batch], users: list[User], schema: Schema
) -> None:
    folder, kind = miniature(name), PUBLISHED[name].kind
    stock = CLASSES[kind].from_pretrained(folder, dtype=torch.float32).double().eval()
    model = build(folder, schema).double()  # in float32 the order of sums moves logits by up to 9e-6 of the largest
    batch = collate(model, users, TEXT)
    with torch.no_grad():
        logits = model(batch).logits
        for row in range(len(users)):
            assert batch.labels is not None
            read, target = row_ids(batch, row), answer(batch, row)
            if kind == "seq2seq":
                expected = stock(input_ids=torch.tensor([read]), labels=torch.tensor([target])).logits
            else:
                ids = torch.tensor([[*read, model.start, *target]])
                expected = stock(input_ids=ids).logits[:, len(read) : len(read) + len(target)]
            largest = expected.abs().max().clamp_min(1)
            close(logits[row, : len(target)] / largest, expected[0] / largest, 1e-9)
    assert logits.std() > 0.05  # they tell tokens apart


@pytest.mark.parametrize("name", [name for name in WRITERS if PUBLISHED[name].kind == "llava"])
def test_a_llava_sees_photos_as_stock_transformers_does(
    name: str, miniature: Callable[[str], Path], collate: Callable[..., Batch], users: list[User], schema: Schema,
    images: dict[str, Image.Image],
) -> None:  # fmt: skip
    model = build(miniature(name), schema)
    assert model.vision is not None
    model.vision.grid = None  # all tokens of a photo, as stock has them
    stock = AutoModelForImageTextToText.from_pretrained(miniature(name), dtype=torch.float32).eval()
    image = stock.config.image_token_id
    for user in users:
        batch = collate(model, [user], FUSION)
        read, target = row_ids(batch, 0), answer(batch, 0)
        assert model.prompt is not None
        at = model.prompt.at
        spaces = [image] * (len(user.photos) * model.vision.count)
        ids = torch.tensor([[*read[:at], *spaces, *read[at:], model.start, *target]])
        pixels = [
            model.vision.processor(images=images[name], return_tensors="pt")["pixel_values"] for name in user.photos
        ]
        with torch.no_grad():
            expected = stock(input_ids=ids, pixel_values=torch.cat(pixels) if pixels else None).logits
            logits = model(batch).logits
        close(logits[0, : len(target)], expected[0, -len(target) - 1 : -1], 2e-3)  # pixels are rounded to 8 bits


@pytest.mark.parametrize("vocabulary", ["schema", "full"])
@pytest.mark.parametrize("name", WRITERS)
def test_beams_write_legal_profiles(
    name: str, vocabulary: str, miniature: Callable[[str], Path], collate: Callable[..., Batch], users: list[User],
    schema: Schema,
) -> None:  # fmt: skip
    model, users = build(miniature(name), schema, vocabulary), users[1:3]
    batch = collate(model, users, TEXT)
    texts = model.generate(batch, 5)
    assert texts == [model.generate(collate(model, [user], TEXT), 5)[0] for user in users]
    assert all(model.schema.parse(text).faults == [] for text in texts)
    assert all(decoded.text == schema.render(decoded.profile) for decoded in model.decode(batch))
