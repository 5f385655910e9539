"""Small random checkpoints of the backbones in the hub's layout, and how tests look into a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CLIPVisionConfig,
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from mmprofile.inputs.batch import IGNORE, Batch
from mmprofile.inputs.views import build_view

TEXT, FUSION = build_view("text", "text"), build_view("fusion", "multi")
INPUTS = {"modality": "multi", "reviews": 3, "photos_per_review": 1, "max_tokens": 64, "encoding": "segments"}
SMALL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
CAUSAL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    **SMALL,
}
LONGEST = 256


def llama(size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=LONGEST, **CAUSAL))


def glm4(size: int) -> Glm4ForCausalLM:
    return Glm4ForCausalLM(Glm4Config(vocab_size=size, num_key_value_heads=2, head_dim=8, **CAUSAL))


def bart(size: int) -> BartForConditionalGeneration:
    layers = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    more = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_start_token_id": 1, "dropout": 0.0}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=size, max_position_embeddings=LONGEST, **layers, **more, **SMALL)
    )


def llava(size: int) -> LlavaForConditionalGeneration:
    tower = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **tower)
    text = LlamaConfig(vocab_size=size, max_position_embeddings=LONGEST, **CAUSAL)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=size - 1)
    )


CHECKPOINTS: dict[str, Callable[[int], Any]] = {"llama": llama, "glm4": glm4, "bart": bart, "llava": llava}


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def row_ids(batch: Batch, row: int) -> list[int]:
    """The tokens that a row reads."""
    places = batch.row_tokens[row]
    return batch.text_ids.flatten()[places[places >= 0]].tolist()


def answer(batch: Batch, row: int) -> list[int]:
    assert batch.labels is not None
    return batch.labels[row][batch.labels[row] != IGNORE].tolist()
