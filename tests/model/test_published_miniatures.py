"""Miniatures of published checkpoints: stock classes of transformers load them, and they are what is published but small."""

import json
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
)

from datamodules.demo.language import write_review
from mmprofile.profile.schema import Schema
from tests.support.published import PUBLISHED, save_miniature
from tests.support.published.text import DEPTHS, HEAD_SIZES, HEADS, INNER, WIDTHS, rename, shapes_of
from tests.support.published.tokenizers import FAMILIES, SENTINELS

pytestmark = pytest.mark.fast

AUTO: dict[str, Any] = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
    "llava": AutoModelForImageTextToText,
    "classifier": AutoModelForPreTraining,
}
NAMES = [name for name, published in PUBLISHED.items() if published.kind in AUTO]
OF_FAMILY = {PUBLISHED[name].tokenizer: name for name in NAMES}
WRITERS = [family for family in OF_FAMILY if family != "bert"]
# family -> its class in transformers, the tokens before and after a text
KINDS = {
    "t5": ("T5Tokenizer", [], ["</s>"]),
    "mt5": ("T5Tokenizer", [], ["</s>"]),
    "bart": ("RobertaTokenizer", ["<s>"], ["</s>"]),
    "bert": ("BertTokenizer", ["[CLS]"], ["[SEP]"]),
    "llama": ("LlamaTokenizer", ["<s>"], []),
    "llava": ("TokenizersBackend", ["<s>"], []),
    "llama3": ("TokenizersBackend", ["<|begin_of_text|>"], []),
    "qwen": ("Qwen2Tokenizer", [], []),
    "glm": ("TokenizersBackend", ["[gMASK]", "<sop>"], []),
}
KNOWN = "Preferred Meal: Brunch; we stayed, and the soup was warm."
ODD = "  Café 12345\n\n\tthe  Ｓoup's ﬁne 😀 <|x|> "
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return cache(lambda name: save_miniature(name, tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="module")
def tokenizer(folder: Folder) -> Callable[[str], Any]:
    """``tokenizer(family)`` -> what transformers loads."""
    return cache(lambda family: AutoTokenizer.from_pretrained(folder(OF_FAMILY[family])))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def weights_of(folder: Path) -> dict[str, Tensor]:
    """All weights in a folder, read without transformers."""
    weights: dict[str, Tensor] = {}
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        weights |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return weights


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_class_loads_the_very_weights(name: str, folder: Folder) -> None:
    published, weights = PUBLISHED[name], weights_of(folder(name))
    model, report = AUTO[published.kind].from_pretrained(folder(name), output_loading_info=True)
    assert not any(report.values()), report
    expected = {key for key in weights if key not in published.copied and not key.endswith("inv_freq")}
    loaded = {rename(key, published.keys): value for key, value in model.named_parameters()}
    assert loaded.keys() == expected
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())
    assert {str(weights[key].dtype) for key in expected} == {f"torch.{published.config.get('torch_dtype', 'float32')}"}


@pytest.mark.parametrize("name", NAMES)
def test_files_are_of_the_published_kind_and_number(name: str, folder: Folder) -> None:
    published, files = PUBLISHED[name], {path.name for path in folder(name).iterdir()}
    stem = "model*.safetensors" if published.weights == "safetensors" else "pytorch_model*.bin"
    parts = [*folder(name).glob(stem)]
    assert len(parts) == published.shards
    index = {f"{stem.replace('*', '')}.index.json"} if published.shards > 1 else set()
    vocabulary = set(FAMILIES[published.tokenizer or ""].files)
    assert files == {part.name for part in parts} | index | vocabulary | published.files.keys()


@pytest.mark.parametrize("name", NAMES)
def test_only_sizes_and_ids_are_not_as_published(name: str, folder: Folder) -> None:
    full, small = PUBLISHED[name].config, read_json(folder(name) / "config.json")
    sizes = {
        *WIDTHS,
        *DEPTHS,
        *INNER,
        *HEADS,
        *HEAD_SIZES,
        "num_key_value_heads",
        "vocab_size",
        "image_size",
        "patch_size",
    }
    parts = [(full, small), *((full[key], small[key]) for key in ("text_config", "vision_config") if key in full)]
    for large, little in parts:
        assert large.keys() <= little.keys()
        assert little.keys() - large.keys() <= sizes  # transformers' defaults, said because they are not those
        changed = {key for key in large if large[key] != little[key] and not isinstance(large[key], dict)}
        assert all(key in sizes or key.endswith(("token_id", "token_index")) for key in changed)
        if "num_key_value_heads" in large:
            assert (large["num_attention_heads"] / large["num_key_value_heads"]) == (
                little["num_attention_heads"] / little["num_key_value_heads"]
            )
        if "d_kv" in large:
            assert large["num_heads"] * large["d_kv"] / large["d_model"] == (
                little["num_heads"] * little["d_kv"] / little["d_model"]
            )


