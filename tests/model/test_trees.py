"""Decoder states: trees against reading anew, and the search with causal models against full passes over all profiles."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from mmprofile.model.decoding import Decoded, ProfileSearch
from mmprofile.model.trees import CausalRows, CausalTrees, Rows, States, T5Trees, decoder_states
from mmprofile.profile.grammar import Grammar
from mmprofile.profile.schema import Profile, Schema
from tests.model.test_decoding import check
from tests.support.oddschemas import ODD

CHUNKS = [
    [[(-1, [0, 5, 6])], [(-1, [0, 5])]],
    [[(2, [7, 8]), (2, [9])], [(1, [11, 12, 14, 3])]],
    [[(4, [3]), (5, [4, 5, 6]), (4, [8])], []],
    [[], [(6, [2, 3]), (6, [4])]],
]
"""Trees of two users that grow unevenly; a node is known by its place among its user's, as long as padding counts."""

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 3, "num_heads": 2}
SEQ2SEQ: dict[str, tuple[type, dict[str, Any]]] = {
    "t5": (T5Trees, T5),
    "mt5": (T5Trees, T5),
    "longt5": (T5Trees, {**T5, "encoder_attention_type": "local"}),
    "umt5": (Rows, T5),
    "bart": (Rows, {"d_model": 16, "decoder_layers": 2, "encoder_layers": 1, "decoder_ffn_dim": 32}),
}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "sliding_window": None,
}
WINDOW = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}
CAUSAL: dict[str, tuple[str, type, dict[str, Any]]] = {
    "gpt2": ("gpt2", CausalTrees, {"n_embd": 16, "n_layer": 3, "n_head": 2, "initializer_range": 0.2}),
    "llama": ("llama", CausalTrees, LLAMA),
    "qwen3": ("qwen3", CausalTrees, LLAMA),
    "glm": ("glm", CausalTrees, LLAMA),
    "glm4": ("glm4", CausalTrees, LLAMA),
    "qwen2": ("qwen2", CausalTrees, LLAMA),
    "mistral": ("mistral", CausalTrees, LLAMA),
    "mistral with a window": ("mistral", CausalRows, {**LLAMA, **WINDOW}),
    "qwen3 with a window": ("qwen3", CausalRows, {**LLAMA, **WINDOW}),
    "long rope": (
        "llama",
        CausalRows,
        {**LLAMA, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "mamba": (
        "mamba",
        CausalRows,
        {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "initializer_range": 0.2},
    ),
}


def causal(name: str, size: int) -> PreTrainedModel:
    kind, _, arguments = CAUSAL[name]
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, vocab_size=size, bos_token_id=0, eos_token_id=1, pad_token_id=0, **arguments)
    return AutoModelForCausalLM.from_config(config).eval()


def seq2seq(name: str) -> tuple[PreTrainedModel, Tensor, Tensor]:
    """A random model, what it reads and the mask."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(name, vocab_size=20, pad_token_id=0, eos_token_id=1, **SEQ2SEQ[name][1])
    text = AutoModelForSeq2SeqLM.from_config(config).eval()
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    return text, torch.randn(2, 9, 16), mask


def follow(states: States) -> list[Tensor]:
    """The states of every new node of the trees of ``CHUNKS``."""
    names: list[dict[int, int]] = [{-1: -1}, {-1: -1}]  # as in CHUNKS -> as ``states`` has it
    nodes, found = 0, []
    for chunks in CHUNKS:
        mine = [[(names[b][parent], tokens) for parent, tokens in user] for b, user in enumerate(chunks)]
        hidden, last = states.extend(mine)
        for b, user in enumerate(chunks):
            column = 0
            for (_, tokens), end in zip(user, last[b], strict=True):
                found += list(hidden[b, column : column + len(tokens)])
                column += len(tokens)
                names[b][nodes + column - 1] = end
        nodes += max(sum(len(tokens) for _, tokens in user) for user in chunks)
    return found


@pytest.mark.parametrize("name", SEQ2SEQ)
@torch.no_grad()
def test_encoder_decoders(name: str) -> None:
    text, hidden, mask = seq2seq(name)
    states = decoder_states(text, hidden, mask)
    assert type(states) is SEQ2SEQ[name][0]
    found, expected = follow(states), follow(Rows(text, hidden, mask))
    assert len(found) == sum(len(tokens) for chunks in CHUNKS for user in chunks for _, tokens in user)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-5, rtol=1e-5)
    moved = follow(type(states)(text, hidden.where(mask[..., None], 9.0), mask))  # padding is not read
    torch.testing.assert_close(torch.stack(moved), torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gone", ["compute_bias", "EncDecAttention", "final_layer_norm"])
@torch.no_grad()
def test_a_t5_whose_parts_have_other_names_is_read_anew(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, hidden, mask = seq2seq("t5")
    expected = torch.stack(follow(T5Trees(text, hidden, mask)))
    decoder = text.get_decoder()
    with monkeypatch.context() as patch:  # the model itself needs the part later
        if gone == "compute_bias":
            patch.delattr(type(decoder.block[0].layer[0].SelfAttention), gone)
        else:
            patch.delitem((decoder.block[1].layer[1] if gone == "EncDecAttention" else decoder)._modules, gone)
        states = decoder_states(text, hidden, mask)
    assert type(states) is Rows
    torch.testing.assert_close(torch.stack(follow(states)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_causal_model_whose_attention_is_not_known_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    text = causal("llama", 20)
    embeddings, mask = text.get_input_embeddings()(torch.randint(0, 20, (2, 7))), torch.ones(2, 7, dtype=torch.bool)
    expected = torch.stack(follow(CausalTrees(text, embeddings, mask)))
    with monkeypatch.context() as patch:
        patch.delattr(PreTrainedConfig, "_attn_implementation")
        states = decoder_states(text, embeddings, mask)
    assert type(states) is CausalRows
    torch.testing.assert_close(torch.stack(follow(states)), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_trees_in_mixed_precision() -> None:
    text, hidden, mask = seq2seq("t5")
    exact = torch.stack(follow(Rows(text, hidden, mask)))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = torch.stack(follow(T5Trees(text, hidden, mask)))
    torch.testing.assert_close(mixed.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", [name for name in CAUSAL if CAUSAL[name][1] is CausalTrees])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_causal_trees(name: str, attention: str) -> None:
    text = causal(name, 20)
    text.set_attn_implementation(attention)
    embeddings = text.get_input_embeddings()(torch.randint(0, 20, (2, 7)))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :3] = False
    expected = torch.stack(follow(CausalRows(text, embeddings, mask)))
    torch.testing.assert_close(torch.stack(follow(CausalTrees(text, embeddings, mask))), expected, atol=1e-4, rtol=1e-4)
    nothing = embeddings[:, :0], mask[:, :0]
    expected = torch.stack(follow(CausalRows(text, *nothing)))
    torch.testing.assert_close(torch.stack(follow(CausalTrees(text, *nothing))), expected, atol=1e-4, rtol=1e-4)


def log_probabilities(
    text: PreTrainedModel, prompt: Sequence[int], targets: list[list[int]], vocabulary: str
) -> list[float]:
    """Of every target after a prompt, each by a stock pass over both; what competes is what some target goes on with."""
    found = []
    for target in targets:
        ids = torch.tensor([[*prompt, *target]])
        logits = text(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].double()
        total = 0.0
        for place, token in enumerate(target):
            near = sorted({other[place] for other in targets if other[:place] == target[:place]})
            rivals = logits[place, near] if vocabulary == "schema" else logits[place]
            total += float(logits[place, token] - rivals.logsumexp(0))
        found.append(total)
    return found


def decode(
    text: PreTrainedModel,
    grammar: Grammar,
    prompts: list[list[int]],
    side: str,
    vocabulary: str,
    known: Profile,
    **options: Any,
) -> list[Decoded]:
    """With prompts that end in the same token, padded on one side."""
    head = text.get_output_embeddings()
    longest = max(map(len, prompts)) - 1
    rows = []
    for prompt in prompts:
        padding = [0] * (longest - len(prompt) + 1)
        rows.append([*padding, *prompt[:-1]] if side == "left" else [*prompt[:-1], *padding])
    mask = torch.ones(len(rows), longest, dtype=torch.bool)
    for row, prompt in zip(mask, prompts, strict=True):
        empty = longest - len(prompt) + 1
        row[slice(None, empty) if side == "left" else slice(longest - empty, None)] = False
    states = decoder_states(text, text.get_input_embeddings()(torch.tensor(rows)), mask)

    def logits(states: Tensor, ids: Tensor | None) -> Tensor:
        return head(states) if ids is None else head(states)[:, ids]

    search = ProfileSearch(grammar=grammar, start=prompts[0][-1], logits=logits, vocabulary=vocabulary, **options)
    return search(states, [Grammar(grammar.schema, grammar.tokenizer, known)] * len(prompts))


@pytest.mark.parametrize("vocabulary", ["full", "schema"])
@pytest.mark.parametrize("schema_name", ["prefixes", "sets", "one"])
@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_causal_brute_force(
    name: str,
    schema_name: str,
    vocabulary: str,
    schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast],
    legal_profiles: Callable[[Schema], list[Profile]],
) -> None:
    schema = Schema(schema_name, ODD[schema_name])
    tokenizer = schema_tokenizer(schema)
    grammar, profiles, text = Grammar(schema, tokenizer), legal_profiles(schema), causal(name, len(tokenizer))
    end = tokenizer.convert_tokens_to_ids(":")
    prompts = [
        [*tokenizer(words, add_special_tokens=False)["input_ids"], end]
        for words in ("the soup was warm so we stayed", "good", "a long dinner")
    ]
    embeddings = text.get_input_embeddings()(torch.tensor([prompts[0][:-1]]))
    states = decoder_states(text, embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool))
    assert type(states) is CAUSAL[name][1]
    targets = [grammar.encode(profile) for profile in profiles]
    oracle = [
        dict(zip(map(str, profiles), log_probabilities(text, prompt, targets, vocabulary), strict=True))
        for prompt in prompts
    ]
    for known in ({}, {schema.names[-1]: profiles[-1][schema.names[-1]]}):
        possible = [one for one in profiles if all(one[key] == value for key, value in known.items())]
        for side in ("left", "right"):
            shared = text, grammar, prompts, side, vocabulary, known
            whole = decode(*shared, width=10_000, tolerance=0.0)
            narrow = decode(*shared, width=2, tolerance=0.3, exact=True)
            greedy = decode(*shared, width=1, tolerance=0.3)
            assert all(one.exact and one.lost == 0 for one in whole)
            assert all(one.exact for one in narrow)
            for likely, *three in zip(oracle, whole, narrow, greedy, strict=True):
                check(schema, likely, possible, three)
        for prompt, together in zip(prompts, whole, strict=True):
            [alone] = decode(text, grammar, [prompt], "left", vocabulary, known, width=10_000, tolerance=0.0)
            assert alone.profile == together.profile
            assert math.isclose(alone.log_probability, together.log_probability, abs_tol=1e-4)
