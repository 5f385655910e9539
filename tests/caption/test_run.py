"""BLIP-2 captions of real photos, by tiny random models of both kinds: as a user runs them, and against transformers itself."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from datamodules.captions import Captions
from mmprofile.caption.blip2 import Captioner, CaptionPhotos, Collate, identity, load_blip2
from mmprofile.caption.run import main
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.model.checkpoints import fingerprint
from mmprofile.profile.schema import Schema
from tests.support.realphotos import kill_after_a_shard, prepare_photos
from tests.support.tinyblip import save_blip2

QUIET = ["trainer=cpu", "trainer.progress=false", "workers=0"]


def command(*arguments: str, **options: Any) -> list[str]:
    return [sys.executable, "-m", "mmprofile.caption", *QUIET, *arguments]


def run(*arguments: str, code: int = 0, **options: Any) -> str:
    """Run the command and return what it printed."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]) -> dict[str, Path]:
    return {kind: save_blip2(tmp_path_factory.mktemp(kind), kind, make_tokenizer) for kind in ("opt", "t5")}


@pytest.fixture
def prepared(tmp_path: Path, schema: Schema) -> Path:
    return prepare_photos(tmp_path, schema)


def settings(model: Path) -> Any:
    return load_config("caption", [f"model={model}", *QUIET])


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "captions.parquet").to_pylist()


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
        assert "Offline? Fetch it" in printed


def test_the_configuration_is_only_read(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.csv").write_text("path,caption\nmoon.jpg,the moon\n")
    cfg = load_config("caption", [f"folder={prepared}", "backend=file", f"path={tmp_path / 'mine.csv'}"])
    OmegaConf.set_readonly(cfg, True)
    main(cfg)
    assert "1 captions, 0 failed" in capsys.readouterr().out


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
    whole = Captioner(model, processor, {"num_beams": 2, "min_new_tokens": 2}).write(inputs)
    small = Small(model)
    assert Captioner(small, processor, {"num_beams": 2, "min_new_tokens": 2}).write(inputs) == whole
    assert small.seen == [13, 6, 3, 3, 7, 3, 4, 2, 2]
    small.most = 0
    with pytest.raises(UserError, match="does not hold the model and one photo"):
        Captioner(small, processor, {}).write(inputs)


def test_imported_and_verified(models: dict[str, Path], prepared: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("path,caption\nmoon.jpg,the moon\nghost.jpg,a ghost\ncoffee.jpg,a cup of coffee\n")
    printed = run(f"folder={prepared}", "backend=file", f"path={table}")
    assert (
        "3 rows; 2 captions of photos that had none; of no use: 1 of no photo here, 0 empty, 0 of a photo once more"
        in printed
    )
    assert '{"path": "ghost.jpg", "caption": "a ghost"}' in printed
    printed = run(f"folder={prepared}", "--verify", code=1)
    assert "2 of 13 photos have a caption\n  2 by file mine.csv\n  11 not captioned yet: " in printed
    printed = run(f"folder={prepared}", f"model={models['opt']}", "existing=keep")
    assert "2 of 13 photos are done, 11 to do" in printed
    assert "13 captions, 0 failed" in printed
    assert run(f"folder={prepared}", "--verify").endswith(
        "  11 by transformers " + models["opt"].name + "\n  2 by file mine.csv\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=/nowhere/blip2"], "model='/nowhere/blip2' cannot be loaded"),
        (["backend=blip"], "backend='blip' is not one of transformers, lavis, file"),
        (["dtype=half"], "dtype='half' is not one of auto, float32"),
        (["batch_size=0"], "batch_size=0: give 1 or more"),
        (["decoding.num_beams=0"], "decoding.num_beams=0: give 1 or more"),
        (["decoding.beams=3"], "unknown config key 'decoding.beams'"),
        (["path=captions.csv"], "backend=file and path=... go together"),
        (["existing=drop"], "existing='drop' is not one of refuse, keep, replace"),
        (["dtype=int8"], "dtype=int8 needs an NVIDIA GPU and bitsandbytes"),
    ],
)
def test_bad_settings_are_one_line(arguments: list[str], says: str, models: dict[str, Path], prepared: Path) -> None:
    printed = run(f"folder={prepared}", f"model={models['t5']}", *arguments, code=2)
    assert printed.startswith(f"error: {says}")
    assert printed.count("\n") == 1
