"""Weights from a hub or a folder: their names, precisions and fingerprints, and a one-line error if they cannot be loaded."""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from mmprofile.errors import UserError
from mmprofile.model.tiny_llava import tiny_llava
from mmprofile.paths import ASSETS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
ENDS = 1 << 20  # bytes at both ends of a weights file that tell it from another of the same size
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def local_name(name: str, scheme: str = "") -> str:
    """Return the folder inside this package for a name like ``mmprofile:tiny/text``; any other name as it is.

    Args:
        name: hub id, folder, or ``mmprofile:...``.
        scheme: written in front of the folder.
    """
    if name == "mmprofile:tiny/llava":
        return str(tiny_llava())
    return f"{scheme}{ASSETS / name.removeprefix('mmprofile:')}" if name.startswith("mmprofile:") else name


@contextmanager
def loading(key: str, name: str) -> Iterator[None]:
    """Turn the errors of loading ``name`` into one line.

    Raises:
        UserError: says what the setting ``key`` must be.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{key}={name!r} cannot be loaded ({type(error).__name__}: {str(error)[:160]}). It must be a hub id "
            f"or a local folder. Offline? Fetch it on a machine with network (`hf download {name}`), copy the "
            f"folder here and set {key}=/path/to/folder"
        ) from error


def cache_name(model: Any) -> str:
    """Return the name of a model's argument for cached states; transformers 5.2x renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def fingerprint(folder: Path) -> str:
    """Return a hash of a local model: of its small files, and of the size and both ends of its weights."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix in (".json", ".txt", ".model", *WEIGHTS)
    ):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(ENDS))
            if path.suffix in WEIGHTS:
                file.seek(max(0, path.stat().st_size - ENDS))
            digest.update(file.read())
    return f"local-{digest.hexdigest()[:16]}"


def choose_dtype(asked: str, accelerator: str) -> str:
    """Return a precision by name; ``auto``: bfloat16 on a GPU that has it, float16 on another GPU, float32 on a CPU.

    Args:
        asked: ``auto`` or one of :data:`DTYPES`.
        accelerator: as Lightning's Trainer takes it.

    Raises:
        UserError: an unknown precision, or int8 without bitsandbytes or a GPU.
    """
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if asked == "auto":
        half = "bfloat16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return half if gpu else "float32"
    if asked not in DTYPES:
        raise UserError(f"dtype={asked!r} is not one of auto, {', '.join(DTYPES)}")
    if asked == "int8" and (not gpu or find_spec("bitsandbytes") is None):
        raise UserError("dtype=int8 needs an NVIDIA GPU and bitsandbytes (pip install bitsandbytes); else dtype=auto")
    return asked
