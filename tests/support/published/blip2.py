"""BLIP-2 as published, and miniatures of it."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.published.checkpoint import Published
from tests.support.published.text import random_weights, translate, write_json, write_weights
from tests.support.published.tokenizers import (
    FAMILIES,
    GPT2_FILES,
    JSON,
    Family,
    Trained,
    byte_level,
    default_texts,
    save_tokenizer,
    specials,
    train,
    unigram,
)

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {
    "vision_config": {"hidden_size": 16, "intermediate_size": 32, **LAYERS},
    "qformer_config": {"hidden_size": 24, "intermediate_size": 32, **LAYERS},
}
TEXT_SIZES = {
    "opt": {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, **LAYERS},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2},
}
"""Sizes of a miniature; photos, patches, queries and the context stay as published."""


def opt(texts: tuple[str, ...]) -> Trained:
    """GPT-2's kind with ``</s>`` before each text, and a token for photos."""
    return byte_level(texts, ["<s>", "<pad>", "</s>", "<unk>"], specials(["<image>"]), before=["</s>"])


def t5(texts: tuple[str, ...]) -> Trained:
    """T5's, and a token for photos."""
    trained = unigram(texts, byte_fallback=False)
    trained.tokenizer.add_special_tokens(specials(["<image>"]))
    return trained


OPT_IDS = {50118: "Ċ", 50265: "<image>"}  # Ċ: a line's end, which ends a caption
FAMILIES["blip2_opt"] = Family(opt, 50266, GPT2_FILES, OPT_IDS)
FAMILIES["blip2_t5"] = Family(t5, 32101, (JSON, "spiece.model"), {32100: "<image>"})


def save_blip2(published: Published, folder: Path, texts: Sequence[str] | None = None, seed: int = 0) -> None:
    """Write a random miniature of a published BLIP-2.

    Args:
        published: one of :data:`BLIP2`.
        folder: to write to.
        texts: what the tokenizer learns from; by default reviews and the Yelp schema.
        seed: of the weights.
    """
    family, config = published.tokenizer or "", published.config
    trained = train(family, default_texts() if texts is None else tuple(texts))
    sizes = SIZES | {"text_config": TEXT_SIZES[config["text_config"]["model_type"]]}
    small = config | {part: config[part] | its_sizes for part, its_sizes in sizes.items()}
    files = published.files | {"config.json": small}
    files = {name: translate(content, family, trained.tokenizer) for name, content in files.items()}
    for name, content in files.items():
        write_json(folder / name, content)
    write_weights(random_weights(published, files["config.json"], seed), folder, published.weights, published.shards)
    save_tokenizer(family, trained, folder)


BLIP2 = [
    Published("Salesforce/blip2-opt-2.7b", "blip2", "MIT", "blip2_opt", save_blip2, shards=2),
    Published(
        "Salesforce/blip2-flan-t5-xl", "blip2", "MIT", "blip2_t5", save_blip2, shards=2,
        untied={"language_model.lm_head.weight": "language_model.shared.weight"},
    ),
]  # fmt: skip
