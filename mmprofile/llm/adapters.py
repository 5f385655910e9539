"""Low-rank adapters of students, which lie in a folder of their own and name the model that they belong to, and 4-bit weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig

from mmprofile.config.llm_settings import StudentConfig
from mmprofile.errors import UserError
from mmprofile.files import read_json
from mmprofile.model.backbones import load_adapter
from mmprofile.model.checkpoints import ADAPTER_CONFIG, Checkpoint, choose_dtype, fingerprint
from mmprofile.model.hub import fetch

ADAPTER = "adapter"
"""The folder of the adapter in a student's folder."""


def identity(checkpoint: Checkpoint) -> str:
    """Return what tells a model from another of the same name: its commit on the hub, or a hash of its folder."""
    return checkpoint.commit or fingerprint(checkpoint.folder)


def base_of(adapter: Path) -> Checkpoint:
    """Return the model that an adapter was trained on.

    Raises:
        UserError: the adapter does not say, or the model is not there or is another one now.
    """
    path = adapter / ADAPTER_CONFIG
    try:
        settings = read_json(path)
        name, revision = str(settings["base_model_name_or_path"]), settings["revision"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say what the adapter was trained on ({error!r}); train it again") from error
    key = f"{path}: base_model_name_or_path"
    base = fetch(name, key, None if str(revision).startswith("local-") else revision)
    if identity(base) != revision:
        raise UserError(f"{key}={name!r} is not the model that the adapter was trained on any more; train it again")
    return base


def open_adapter(model: Any, base: Checkpoint, student: Path) -> PeftModel:
    """Return the peft model around a base, whose linear maps are changed in place.

    Args:
        model: the base.
        base: where it comes from.
        student: the folder that has the adapter.

    Raises:
        UserError: the adapter cannot be loaded.
    """
    return load_adapter(model, base.name, Checkpoint("student", str(student), student / ADAPTER, None))


def save_adapter(adapted: PeftModel, base: Checkpoint, student: Path) -> None:
    """Save the adapter in a student's folder, with the name and the identity of its base."""
    settings = adapted.peft_config["default"]
    local = Path(base.name).expanduser()
    settings.base_model_name_or_path = str(local.resolve() if local.is_dir() else base.name)
    settings.revision = identity(base)
    # The embeddings are the base's; by default peft would ask the hub about them.
    adapted.save_pretrained(str(student / ADAPTER), save_embedding_layers=False, selected_adapters=["default"])


def check_bits(settings: StudentConfig) -> None:
    """Refuse 4-bit weights where they cannot be.

    Raises:
        UserError: there is no NVIDIA GPU, or no bitsandbytes.
    """
    if settings.bits and not (torch.cuda.is_available() and find_spec("bitsandbytes")):
        raise UserError(
            f"students.*.bits={settings.bits} needs an NVIDIA GPU and bitsandbytes (pip install bitsandbytes); else give null"
        )


def four_bits() -> BitsAndBytesConfig:
    """Return the quantization of QLoRA (Dettmers et al., 2023): NormalFloat, with its constants quantized as well."""
    dtype = getattr(torch, choose_dtype("auto", "cuda"))
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
