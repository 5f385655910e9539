"""The memory of this machine, and what of it a causal model takes, against what torch holds."""

import os

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, Qwen3Config, Qwen3ForCausalLM

from mmprofile.model.memory import answering_memory, memory

pytestmark = pytest.mark.fast


def test_memory_is_that_of_the_machine() -> None:
    total, free = memory()
    assert total is not None
    assert 5e8 < total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free is not None
    assert 0 < free <= total


QWEN3 = Qwen3Config(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8,
)  # fmt: skip
TIED = Qwen3Config(**{**QWEN3.to_dict(), "tie_word_embeddings": True})
GPT2 = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=64)


@pytest.mark.parametrize(
    ("config", "kind"), [(QWEN3, Qwen3ForCausalLM), (TIED, Qwen3ForCausalLM), (GPT2, GPT2LMHeadModel)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_cache_are_those_of_a_model_that_answers(config: object, kind: type, dtype: torch.dtype) -> None:
    model = kind(config).to(dtype).eval()
    cache = model(torch.zeros(3, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert answering_memory(config, dtype, rows=3, tokens=7) == (weights, held)


def test_a_model_without_attention_keeps_no_keys() -> None:
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)
    assert answering_memory(config, torch.float32, rows=3, tokens=7)[1] == 0
