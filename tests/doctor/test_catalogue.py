"""The catalogue of published checkpoints: exact, and complete for all that configurations and pages name."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from omegaconf import OmegaConf
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
)

from mmprofile.caption.run import MODELS
from mmprofile.doctor.catalogue import published
from mmprofile.paths import conf_dir
from tests.support.published import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
    "llava": AutoModelForImageTextToText,
    "classifier": AutoModel,
    "blip2": AutoModelForImageTextToText,
}


def architecture(kind: str, config: dict[str, Any]) -> Any:
    """Return a model without numbers, of a published config.json."""
    with torch.device("meta"):
        if kind == "vision":
            return timm.create_model(config["architecture"], num_classes=0)
        values = {key: value for key, value in config.items() if key != "model_type"}
        return KINDS[kind].from_config(CONFIG_MAPPING[config["model_type"]](**values))


def parameters(kind: str, config: dict[str, Any]) -> int:
    """Return how many parameters there are; transformers ties a T5 whatever its configuration says, until it has weights."""
    model = architecture(kind, config)
    text = getattr(model, "language_model", model)
    words = config.get("text_config", config)
    untied = words.get("model_type") in ("t5", "mt5") and {**config, **words}.get("tie_word_embeddings") is False
    return sum(p.numel() for p in model.parameters()) + (text.get_input_embeddings().weight.numel() if untied else 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_exact(name: str) -> None:
    checkpoint, facts = PUBLISHED[name], published()[name]
    assert parameters(checkpoint.kind, checkpoint.config) == facts.parameters
    assert facts.licence.split(" (gated")[0] == checkpoint.licence.split(" (gated")[0]
    assert facts.gated == ("gated" in checkpoint.licence)
    if facts.config:
        assert parameters(checkpoint.kind, facts.config) == facts.parameters
    assert 1.9 < facts.bytes / facts.parameters < 4.2  # half or full precision
    text = checkpoint.config.get("text_config", checkpoint.config)
    if "max_position_embeddings" in text:
        assert facts.context == text["max_position_embeddings"]


def configured() -> set[str]:
    """Return every hub id in conf/: of models and classifiers at any size, and of captions."""
    names = {MODELS["transformers"], *MODELS.values()} - {MODELS["lavis"]}
    for path in [*(conf_dir() / "model").glob("*.yaml"), *(conf_dir() / "classifier").glob("*.yaml")]:
        sizes = OmegaConf.to_container(OmegaConf.load(path)).get("sizes") or {}  # type: ignore[union-attr]
        for parts in sizes.values():
            names |= {str(parts[key]) for key in ("text", "vision") if key in parts}
    return {name for name in names if not name.startswith("mmprofile:")}


def mentioned() -> set[str]:
    """Return what looks like a hub id of a known owner in conf/, README and docs/."""
    owners = "|".join(
        {re.escape(name.split("/")[0]) for name in published()} | {"bert-base", "lmsys", "THUDM", "openai"}
    )
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *conf_dir().rglob("*.yaml")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    return {found.rstrip(".") for found in re.findall(rf"(?<![\w/.-])(?:{owners})/[\w.-]+", text)}


def test_every_configured_checkpoint_is_in_the_catalogue() -> None:
    names = configured()
    assert len(names) >= 12
    hubs = {timm.get_pretrained_cfg(name).hf_hub_id if timm.is_model(name) else name for name in names}
    assert sorted(hubs - published().keys()) == []


def test_every_checkpoint_that_pages_name_is_in_the_catalogue() -> None:
    names = mentioned()
    assert len(names) >= 14
    assert [name for name in sorted(names) if not any(known.startswith(name) for known in published())] == []


def test_miniatures_and_catalogue_have_the_same_checkpoints() -> None:
    assert published().keys() == PUBLISHED.keys()
