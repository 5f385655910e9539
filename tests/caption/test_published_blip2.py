"""BLIP-2 in the layout in which it is published: the command against stock transformers, photo by photo."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from datamodules.captions import Captions
from mmprofile.caption.run import main
from mmprofile.config.compose import load_config
from mmprofile.model.captioner import load_blip2
from tests.support.captioning import QUIET, command, rows, run
from tests.support.published import PUBLISHED, save_miniature
from tests.support.realphotos import kill_after_a_shard

NAMES = [name for name, published in PUBLISHED.items() if published.kind == "blip2"]
PROMPT = "a photo of"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_miniature(name, tmp_path_factory.mktemp("blip2")) for name in NAMES}


def stock_captions(folder: Path, prepared: Path, **decoding: Any) -> dict[str, str]:
    """Return what transformers writes by the model card's few lines, one photo at a time."""
    model: Any = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor, captions, texts = Blip2Processor.from_pretrained(folder), Captions(prepared), {}
    for photo_id in captions.photos.values():
        image = Image.open(io.BytesIO(captions.jpeg(photo_id))).convert("RGB")
        inputs = processor(images=image, text=PROMPT, return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, **decoding)[0]
        text = processor.decode(ids, skip_special_tokens=True).strip()
        if model.config.use_decoder_only_language_model:
            assert text.startswith(PROMPT)
            text = text.removeprefix(PROMPT)
        texts[photo_id] = " ".join(text.strip().partition("\n")[0].split())
    return texts


def in_process(*words: str) -> None:
    main(load_config("caption", [*QUIET, *words]))


@pytest.mark.parametrize("name", NAMES)
def test_captions_are_those_of_stock_transformers_also_after_a_kill(
    name: str, folders: dict[str, Path], prepared: Path
) -> None:
    options = ["batch_size=4", "shard=4", "dtype=float32", "decoding.max_new_tokens=12"]
    words = f"folder={prepared}", f"model={folders[name]}", *options
    kill_after_a_shard(command(*words), prepared)
    if "opt" in name:
        in_process(*words)
    else:
        printed = run(*words)
        assert len(printed.splitlines()) == 3, printed  # and no warning
    content = (prepared / "captions.parquet").read_bytes()
    captions = {row["photo_id"]: row["caption"] for row in rows(prepared)}
    assert captions == stock_captions(folders[name], prepared, num_beams=5, max_new_tokens=12, min_new_tokens=1)
    assert len(set(captions.values())) > 3  # it looks at the photos
    (prepared / "captions.parquet").unlink()
    in_process(*words, "batch_size=1")
    assert (prepared / "captions.parquet").read_bytes() == content


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_that_of_the_files(name: str, folders: dict[str, Path]) -> None:
    cfg = load_config("caption", [f"model={folders[name]}", *QUIET])
    model, processor = load_blip2(cfg, str(folders[name]), "float32")
    config, published = model.config, PUBLISHED[name].config
    assert processor.num_query_tokens == config.num_query_tokens == 32
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == config.image_token_index
    assert config.use_decoder_only_language_model is published["use_decoder_only_language_model"]
    weights: dict[str, Any] = {}
    index = json.loads((folders[name] / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) == 2
    for file in set(index.values()):
        with safe_open(folders[name] / file, "pt") as opened:
            weights |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    loaded = model.state_dict()
    for key, value in weights.items():
        assert loaded[key].dtype == torch.float32
        assert torch.equal(loaded[key], value), key
    ids = processor(images=Image.new("RGB", (50, 40)), text=PROMPT, return_tensors="pt")["input_ids"][0].tolist()
    text, end = model.language_model, model.language_model.generation_config.eos_token_id
    embeddings, head = text.get_input_embeddings().weight, text.get_output_embeddings().weight
    assert set(ids[:32]) == {config.image_token_index}
    if "opt" in name:
        assert ids[32] == processor.tokenizer.bos_token_id == 2
        assert processor.tokenizer.decode([end]) == "\n"
        assert head.data_ptr() == embeddings.data_ptr()
    else:
        assert ids[-1] == end == processor.tokenizer.eos_token_id == 1
        assert not torch.equal(head, embeddings)
        assert text.config.scale_decoder_outputs is False
        assert torch.equal(text.decoder.embed_tokens.weight, embeddings)
