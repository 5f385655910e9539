"""The arithmetic of ``docs/paper_run.md``: parameters from the published configurations, costs from the page's own numbers."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from mmprofile.config.compose import load_config
from mmprofile.model.fusion import CrossAttention
from tests.support.published import PUBLISHED

pytestmark = pytest.mark.fast

PAGE = (Path(__file__).parents[2] / "docs" / "paper_run.md").read_text(encoding="utf-8")


def row(name: str) -> list[float]:
    """The first number of each cell of a table's row, behind its name."""
    [line] = re.findall(rf"^\| {name}[^|]*\|(.*)\|$", PAGE, re.MULTILINE)
    numbers = (re.search(r"[\d,.]+", cell) for cell in line.split("|"))
    return [float(number.group().replace(",", "")) for number in numbers if number is not None]


def millions(*modules: nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


@pytest.fixture(scope="module")
def parts() -> dict[str, float]:
    """Millions of parameters, by the page's names."""
    config = PUBLISHED["google/flan-t5-base"].config
    with torch.device("meta"):
        text = T5ForConditionalGeneration(T5Config(**config))
        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
        fusion = CrossAttention(text.config.d_model, int(vit.num_features))  # type: ignore[arg-type]
    return {
        "T5 encoder": millions(text.encoder.block),
        "T5 decoder": millions(text.decoder.block),
        "output weights": text.lm_head.weight.numel() / 1e6,
        "ViT": millions(vit),
        "fusion": millions(fusion),
    }


def test_parameters(parts: dict[str, float]) -> None:
    for name, count in parts.items():
        assert row(name)[0] == pytest.approx(count, abs=0.06), name
    assert row("sum \\(and")[0] == pytest.approx(sum(parts.values()) + parts["output weights"], abs=0.1)


def test_costs_and_hours(parts: dict[str, float]) -> None:
    costs = [row(name) for name in parts]
    for name, (count, tokens, flop, *_) in zip(parts, costs, strict=True):
        if name in ("ViT", "output weights", "fusion"):
            assert flop == pytest.approx(6e-6 * count * tokens, abs=0.12), name
    usual, worst = (sum(cost[place] for cost in costs) for place in (-2, -1))
    assert [usual, worst] == pytest.approx([5.4, 8.1], abs=0.11)
    cfg = load_config("train", ["experiment=paper", "data=yelp", "data.prepare.source.path=/data/yelp"])
    steps = cfg.data.prepare.split.train / cfg.loader.batch_size * cfg.trainer.max_epochs
    assert f"= {steps:,.0f} steps" in PAGE
    for gpu in ("V100S \\(", "A100", "H100"):
        peak, used, seconds, hours = row(gpu)
        assert seconds == pytest.approx(5.4 / (peak * used / 100), abs=0.05)
        assert hours == pytest.approx(steps * 5.4 / (peak * used / 100) / 3600, abs=0.06)
    assert row("weights, gradients")[0] == pytest.approx(16e-3 * row("sum \\(and")[0], abs=0.05)
