"""What is known of a published checkpoint."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Published:
    """A checkpoint of the hub.

    Attributes:
        name: its id on the hub.
        kind: "seq2seq", "causal", "llava", "classifier", "blip2" or "vision".
        licence: under which its weights are published.
        tokenizer: the family of its tokenizer, None without one.
        save: ``save(published, folder, texts, seed)`` writes a miniature.
        shards: in how many files its weights are.
        weights: "safetensors" or "bin", the kind of its weights' file.
        model: class of transformers that has all of its weights; the first architecture of its configuration if empty.
        keys: regular expression of a weight's name in that class -> name in the file, in order.
        untied: weights of the file that the class would tie -> the weight whose shape they have.
        copied: weights of the file that are the same as another one -> that one.
        rotary: whether the file has each layer's rotary frequencies, as transformers wrote them until 4.30.
        unsaid: sizes that its configuration leaves to transformers' defaults, by part.
    """

    name: str
    kind: str
    licence: str
    tokenizer: str | None
    save: Callable[["Published", Path, Sequence[str] | None, int], None]
    shards: int = 1
    weights: str = "safetensors"
    model: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    untied: dict[str, str] = field(default_factory=dict)
    copied: dict[str, str] = field(default_factory=dict)
    rotary: bool = False
    unsaid: dict[str, dict[str, int]] = field(default_factory=dict)

    @cached_property
    def files(self) -> dict[str, Any]:
        """The JSON files of the published folder, by name, at full size."""
        return json.loads((CONFIGS / f"{self.name.replace('/', '--')}.json").read_text(encoding="utf-8"))

    @property
    def config(self) -> dict[str, Any]:
        """The published ``config.json``."""
        return self.files["config.json"]

    @property
    def sizes(self) -> dict[str, Any]:
        """The published ``config.json``, and the sizes that it leaves to transformers' defaults."""
        return self.config | {part: self.config[part] | sizes for part, sizes in self.unsaid.items()}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
