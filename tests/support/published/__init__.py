"""Miniatures of the checkpoints that conf and docs name: small and random, in every other respect as published."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.published.blip2 import BLIP2
from tests.support.published.checkpoint import Published
from tests.support.published.text import save_text
from tests.support.published.vision import VISION

__all__ = ["PUBLISHED", "Published", "save_miniature"]

UNTIED_T5: dict[str, str] = {"lm_head.weight": "shared.weight"}
COPIED_MT5 = {f"{part}.embed_tokens.weight": "shared.weight" for part in ("encoder", "decoder")}
MT5: dict[str, Any] = {"weights": "bin", "untied": UNTIED_T5, "copied": COPIED_MT5}
BART_KEYS = {r"^model\.": ""}
APACHE, LLAMA1, LLAMA2 = "Apache-2.0", "LLaMA (non-commercial)", "Llama 2 Community"
LLAMA3 = "Llama 3.2 Community (gated)"

# As the classes were before their parts moved below ``model``.
LLAVA_KEYS = {
    r"^lm_head": "language_model.lm_head",
    r"^model\.language_model": "language_model.model",
    r"^model\.vision_tower(\.vision_model)?": "vision_tower.vision_model",
    r"^model\.multi_modal": "multi_modal",
}
LLAMA_7B = {
    "text_config": {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
}

CHECKPOINTS = [
    Published("google/flan-t5-small", "seq2seq", APACHE, "t5", save_text, untied=UNTIED_T5),
    Published("google/flan-t5-base", "seq2seq", APACHE, "t5", save_text, untied=UNTIED_T5),
    Published("google/flan-t5-large", "seq2seq", APACHE, "t5", save_text, untied=UNTIED_T5),
    Published("google/flan-t5-xl", "seq2seq", APACHE, "t5", save_text, shards=2, untied=UNTIED_T5),
    Published("google/mt5-small", "seq2seq", APACHE, "mt5", save_text, **MT5),
    Published("google/mt5-base", "seq2seq", APACHE, "mt5", save_text, **MT5),
    Published("facebook/bart-base", "seq2seq", APACHE, "bart", save_text, keys=BART_KEYS),
    Published("facebook/bart-large", "seq2seq", APACHE, "bart", save_text, keys=BART_KEYS),
    Published(
        "google-bert/bert-base-uncased", "classifier", APACHE, "bert", save_text,
        model="BertForPreTraining", keys={r"LayerNorm\.weight": "LayerNorm.gamma", r"LayerNorm\.bias": "LayerNorm.beta"},
    ),
    Published("huggyllama/llama-7b", "causal", LLAMA1, "llama", save_text, shards=2, rotary=True),
    Published("huggyllama/llama-13b", "causal", LLAMA1, "llama", save_text, shards=3, rotary=True),
    Published("meta-llama/Llama-3.2-1B", "causal", LLAMA3, "llama3", save_text),
    Published("Qwen/Qwen3-8B", "causal", APACHE, "qwen", save_text, shards=5),
    Published("zai-org/glm-4-9b-chat-hf", "causal", "GLM-4", "glm", save_text, shards=4),
    Published("zai-org/GLM-4-32B-0414", "causal", "MIT", "glm", save_text, shards=14),
    Published(
        "llava-hf/llava-1.5-7b-hf", "llava", LLAMA2, "llava", save_text, shards=3, keys=LLAVA_KEYS, unsaid=LLAMA_7B
    ),
    Published("llava-hf/llava-1.5-13b-hf", "llava", LLAMA2, "llava", save_text, shards=6, keys=LLAVA_KEYS),
    *BLIP2,
    *VISION,
]  # fmt: skip
PUBLISHED = {checkpoint.name: checkpoint for checkpoint in CHECKPOINTS}


def save_miniature(
    name: str, folder: Path, texts: Sequence[str] | None = None, seed: int = 0, tokenizer: str | None = None
) -> Path:
    """Write a small random checkpoint in the published layout.

    Args:
        name: the checkpoint's id on the hub, a key of `PUBLISHED`.
        folder: where it is written; made if absent.
        texts: what the tokenizer learns from; reviews like those of the demo city and the Yelp schema if absent.
        seed: of the weights.
        tokenizer: another family than the published one: "roberta" is BART's with a blank before each text.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    published = PUBLISHED[name]
    published.save(published if tokenizer is None else replace(published, tokenizer=tokenizer), folder, texts, seed)
    return folder
