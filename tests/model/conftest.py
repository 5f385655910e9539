"""Models of small random checkpoints, and batches for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import Masking, User
from mmprofile.model.build import build_model
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from tests.support.hubmodels import CHECKPOINTS, INPUTS


@pytest.fixture(scope="module")
def hub_folders(
    schema: Schema,
    schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A small random checkpoint of each kind, in the hub's layout."""
    tokenizer, folders = schema_tokenizer(schema), {}
    for name, new in CHECKPOINTS.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        model = new(len(tokenizer))
        with torch.no_grad():  # as they are initialised, all tokens are about as likely
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    shape = {"height": 32, "width": 32}
    CLIPImageProcessor(size=shape, crop_size=shape).save_pretrained(folders["llava"])
    return folders


@pytest.fixture(scope="module")
def hub_model(hub_folders: dict[str, Path], vit_folder: Path, schema: Schema) -> Callable[..., ProfileModel]:
    """``hub_model(kind, fusion, tokens, target, **text)`` -> a model of the checkpoint in evaluation mode."""

    def build(
        kind: str, fusion: str = "none", tokens: str = "cls", target: str = "profile", inputs: Any = INPUTS, **text: Any
    ) -> ProfileModel:
        vision = {"name": f"local-dir:{vit_folder}", "tokens": tokens, "grid": 2, "trainable": True}
        torch.manual_seed(3)
        return build_model(
            text={"name": str(hub_folders[kind]), **text},
            vision=None if fusion == "none" else vision,
            fusion={"kind": fusion},
            schema=schema,
            inputs=inputs,
            vocabulary="full",
            target=target,
        ).eval()

    return build


@pytest.fixture(scope="module")
def collate(photos: dict[str, np.ndarray]) -> Callable[..., Batch]:
    def batch(model: ProfileModel, users: list[User], *views: Any, inputs: Any = INPUTS, **masking: float) -> Batch:
        return model.collator(inputs, photos.__getitem__, Masking(**masking), 0)(users, views)

    return batch
