"""A training that is watched: what passes through the model is kept, nothing is changed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from mmprofile.config.compose import load_config
from mmprofile.inputs.batch import Batch
from mmprofile.model.fusion import CrossAttention, Fused
from mmprofile.model.losses import Output
from mmprofile.model.model import ProfileModel
from mmprofile.train import run as train


@dataclass
class Watched:
    """A training that was watched.

    Attributes:
        folder: the run's.
        words: of its command, without name and out.
        batches, outputs: what the model was given in each step, and what it returned.
        fusions: weights, inputs and output of the fusion in the last step.
        beams: those that profiles were written with, in order.
    """

    folder: Path
    words: list[str]
    batches: list[Batch] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    fusions: list[tuple[dict[str, Tensor], tuple[Tensor, ...], Fused]] = field(default_factory=list)
    beams: list[int | None] = field(default_factory=list)


def detached(values: Any) -> Any:
    """A named tuple of tensors without their graphs."""
    return type(values)(*(part.detach() if isinstance(part, Tensor) else part for part in values))


def watch(words: list[str], folder: Path) -> Watched:
    """Train by a command's words into a folder, in this process."""
    seen = Watched(folder, words)
    forward, generate, fuse = ProfileModel.forward, ProfileModel.generate, CrossAttention.forward

    def watched_forward(model: ProfileModel, batch: Batch, gates: bool = False) -> Output:
        if model.training:
            seen.fusions.clear()
        output = forward(model, batch, gates)
        if model.training:
            seen.batches.append(batch)
            seen.outputs.append(detached(output))
        return output

    def watched_fusion(fusion: CrossAttention, *inputs: Tensor) -> Fused:
        fused = fuse(fusion, *inputs)
        if fusion.training:
            weights = {name: weight.detach().clone() for name, weight in fusion.named_parameters()}
            seen.fusions.append((weights, tuple(part.detach() for part in inputs), detached(fused)))
        return fused

    def watched_generate(model: ProfileModel, batch: Batch, beams: int | None = None) -> list[str]:
        seen.beams.append(beams)
        return generate(model, batch, beams)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProfileModel, "forward", watched_forward)
        patch.setattr(ProfileModel, "generate", watched_generate)
        patch.setattr(CrossAttention, "forward", watched_fusion)
        train.main(load_config("train", [*words, f"name={folder.name}", f"out={folder.parent}"]))
    return seen


def view_row(batch: Batch, user: int, view: str) -> int:
    number = [v.name for v in batch.views].index(view)
    [row] = ((batch.row_user == user) & (batch.row_view == number)).nonzero().flatten().tolist()
    return int(row)


def view_ids(batch: Batch, user: int, view: str) -> list[int]:
    places = batch.row_tokens[view_row(batch, user, view)]
    return batch.text_ids.flatten()[places[places >= 0]].tolist()


def view_photos(batch: Batch, user: int, view: str) -> list[int]:
    row = view_row(batch, user, view)
    return batch.row_photos[row][batch.row_photo_mask[row]].tolist()
