"""The script that makes the tiny models: tokenizer, losses and attention spreads against oracles, and runs of a few steps."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from mmprofile.inputs.batch import IGNORE
from mmprofile.model.build import build_model
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile.schema import Schema

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_tiny.py"
SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
LOADED_BY = {
    "t5": AutoModelForSeq2SeqLM,
    "bart": AutoModelForSeq2SeqLM,
    "llama": AutoModelForCausalLM,
    "glm4": AutoModelForCausalLM,
    "bert": AutoModelForMaskedLM,
}


@pytest.fixture(scope="module")
def script(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("pretrain_tiny")


@pytest.fixture(scope="module")
def tokenizer(script: ModuleType) -> PreTrainedTokenizerFast:
    texts = ["The lasagne was good, and cheap.", "We had a lasagne; it was good!", "Good, cheap, close: we had it."]
    return script.train_tokenizer(texts * 20, SCHEMA)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_no_script_is_unknown(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(f"x {text}", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str(f"x {text}")
    assert tokenizer.decode(ids) == normal.replace("▁", " ")


def test_the_tokenizer_is_like_t5s(tokenizer: PreTrainedTokenizerFast, script: ModuleType) -> None:
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert tokenizer("good")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(tokenizer) - 1
    assert tokenizer.convert_tokens_to_ids("<extra_id_99>") == len(tokenizer) - script.SENTINELS
    for word in ("lasagne", "cheap", "Favorite", "Category", "Breakfast", "Unknown"):
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1


def text_batch(script: ModuleType) -> Any:
    """Three texts of two rows: the first reads two texts, the second one."""
    return import_module("pretraining_tasks").TextBatch(
        texts=torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0], [10, 1, 0, 0]]),
        row_tokens=torch.tensor([[0, 1, 2, 3, 8, 9], [4, 5, 6, -1, -1, -1]]),
        target=torch.tensor([[11, 12, 1], [13, 1, IGNORE]]),
        sentiments=torch.tensor([IGNORE, 4]),
        trades=torch.rand(2, 4),
        words=torch.rand(2, 6),
    )


def learner(script: ModuleType, family: str) -> Any:
    """A new model of a family with its heads."""
    torch.manual_seed(0)
    return script.TextLearner(family, AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text"), 4, 6, 0.25)


@pytest.mark.parametrize("family", ["llama", "glm4"])
def test_a_causal_model_learns_the_target_behind_its_source(family: str, script: ModuleType) -> None:
    made = learner(script, family)
    losses = made(text_batch(script))
    assert losses["heads"].isfinite()
    total = source = 0.0
    for prompt, answer in (([5, 6, 7, 1, 10, 1], [11, 12, 1]), ([8, 9, 1], [13, 1])):
        ids = torch.tensor([prompt + answer])
        labels = ids.clone()
        labels[:, : len(prompt)] = IGNORE
        total += made.model(input_ids=ids, labels=labels).loss.item()
        own = ids[:, : len(prompt)]
        source += made.model(input_ids=own, labels=own).loss.item() * (len(prompt) - 1)
    assert losses["text"].item() == pytest.approx(total / 2, rel=1e-5)
    assert losses["source"].item() == pytest.approx(source / 7, rel=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_learns_each_row_alike(family: str, script: ModuleType) -> None:
    made = learner(script, family)
    losses = made(text_batch(script))
    model = made.model
    read = [model.get_encoder()(torch.tensor([ids])).last_hidden_state for ids in ([5, 6, 7, 1], [10, 1], [8, 9, 1])]
    expected = 0.0
    for states, answer in ((torch.cat(read[:2], 1), [11, 12, 1]), (read[2], [13, 1])):
        expected += model(encoder_outputs=(states,), labels=torch.tensor([answer])).loss.item() / 2
    assert losses["text"].item() == pytest.approx(expected, rel=1e-5)


def test_the_heads_against_their_formula(script: ModuleType) -> None:
    made, batch = learner(script, "t5"), text_batch(script)
    batch = batch._replace(words=torch.cat([batch.words[:1], torch.full((1, 6), math.nan)]))
    read = [[5, 6, 7, 1], [10, 1]], [[8, 9, 1]]
    encode = made.model.get_encoder()
    mean = torch.cat(
        [torch.cat([encode(torch.tensor([ids])).last_hidden_state for ids in row], 1).mean(1) for row in read]
    )
    sentiments, trades, words = (head(mean).double() for head in made.heads)

    def binary(logits: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        return -(share * logits.sigmoid().log() + (1 - share) * (-logits).sigmoid().log()).sum(1).mean()

    expected = -sentiments[1].log_softmax(0)[4]  # the first row has several reviews
    expected = expected + 0.5 * binary(trades, batch.trades) + 0.2 * binary(words[:1], batch.words[:1])
    assert made(batch)["heads"].item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = batch._replace(sentiments=torch.tensor([IGNORE, IGNORE]), words=torch.full((2, 6), math.nan))
    assert made(nothing)["heads"].item() == pytest.approx(0.5 * binary(trades, batch.trades).item(), rel=1e-5)


def test_the_queries_of_t5_alone_learn_slowly(script: ModuleType) -> None:
    made = learner(script, "t5")
    factors = {id(p): group["factor"] for group in made.groups() for p in group["params"]}
    assert {name: factors[id(p)] for name, p in made.named_parameters()} == {
        name: 0.25 if name.endswith(".q.weight") else 5.0 if name.endswith("shared.weight") else 1.0
        for name, p in made.named_parameters()
    }
    assert {group["factor"] for group in learner(script, "bart").groups()} == {1.0}


def test_spreads_are_those_of_the_scores(script: ModuleType) -> None:
    """Against scores that are computed from queries and keys, of the first layer of the encoder."""
    made, batch = learner(script, "t5"), text_batch(script)
    attention = made.model.encoder.block[0].layer[0]
    hidden = attention.layer_norm(made.model.get_input_embeddings()(batch.texts))
    part = attention.SelfAttention
    query, key = (table(hidden).unflatten(-1, (4, 32)).transpose(1, 2) for table in (part.q, part.k))
    scores = query @ key.transpose(-1, -2) + part.compute_bias(4, 4)
    spreads = [
        scores[text, head, place, : int(length)].std(correction=0).item()
        for text, length in enumerate((batch.texts != 0).sum(1))
        for head in range(4)
        for place in range(int(length))
    ]
    mixture = type("OneBatch", (), {"text": lambda self, size: batch})()
    found = script.attention_spreads(made, mixture)
    assert {kind: len(layers) for kind, layers in found.items()} == {"encoder": 2, "decoder": 2, "cross": 2}
    assert found["encoder"][0] == pytest.approx(sum(spreads) / len(spreads), rel=1e-4)
    for family, kinds in (("bart", {"encoder", "decoder", "cross"}), ("llama", {"self"}), ("bert", {"self"})):
        found = script.attention_spreads(learner(script, family), mixture)
        assert set(found) == kinds
        assert all(math.isfinite(value) for layers in found.values() for value in layers)


@pytest.mark.parametrize(
    ("rows", "spread"),
    [
        ([[0.25, 0.25, 0.25, 0.25]], 0.0),
        ([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], (math.log(0.5e45) / 2 + math.log(1e45) * math.sqrt(3) / 4) / 2),
        ([[0.8, 0.2, 9.0, 9.0]], math.log(4) / 2),
        ([[1.0, 9.0, 9.0, 9.0], [math.e**2, 1.0, 9.0, 9.0]], 1.0),
    ],
    ids=["even", "saturated", "keys that cannot be read", "a query with one key does not count"],
)
def test_spreads_by_hand(script: ModuleType, rows: list[list[float]], spread: float) -> None:
    weights = torch.tensor([[rows]])
    keys = weights[:, 0] <= 8.0  # 9: not to be read
    queries = torch.ones(1, len(rows), dtype=torch.bool)
    assert script._spread(weights, queries, keys) == pytest.approx(spread, rel=1e-6)
    more = torch.cat([weights, weights.flip(-1)], 2)  # what does not count changes nothing
    queries = torch.cat([queries, ~queries], 1)
    assert script._spread(more, queries, torch.cat([keys, keys], 1)) == pytest.approx(spread, rel=1e-6)


def test_masks_of_what_is_read(script: ModuleType) -> None:
    mask = torch.tensor([[True, True, False, True]])
    assert script._backwards(mask).int().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]]]
    batch = text_batch(script)
    ids, seen = learner(script, "llama").read(batch)
    assert [row[kept].tolist() for row, kept in zip(ids, seen, strict=True)] == [
        [5, 6, 7, 1, 10, 1, 11, 12, 1],
        [8, 9, 1, 13, 1],
    ]
    ids, seen = learner(script, "bert").read(batch)
    assert [row[kept].tolist() for row, kept in zip(ids, seen, strict=True)] == [[5, 6, 7, 1, 10, 1], [8, 9, 1]]


def test_bert_learns_words_alone(script: ModuleType) -> None:
    made, hidden, shown = learner(script, "bert"), [], []
    made.mask, lowest = 5, made.words_end  # a mask that no text has
    ids = torch.tensor([[7, 8, lowest, lowest + 40, 9, 1] * 20])
    made.model.cls.register_forward_hook(lambda _, given, __: hidden.append(len(given[0])))
    made.model.bert.register_forward_pre_hook(lambda _, args, given: shown.append(given["input_ids"]), with_kwargs=True)
    for _ in range(50):
        made._bert(None, ids, torch.ones_like(ids, dtype=torch.bool))
    read = torch.stack(shown)
    words = ((ids > 2) & (ids < lowest)).expand_as(read).clone()
    words[..., 0] = False
    assert (read[..., 0] == made.first).all()
    others = ~words
    others[..., 0] = False
    assert torch.equal(read[others], ids.expand_as(read)[others])
    assert sum(hidden) / words.sum() == pytest.approx(0.15, abs=0.02)
    assert (read[words] == 5).sum() / sum(hidden) == pytest.approx(0.8, abs=0.05)
    drawn = read[words & (read != 5) & (read != ids)]
    assert drawn.min() > 2
    assert drawn.max() < lowest


def run(family: str, cities: Sequence[str | Path], out: Path, *options: str) -> subprocess.CompletedProcess:
    """A run of three steps, as a user starts it."""
    command = [sys.executable, SCRIPT, family, *cities, "--out", out, "--steps", "3", "--batch", "12", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_missing_tokenizer_is_said_before_any_city_is_made(tmp_path: Path) -> None:
    done = run("bart", ("--cities", tmp_path / "cities"), tmp_path / "out", "--tokenizer", str(tmp_path))
    assert done.returncode == 2
    assert f"--tokenizer {tmp_path}: there is no tokenizer.json" in done.stderr
    assert not (tmp_path / "cities").exists()


@pytest.mark.parametrize("device", ["cudda", "cuda:99"])
def test_a_wrong_device_is_said_before_any_city_is_made(device: str, tmp_path: Path) -> None:
    done = run("bart", ("--cities", tmp_path / "cities"), tmp_path / "out", "--device", device)
    assert done.returncode == 2
    assert f"error: --device {device}: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cities").exists()


@pytest.mark.parametrize("family", sorted(LOADED_BY))
def test_a_short_run_writes_a_model_that_loads(family: str, cities: Sequence[str | Path], tmp_path: Path) -> None:
    done = run(family, cities, tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "pretraining.json").read_text())
    assert facts["steps"] == 3
    assert 0 < facts["text_loss"] < 20
    assert 0 < max(max(layers) for layers in facts["attention_spread"].values()) < 10
    model = LOADED_BY[family].from_pretrained(tmp_path, dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"] < 2_100_000
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert 0 <= model.config.vocab_size - len(tokenizer) < 128
    if family == "bert":
        assert tokenizer.mask_token == "<extra_id_0>"
    if family == "t5":
        assert model.config.is_gated_act
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def test_a_short_run_writes_a_vision_model_that_loads(cities: Sequence[str | Path], tmp_path: Path) -> None:
    done = run("vit", cities, tmp_path)
    assert done.returncode == 0, done.stderr
    model = build_model(
        text={"name": "mmprofile:tiny/text"},
        vision={"name": f"local-dir:{tmp_path}", "tokens": "cls", "trainable": False},
        fusion={"kind": "xattn"},
        schema=SCHEMA,
        inputs={},
    )
    assert model.vision.width == 128
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).num_features == 128


def test_a_saturated_model_is_put_aside(cities: Sequence[str | Path], tmp_path: Path) -> None:
    done = run("t5", cities, tmp_path / "out", "--spread", "0.01")
    assert done.returncode == 1
    assert "attention scores spread by" in done.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out-refused" / "model.safetensors").is_file()


def test_a_process_that_draws_ahead_draws_the_same(cities: Sequence[str | Path], tmp_path: Path) -> None:
    here, apart = tmp_path / "here", tmp_path / "apart"
    for out, device in ((here, "cpu"), (apart, "cpu:0")):  # the numbered one is treated as a GPU
        done = run("t5", cities, out, "--device", device)
        assert done.returncode == 0, done.stderr
    assert (here / "model.safetensors").read_bytes() == (apart / "model.safetensors").read_bytes()