PARAMETERS = {
    "google/flan-t5-small": 76_961_152,
    "google/flan-t5-base": 247_577_856,
    "google/flan-t5-large": 783_150_080,
    "google/flan-t5-xl": 2_849_757_184,
    "google/mt5-small": 300_176_768,
    "google/mt5-base": 582_401_280,
    "facebook/bart-base": 139_420_416,
    "facebook/bart-large": 406_291_456,
    "google-bert/bert-base-uncased": 110_106_428,
    "huggyllama/llama-7b": 6_738_415_616,
    "huggyllama/llama-13b": 13_015_864_320,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "zai-org/glm-4-9b-chat-hf": 9_399_951_360,
    "zai-org/GLM-4-32B-0414": 32_566_081_536,
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "llava-hf/llava-1.5-13b-hf": 13_351_494_656,
}


@pytest.mark.parametrize("name", NAMES)
def test_configurations_at_full_size_have_the_published_number_of_parameters(name: str) -> None:
    published = PUBLISHED[name]
    assert sum(math.prod(shape) for shape in shapes_of(published, published.sizes).values()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_there_are_more_rows_than_tokens_in_the_published_proportion(
    name: str, folder: Folder, tokenizer: Callable[[str], Any]
) -> None:
    published, config = PUBLISHED[name], read_json(folder(name) / "config.json")
    family = published.tokenizer or ""
    rows, tokens = config["vocab_size"], len(tokenizer(family))
    large_rows, large_tokens = published.config["vocab_size"], FAMILIES[family].size
    assert (rows > tokens) == (large_rows > large_tokens)
    assert rows / tokens == pytest.approx(large_rows / large_tokens, abs=1 / tokens)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_differ_clearly(name: str, folder: Folder, tokenizer: Callable[[str], Any]) -> None:
    published = PUBLISHED[name]
    model = AUTO[published.kind].from_pretrained(folder(name), dtype=torch.float32).eval()
    ids = tokenizer(published.tokenizer or "")(KNOWN, return_tensors="pt").input_ids
    more = {"decoder_input_ids": ids} if published.kind == "seq2seq" else {}
    with torch.no_grad():
        output = model(input_ids=ids, **more)
    logits = output.prediction_logits if published.kind == "classifier" else output.logits
    assert logits.isfinite().all()
    assert logits[0].std(dim=-1).min() > 0.3  # over the tokens
    assert logits[0].std(dim=0).mean() > 0.3  # over the positions


@pytest.mark.parametrize("family", KINDS)
def test_stock_tokenizers_are_of_the_published_kind(family: str, tokenizer: Callable[[str], Any]) -> None:
    loaded, (kind, before, after) = tokenizer(family), KINDS[family]
    assert type(loaded).__name__ == kind
    tokens = loaded.convert_ids_to_tokens(loaded(KNOWN).input_ids)
    assert tokens[: len(before)] == before
    assert tokens[len(tokens) - len(after) :] == after
    inner = loaded.convert_ids_to_tokens(loaded(KNOWN, add_special_tokens=False).input_ids)
    assert tokens == [*before, *inner, *after]
    text = loaded.decode(loaded(KNOWN).input_ids, skip_special_tokens=True)
    assert text == (KNOWN if family != "bert" else "preferred meal : brunch ; we stayed, and the soup was warm.")


@pytest.mark.parametrize("family", ["bart", "llama", "llava", "llama3", "glm"])
def test_kinds_with_bytes_know_every_sign(family: str, tokenizer: Callable[[str], Any]) -> None:
    loaded = tokenizer(family)
    text = ODD.lstrip() if family == "llama" else ODD  # transformers' own class takes a leading blank for the added one
    assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == text


def test_qwen_composes_letters_first(tokenizer: Callable[[str], Any]) -> None:
    loaded = tokenizer("qwen")
    assert loaded.decode(loaded(ODD + "e\u0301").input_ids) == ODD + "é"


@pytest.mark.parametrize(
    ("family", "file"), [("t5", "spiece.model"), ("mt5", "spiece.model"), ("llama", "tokenizer.model")]
)
def test_sentencepiece_gives_the_same_ids(
    family: str, file: str, folder: Folder, tokenizer: Callable[[str], Any]
) -> None:
    loaded, oracle = tokenizer(family), SentencePieceProcessor(model_file=str(folder(OF_FAMILY[family]) / file))
    reviews = [write_review({}, (), random.Random(100 + i)) for i in range(20)]
    if family == "mt5":  # transformers reads as <unk> what mT5 has bytes for
        reviews = [review for review in reviews if review.isascii()]
    for text in [KNOWN, "the ﬁne  Ｓoup", *reviews, *([ODD.lstrip()] if family == "llama" else [])]:
        assert loaded(text, add_special_tokens=False).input_ids == oracle.encode(text)


def test_t5_has_sentinels_at_the_end_and_no_bytes(tokenizer: Callable[[str], Any]) -> None:
    loaded = tokenizer("t5")
    assert loaded.convert_ids_to_tokens(range(len(loaded) - 100, len(loaded))) == SENTINELS
    assert loaded.convert_tokens_to_ids("<extra_id_0>") == len(loaded) - 1
    assert all(loaded.unk_token_id in loaded(sign).input_ids for sign in ("😀", "é", "{"))
    assert [loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id, loaded.bos_token_id] == [0, 1, 2, None]


def test_a_mask_takes_the_blank_before_it_and_a_first_word_has_none(tokenizer: Callable[[str], Any]) -> None:
    loaded = tokenizer("bart")
    tokens = loaded.convert_ids_to_tokens(loaded("the <mask> the").input_ids)
    assert tokens == ["<s>", *loaded.tokenize("the"), "<mask>", "Ġthe", "</s>"]
    assert tokens[1] != "Ġthe"


def test_a_first_word_may_have_a_blank_put_before_it(tmp_path: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(save_miniature("facebook/bart-base", tmp_path, tokenizer="roberta"))
    tokens = loaded.convert_ids_to_tokens(loaded("the soup").input_ids)
    assert tokens[:2] == ["<s>", "Ġthe"]
    assert loaded.decode(loaded("the soup").input_ids, skip_special_tokens=True) == " the soup"


@pytest.mark.parametrize("family", WRITERS)
def test_values_take_several_tokens_and_share_first_ones(
    family: str, tokenizer: Callable[[str], Any], schema: Schema
) -> None:
    values = [f" {value}" for attribute in schema.attributes for value in attribute.values]
    ids = [tuple(tokenizer(family)(value, add_special_tokens=False).input_ids) for value in dict.fromkeys(values)]
    assert max(map(len, ids)) >= 4
    assert len(set(ids)) == len(ids)
    assert len({first for first, *_ in ids}) < len(ids)


IDS = [
    ("meta-llama/Llama-3.2-1B", "config", {"bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|end_of_text|>"}),
    ("Qwen/Qwen3-8B", "config", {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>"}),
    ("Qwen/Qwen3-8B", "generation_config", {"eos_token_id": ["<|im_end|>", "<|endoftext|>"], "pad_token_id": "<|endoftext|>"}),
    ("zai-org/GLM-4-32B-0414", "config", {"eos_token_id": ["<|endoftext|>", "<|user|>", "<|observation|>"]}),
    ("llava-hf/llava-1.5-7b-hf", "config", {"image_token_index": "<image>", "pad_token_id": "<pad>"}),
    ("facebook/bart-base", "config", {"forced_bos_token_id": "<s>", "decoder_start_token_id": "</s>", "pad_token_id": "<pad>"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "expected"), IDS)
def test_ids_name_the_tokens_that_the_published_ones_name(
    name: str, file: str, expected: dict[str, Any], folder: Folder, tokenizer: Callable[[str], Any]
) -> None:
    settings, loaded = read_json(folder(name) / f"{file}.json"), tokenizer(PUBLISHED[name].tokenizer or "")
    assert {key: loaded.convert_ids_to_tokens(settings[key]) for key in expected} == expected


def test_bart_generates_as_its_configuration_says(folder: Folder) -> None:
    generation = AutoModelForSeq2SeqLM.from_pretrained(folder("facebook/bart-base")).generation_config
    assert (generation.forced_bos_token_id, generation.no_repeat_ngram_size, generation.num_beams) == (0, 3, 4)


def test_chats_are_written_with_the_family_s_marks(tokenizer: Callable[[str], Any]) -> None:
    said = [{"role": "user", "content": "the soup"}]
    options = {"tokenize": False, "add_generation_prompt": True}
    qwen = tokenizer("qwen").apply_chat_template(said, enable_thinking=False, **options)
    assert qwen == "<|im_start|>user\nthe soup<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert tokenizer("glm").apply_chat_template(said, **options) == "[gMASK]<sop><|user|>\nthe soup<|assistant|>\n"


def test_llava_s_processor_gives_a_token_to_every_patch(folder: Folder) -> None:
    place = folder("llava-hf/llava-1.5-7b-hf")
    processor, model = AutoProcessor.from_pretrained(place), AutoModelForImageTextToText.from_pretrained(place).float()
    rng, logits = np.random.default_rng(0), []
    for _ in range(2):
        photo = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        batch = processor(images=photo, text="USER: <image>\nthe soup ASSISTANT:", return_tensors="pt")
        assert (batch.input_ids == model.config.image_token_id).sum() == 24 * 24  # as of 336 pixels in patches of 14
        with torch.no_grad():
            logits.append(model(**batch).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_a_seed_and_texts_decide_what_is_written(tmp_path: Path) -> None:
    first, again, other = (
        save_miniature("huggyllama/llama-7b", tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))
    )
    assert all((again / path.name).read_bytes() == path.read_bytes() for path in first.iterdir())
    assert (other / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()
    assert not torch.equal(weights_of(other)["lm_head.weight"], weights_of(first)["lm_head.weight"])
