"""BLIP-2 captions of real photos, by tiny random models of both kinds: as a user runs them, and against transformers itself."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from datamodules.captions import Captions
from mmprofile.caption.blip2 import CaptionPhotos, Collate, identity
from mmprofile.config.compose import load_config
from mmprofile.config.settings import CaptionConfig
from mmprofile.errors import UserError
from mmprofile.model.captioner import load_blip2, write_captions
from mmprofile.model.checkpoints import fingerprint
from tests.support.captioning import QUIET, command, rows, run
from tests.support.extras import extra
from tests.support.realphotos import kill_after_a_shard


def settings(model: Path) -> CaptionConfig:
    return load_config("caption", [f"model={model}", *QUIET])


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_captions_are_those_of_one_photo_at_a_time(kind: str, models: dict[str, Path], prepared: Path) -> None:
    printed = run(f"folder={prepared}", f"model={models[kind]}", "batch_size=5", "decoding.min_new_tokens=3")
    assert "0 of 13 photos are done, 13 to do" in printed
    assert "13 captions, 0 failed" in printed
    model = Blip2ForConditionalGeneration.from_pretrained(models[kind])
    processor = Blip2Processor.from_pretrained(models[kind])
    captions = Captions(prepared)
    captioned = {row["photo_id"]: row for row in rows(prepared)}
    assert len({row["caption"] for row in captioned.values()}) > 3  # or all photos would look the same to it
    for photo_id in captions.photos.values():
        image = Image.open(io.BytesIO(captions.jpeg(photo_id))).convert("RGB")
        inputs = processor(images=image, text="a photo of", return_tensors="pt")
        ids = model.generate(**inputs, num_beams=5, max_new_tokens=30, min_new_tokens=3, do_sample=False)[0]
        text = processor.tokenizer.decode(ids, skip_special_tokens=True)
        if kind == "opt":
            assert text.startswith("a photo of ")  # which is the prompt, not the caption
            text = text.removeprefix("a photo of ")
        assert captioned[photo_id]["caption"] == text.strip()
        assert captioned[photo_id]["status"] == "ok"
        assert captioned[photo_id]["prompt"] == "a photo of"
        assert json.loads(captioned[photo_id]["decoding"])["num_beams"] == 5
        assert captioned[photo_id]["revision"] == fingerprint(models[kind])


def test_a_killed_run_goes_on_to_the_same_file(models: dict[str, Path], prepared: Path, tmp_path: Path) -> None:
    words = f"folder={prepared}", f"model={models['opt']}", "batch_size=1", "shard=2"
    done = kill_after_a_shard(command(*words), prepared)
    assert f"{done} of 13 photos are done, {13 - done} to do" in run(*words)
    content = (prepared / "captions.parquet").read_bytes()
    assert not (prepared / "captions.partial").exists()
    (prepared / "captions.parquet").unlink()
    run(*words)
    assert (prepared / "captions.parquet").read_bytes() == content
    assert "13 of 13 photos are done, 0 to do" in run(*words)
    assert (prepared / "captions.parquet").read_bytes() == content


def test_two_ranks_caption_as_one(models: dict[str, Path], prepared: Path) -> None:
    words = f"folder={prepared}", f"model={models['t5']}", "batch_size=2", "decoding.min_new_tokens=2"
    run(*words, "trainer.devices=2", "trainer.strategy=ddp")
    content = (prepared / "captions.parquet").read_bytes()
    (prepared / "captions.parquet").unlink()
    run(*words)
    assert (prepared / "captions.parquet").read_bytes() == content


@pytest.mark.parametrize("workers", [pytest.param(2, marks=extra("ray", "ray"))])
def test_rays_workers_caption_as_one(workers: int, models: dict[str, Path], prepared: Path) -> None:
    words = f"folder={prepared}", f"model={models['t5']}", "batch_size=2", "decoding.min_new_tokens=2"
    assert "13 captions, 0 failed" in run(*words, f"ray_workers={workers}")
    content = (prepared / "captions.parquet").read_bytes()
    assert not [*prepared.glob("captions.tries"), *prepared.glob("captions.partial")]
    (prepared / "captions.parquet").unlink()
    run(*words)
    assert (prepared / "captions.parquet").read_bytes() == content


def test_a_photo_that_fails_is_recorded(models: dict[str, Path], prepared: Path) -> None:
    """A photo whose bytes are lost costs its caption; ``retry`` tries it again."""
    captions = Captions(prepared)
    lost = next(iter(captions.photos.values()))
    todo = captions.todo(identity(settings(models["t5"]), str(models["t5"])))
    items = CaptionPhotos(todo, lambda name: b"" if name == lost else captions.jpeg(name))
    processor = Blip2Processor.from_pretrained(models["t5"])
    batch = Collate(processor, "a photo of")([items[i] for i in range(4)])
    assert [photo.photo_id for photo, _ in batch.errors] == [lost]
    assert "cannot be decoded" in batch.errors[0][1]
    assert len(batch.photos) == len(batch.inputs["pixel_values"]) == 3
    assert Collate(processor, "a photo of")([items[0]]).inputs == {}


def test_a_hub_id_is_read_from_the_cache(models: dict[str, Path], prepared: Path, tmp_path: Path) -> None:
    """As on a machine without network; the commit is recorded, and a revision that is not there is one line."""
    commit, folder = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "hub" / "models--tiny--blip2"
    shutil.copytree(models["t5"], folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    env = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run(f"folder={prepared}", "model=tiny/blip2", env=env)
    assert {(row["model"], row["revision"]) for row in rows(prepared)} == {("tiny/blip2", commit)}
    for arguments in (["model=tiny/blip2", "revision=v2"], ["model=Salesforce/blip2-flan-t5-xl"]):
        printed = run(f"folder={prepared}", *arguments, code=2, env=env)
        assert printed.startswith(f"error: {arguments[0].replace('=', '=' + chr(39))}' cannot be loaded")
        assert printed.count("\n") == 1
        assert "HF_HUB_OFFLINE is set" in printed
        assert "hf download" in printed


class Small(torch.nn.Module):
    """A device that holds three photos."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config, self.dtype, self.seen = model, model.config, model.dtype, list[int]()

    def generate(self, pixel_values: torch.Tensor, **rest: Any) -> torch.Tensor:
        self.seen.append(len(pixel_values))
        if len(pixel_values) > self.most:
            raise torch.OutOfMemoryError
        return self.model.generate(pixel_values=pixel_values, **rest)

    most = 3


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_a_batch_too_large_for_memory_is_halved(kind: str, models: dict[str, Path], prepared: Path) -> None:
    captions = Captions(prepared)
    cfg, checkpoint = settings(models[kind]), str(models[kind])
    model, processor = load_blip2(cfg, checkpoint, "float32")
    todo = captions.todo(identity(cfg, checkpoint))
    inputs = Collate(processor, "a photo of")([*map(CaptionPhotos(todo, captions.jpeg).__getitem__, range(13))]).inputs
    whole = write_captions(model, processor, {"num_beams": 2, "min_new_tokens": 2}, inputs)
    small = Small(model)
    assert write_captions(small, processor, {"num_beams": 2, "min_new_tokens": 2}, inputs) == whole
    assert small.seen == [13, 6, 3, 3, 7, 3, 4, 2, 2]
    small.most = 0
    with pytest.raises(UserError, match="does not hold the model and one photo"):
        write_captions(small, processor, {}, inputs)
