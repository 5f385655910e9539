"""Photo encoders as timm publishes them, and miniatures of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from tests.support.published.checkpoint import Published
from tests.support.published.text import write_json

MINIATURE = {"embed_dim": 24, "depth": 2, "num_heads": 2}
"""The sizes of a miniature; patches, prefix tokens and the photo's size stay as published."""
QUICK_GELU = "vit_base_patch16_clip_quickgelu_224.openai"
"""timm's name for CLIP's encoder with the activation that it was trained with; the hub has its weights under the other name."""


def save_vision(
    published: Published,
    folder: Path,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    *,
    file: str = "model.safetensors",
    **changes: Any,
) -> None:
    """Write a random miniature of a published photo encoder, with its head.

    Args:
        published: one of :data:`VISION`.
        folder: to write to.
        texts: of no use here.
        seed: of the weights.
        file: ``model.safetensors``, or ``pytorch_model.bin`` as older checkpoints have it.
        changes: of ``pretrained_cfg``: another ``input_size``, for instance.
    """
    config = published.config
    settings = config["pretrained_cfg"] | changes
    torch.manual_seed(seed)
    vit = timm.create_model(
        config["architecture"], num_classes=config["num_classes"], img_size=settings["input_size"][-1], **MINIATURE
    )
    with torch.no_grad():  # as it is initialised, most of its parts hardly matter
        for parameter in vit.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    if file.endswith(".safetensors"):
        save_file(vit.state_dict(), folder / file)
    else:
        torch.save(vit.state_dict(), folder / file)
    small = {"num_features": MINIATURE["embed_dim"], "pretrained_cfg": settings, "model_args": MINIATURE}
    write_json(folder / "config.json", config | small)


VISION = [
    Published(f"timm/{name}", "vision", "Apache-2.0", None, save_vision)
    for name in (
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "vit_large_patch16_224.augreg_in21k_ft_in1k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "deit_base_distilled_patch16_224.fb_in1k",
        "vit_base_patch14_reg4_dinov2.lvd142m",
        "vit_base_patch16_clip_224.openai",
        "vit_base_patch16_siglip_224.webli",
    )
]
