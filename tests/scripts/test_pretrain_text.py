"""The script that makes the other tiny text models: its losses against transformers' own, and a run as a user starts it."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from mmprofile.inputs.batch import IGNORE
from mmprofile.paths import ASSETS

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_text.py"
LOADED_BY = {
    "bart": AutoModelForSeq2SeqLM,
    "llama": AutoModelForCausalLM,
    "glm4": AutoModelForCausalLM,
    "bert": AutoModelForMaskedLM,
}


@pytest.fixture(scope="module")
def script(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("pretrain_text")


@pytest.mark.parametrize("family", ["llama", "glm4"])
def test_a_causal_model_learns_the_target_behind_its_source(family: str, script: ModuleType) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    learner = script.Learner(family, tokenizer, 4, 6).eval()
    texts = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0], [10, 1, 0, 0]])
    rows = torch.tensor([[0, 1, 2, 3, 8, 9], [4, 5, 6, -1, -1, -1]])  # the first reads two texts, the second one
    target = torch.tensor([[11, 12, 1], [13, 1, IGNORE]])
    stars, trades, words = torch.full((2, 5), 0.2), torch.rand(2, 4), torch.rand(2, 6)
    losses = learner(
        script.TextBatch(texts=texts, row_tokens=rows, target=target, stars=stars, trades=trades, words=words)
    )
    assert losses["heads"].isfinite()
    total = source = 0.0
    for prompt, answer in (([5, 6, 7, 1, 10, 1], [11, 12, 1]), ([8, 9, 1], [13, 1])):
        ids = torch.tensor([prompt + answer])
        labels = ids.clone()
        labels[:, : len(prompt)] = IGNORE
        total += learner.model(input_ids=ids, labels=labels).loss.item() * len(answer)
        own = ids[:, : len(prompt)]
        source += learner.model(input_ids=own, labels=own).loss.item() * (len(prompt) - 1)
    assert losses["text"].item() == pytest.approx(total / 5, rel=1e-5)
    assert losses["source"].item() == pytest.approx(source / 7, rel=1e-5)


@pytest.mark.parametrize("family", sorted(LOADED_BY))
def test_a_short_run_writes_a_model_that_loads(family: str, cities: Sequence[str | Path], tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, family, *cities, "--out", tmp_path, "--minutes", "0.03"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "pretraining.json").read_text())
    assert facts["steps"] > 0
    assert 0 < facts["text_loss"] < 20
    model = LOADED_BY[family].from_pretrained(tmp_path, dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"] < 1_600_000
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == model.config.vocab_size
    if family == "bert":
        assert tokenizer.mask_token == "<extra_id_0>"
