"""Miniatures of text models and of LLaVA: the published configuration with small sizes, random weights, a tokenizer."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig

from tests.support.published.checkpoint import Published, write_json
from tests.support.published.tokenizers import FAMILIES, default_texts, save_tokenizer, train

WIDTH, HEAD, LAYERS = 32, 8, 2
WIDTHS = ("hidden_size", "d_model")
DEPTHS = (
    "num_layers", "num_decoder_layers", "num_hidden_layers", "encoder_layers", "decoder_layers", "max_window_layers",
)  # fmt: skip
INNER = ("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")
HEADS = ("num_heads", "num_attention_heads", "encoder_attention_heads", "decoder_attention_heads")
HEAD_SIZES = ("d_kv", "head_dim")
PARTS = ("text_config", "vision_config")
PIXELS = {336: 48, 14: 2}  # as many patches as published, of fewer pixels
PIXEL_KEYS = ("image_size", "patch_size", "height", "width", "shortest_edge")
ID_KEYS = ("token_id", "token_index")
SCALE = 0.2  # of random weights: outputs differ clearly, and nothing saturates


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with small layers; ratios of heads, of heads to keys and of inner to outer width stay.

    The width of a head stays independent of the model's width where it is published so.
    """
    small = {name: shrink(value) if name in PARTS else value for name, value in config.items()}
    width = next((config[name] for name in WIDTHS if name in config), None)
    if width is None:
        return small
    heads = next(config[name] for name in HEADS if name in config)
    head = next((config[name] for name in HEAD_SIZES if name in config), width // heads)
    group = heads // config.get("num_key_value_heads", heads)
    sizes = dict.fromkeys(WIDTHS, WIDTH) | dict.fromkeys(DEPTHS, LAYERS) | dict.fromkeys(HEAD_SIZES, HEAD)
    sizes |= {name: WIDTH * config[name] // width for name in INNER if name in config}
    few = max(WIDTH * heads * head // (width * HEAD), 2 * group)
    sizes |= dict.fromkeys(HEADS, few) | {"num_key_value_heads": few // group}
    return small | {name: size for name, size in sizes.items() if name in config}


def translate(value: Any, name: str, tokenizer: Tokenizer, key: str = "") -> Any:
    """Return a published setting with the ids, the number of rows and the pixels that the miniature has.

    Args:
        value: the setting, with the settings below it.
        name: the family of the tokenizer.
        tokenizer: the miniature's.
        key: what the setting is called.
    """
    family = FAMILIES[name]
    if key == "added_tokens_decoder":
        fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        added = sorted(tokenizer.get_added_tokens_decoder().items())
        return {str(i): {part: getattr(token, part) for part in fields} for i, token in added}
    if isinstance(value, dict):
        return {inner: translate(item, name, tokenizer, inner) for inner, item in value.items()}
    if isinstance(value, list):
        return [translate(item, name, tokenizer, key) for item in value]
    if isinstance(value, int) and value in family.ids and (key.endswith(ID_KEYS) or key == family.ids[value]):
        return tokenizer.token_to_id(family.ids[value])
    if key == "vocab_size" and value >= family.size:
        tokens = tokenizer.get_vocab_size()
        return tokens + math.ceil((value - family.size) * tokens / family.size)
    return PIXELS.get(value, value) if key in PIXEL_KEYS else value


def shapes_of(published: Published, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's weights, under their names in transformers; ties and copies are counted once."""
    loaded = AutoConfig.for_model(**{key: value for key, value in config.items() if key != "transformers_version"})
    with torch.device("meta"):
        model = getattr(transformers, published.model or config["architectures"][0])(loaded)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    return shapes | {name: shapes[like] for name, like in published.untied.items()}


def random_weights(published: Published, config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Return random weights under the names and in the type that are published."""
    dtype = getattr(torch, config.get("torch_dtype", "float32"))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes_of(published, config).items():
        noise = SCALE * torch.randn(shape, generator=generator)
        is_scale = len(shape) == 1 and name.endswith(".weight")  # of a norm
        weights[rename(name, published.keys)] = (noise + is_scale).to(dtype)
    for layer in range(LAYERS if published.rotary else 0):
        weights[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = 10000.0 ** -(torch.arange(0, HEAD, 2) / HEAD)
    return weights | {name: weights[source] for name, source in published.copied.items()}


def rename(name: str, keys: dict[str, str]) -> str:
    for pattern, new in keys.items():
        name = re.sub(pattern, new, name)
    return name


def write_weights(weights: dict[str, Tensor], folder: Path, kind: str, shards: int) -> None:
    """Write the weights to one file, or to several and an index."""
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = sorted(weights)
    files: dict[str, list[str]] = {}
    for i in range(shards):
        part = f"-{i + 1:05d}-of-{shards:05d}" if shards > 1 else ""
        files[f"{stem}{part}.{ending}"] = names[i * len(names) // shards : (i + 1) * len(names) // shards]
    for file, part_names in files.items():
        part_weights = {name: weights[name].clone() for name in part_names}
        if kind == "safetensors":
            save_file(part_weights, folder / file, {"format": "pt"})
        else:
            torch.save(part_weights, folder / file)
    if shards > 1:
        places = {name: file for file, part_names in files.items() for name in part_names}
        size = sum(weight.nbytes for weight in weights.values())
        write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def save_text(published: Published, folder: Path, texts: Sequence[str] | None, seed: int) -> None:
    """Write a miniature of a text model, or of LLaVA."""
    family = published.tokenizer or ""
    trained = train(family, default_texts() if texts is None else tuple(texts))
    files = published.files | {"config.json": shrink(published.sizes)}
    small = {name: translate(content, family, trained.tokenizer) for name, content in files.items()}
    for name, content in small.items():
        write_json(folder / name, content)
    weights = random_weights(published, small["config.json"], seed)
    write_weights(weights, folder, published.weights, published.shards)
    save_tokenizer(family, trained, folder)
