"""Random BLIP-2 models of a few thousand parameters, saved as the hub has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
    T5Config,
)

WORDS = "a photo of soup on wooden table red sign above door two people with plate noodles car in front house cup"


def save_blip2(folder: Path, kind: str, make_tokenizer: Callable[..., Any], seed: int = 0) -> Path:
    """Save a BLIP-2 over ``opt`` or ``t5`` and return its folder."""
    special = {"bos_token": "</s>"} if kind == "opt" else {}
    tokenizer = make_tokenizer([WORDS], **special)
    size = {"height": 32, "width": 32}
    processor = Blip2Processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=4)
    common = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1}
    if kind == "opt":
        text = OPTConfig(
            **common, bos_token_id=1, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
            word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.0,
        )  # fmt: skip
    else:
        text = T5Config(
            **common, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0, decoder_start_token_id=0
        )
    vision = Blip2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        initializer_range=0.5,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, encoder_hidden_size=16,
        vocab_size=len(tokenizer), initializer_range=0.5,
    )  # fmt: skip
    image = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(seed)
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4, image_token_index=image
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
