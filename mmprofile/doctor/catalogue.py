"""What is known of published checkpoints without fetching them: ``mmprofile/assets/published.yaml``."""

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mmprofile.paths import ASSETS

TOKENIZERS = {"t5": "text", "mt5": "text", "bart": "bart", "glm": "glm4", "glm4": "glm4"}
"""Architecture -> the tokenizer of this package that stands in for its own; all others: Llama's."""

LANGUAGES = {
    "English": "Flan-T5: model=base, model=large",
    "other languages": "mT5, 101 of them: model=base model.text.name=google/mt5-small, or google/mt5-base",
    "captions": "BLIP-2 writes English, whatever the language of the reviews",
    "photos": "any vision model",
}
"""What is read -> what suits its language."""


@dataclass(frozen=True)
class CheckpointFacts:
    """What is known of a published checkpoint.

    Attributes:
        name: as a configuration gives it: a hub id, or the name of a timm model.
        hub: its repository on the hub.
        parameters: their number, exactly.
        bytes: of the weights to fetch, about.
        licence: under which it is published.
        gated: whether the hub asks for an account that has accepted the licence.
        context: tokens that it reads at most; None: no limit of its architecture.
        tokenizer: its kind.
        config: what its architecture is built of, in the words of transformers; empty for a timm model.
    """

    name: str
    hub: str
    parameters: int
    bytes: float
    licence: str
    gated: bool
    context: int | None
    tokenizer: str | None
    config: dict[str, Any]

    def write_stand_in(self, folder: Path) -> None:
        """Write a folder of which the architecture can be built: its configuration, and a tokenizer of this package."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        for path in (ASSETS / "tiny" / TOKENIZERS.get(self.config["model_type"], "llama")).iterdir():
            if "token" in path.name:
                shutil.copy(path, folder)
        if "vision_config" in self.config:  # what a LLaVA reads photos with
            side = self.config["vision_config"]["image_size"]
            processor = {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": side},
                "crop_size": {"height": side, "width": side},
            }
            (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


@cache
def published() -> dict[str, CheckpointFacts]:
    """Return the published checkpoints by the names that configurations give them."""
    entries = yaml.safe_load((ASSETS / "published.yaml").read_text(encoding="utf-8"))
    optional: dict[str, Any] = {"gated": False, "context": None, "tokenizer": None, "config": {}}
    return {
        name: CheckpointFacts(**{"name": name, "hub": name, **optional, **entry}) for name, entry in entries.items()
    }
