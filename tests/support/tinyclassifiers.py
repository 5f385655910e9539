"""Random stand-ins for the classifiers that sentiment is tried with, in the hub's layout."""

from typing import Any

from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from mmprofile.profile.schema import Attribute, Schema

SENTIMENT = Schema("sentiment", [Attribute("Sentiment", ("1", "2", "3", "4", "5"))])
KINDS = ("bert", "t5", "bart", "causal")
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
LONGEST = 256
HEADS = ("classifier.", "bert.pooler.", "classification_head.", "score.")


def bert(size: int) -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=LONGEST, **LAYERS, **IDS))


def bart(size: int) -> BartForConditionalGeneration:
    layers = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": LONGEST}
    return BartForConditionalGeneration(BartConfig(vocab_size=size, decoder_start_token_id=1, **layers, **sizes, **IDS))


def llama(size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=LONGEST, **LAYERS, **IDS))
