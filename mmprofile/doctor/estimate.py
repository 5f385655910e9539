"""The memory and disk that a run would need, from its configuration: the model is built without weights, see ``memory.py``."""

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mmprofile.config.settings import TextConfig, TrainConfig, VisionConfig
from mmprofile.doctor.batches import Batches, largest_batches
from mmprofile.doctor.memory import Need, needs
from mmprofile.doctor.weights import Weights
from mmprofile.errors import UserError
from mmprofile.files import read_json
from mmprofile.model.checkpoints import ADAPTER_CONFIG
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from mmprofile.train.run import make_model

UNTIED = ("t5", "mt5", "umt5")
"""Architectures that transformers builds with tied embeddings, and unties when it loads weights that are not tied."""
ALLOWANCE = 1.1
"""What allocators keep besides: without it, the measured runs took up to a fifth more than was estimated."""
GPU_CONTEXT = 600_000_000  # bytes that CUDA and its libraries take of a GPU's memory


@dataclass(frozen=True)
class Estimate:
    """What a run would need on a device.

    Attributes:
        need: of the model, wherever it is.
        batches: the largest ones.
        training: bytes of the device's memory that a training takes.
        prediction: likewise, of a prediction.
        process: bytes of the machine's memory that the program and its photos take beside the model.
    """

    need: Need
    batches: Batches
    training: int
    prediction: int
    process: int


def estimate(
    cfg: TrainConfig,
    schema: Schema,
    weights: Sequence[Weights],
    prepared: Path | None,
    precision: str,
    kind: str,
    base: int,
) -> Estimate:
    """Return what a run would need.

    Args:
        cfg: its configuration.
        schema: of its profiles.
        weights: where its checkpoints are; one that is not here must be published.
        prepared: its prepared data; None: there are none yet.
        precision: of Lightning's Trainer.
        kind: of the device: cpu, cuda, ...
        base: bytes of this process, with all libraries.

    Raises:
        UserError: the model cannot be built.
    """
    with without_weights(cfg, schema, weights) as model:
        batches = largest_batches(cfg, model, prepared)
        bf16 = precision.startswith("bf16")
        need = needs(
            model, batches.training, batches.prediction, batches.weights, kind, bf16, cfg.evaluation.beams or 1
        )
    process = base + batches.photo_bytes
    kept = need.weights + need.gradients + need.moments
    shards = cfg.trainer.devices if cfg.trainer.strategy == "fsdp" and isinstance(cfg.trainer.devices, int) else 1
    if shards > 1:  # a step gathers the model, and spreads its gradients at its end
        kept = (need.weights + need.moments) // shards + need.weights + need.gradients
    elif str(cfg.trainer.strategy).startswith("ddp"):
        kept += need.gradients  # what is exchanged
    most = max(need.activations, need.prediction)
    if kind == "cuda":
        outside = GPU_CONTEXT
        most = max(most, need.gradients)  # Adam's temporary results
        process += need.saving + need.saving // 2  # the checkpoint leaves the GPU first
    else:
        outside = process
        most = max(most, need.saving)
    return Estimate(
        need=need,
        batches=batches,
        training=round(ALLOWANCE * (outside + kept + most)),
        prediction=round(ALLOWANCE * (outside + need.weights + need.prediction)),
        process=process,
    )


@contextmanager
def without_weights(cfg: TrainConfig, schema: Schema, weights: Sequence[Weights]) -> Iterator[ProfileModel]:
    """Give the model of a configuration on torch's meta device, where tensors have shapes only.

    Args:
        cfg, schema, weights: as for :func:`estimate`.

    Raises:
        UserError: it cannot be built.
    """
    here = {part.part: part for part in weights}
    text = here["text"]
    config = text.config
    if "model_type" not in config:
        raise UserError(f"what {text.name} is made of is not known before it is fetched")
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as temporary:
        if text.folder is None and text.facts is not None:
            text.facts.write_stand_in(Path(temporary) / "text")
            _put(cfg.model.text, Path(temporary) / "text")
        elif text.folder is not None:
            _put(cfg.model.text, text.folder)
        vision = here.get("vision")
        if vision is not None and vision.folder is not None:
            _put(cfg.model.vision, vision.folder, "local-dir:")
        elif vision is not None and vision.facts is not None:
            cfg.model.vision.name = vision.facts.hub.removeprefix("timm/")
        if "adapter" in here:
            cfg.model.text.adapter = None
            cfg.model.text.lora.rank = _rank(here["adapter"])
        notes = io.StringIO() if text.folder is None else None  # of the stand-in's tokenizer
        with contextlib.redirect_stderr(notes) if notes else contextlib.nullcontext(), torch.device("meta"):
            model = make_model(cfg, schema, pretrained=False)
        head, table = model.text.get_output_embeddings(), model.text.get_input_embeddings()
        untied = config["model_type"] in UNTIED and config.get("tie_word_embeddings") is False
        if untied and head is not None and head.weight is table.weight:
            head.weight = nn.Parameter(torch.empty_like(table.weight), table.weight.requires_grad)
        yield model


def _put(part: TextConfig | VisionConfig, folder: Path, scheme: str = "") -> None:
    """Put a folder in the place of a checkpoint's name."""
    part.name, part.revision = f"{scheme}{folder}", None


def _rank(adapter: Weights) -> int:
    """Return the rank of an adapter; 16 where it is not known."""
    if adapter.folder is None:
        return 16
    return int(read_json(adapter.folder / ADAPTER_CONFIG).get("r", 16))
