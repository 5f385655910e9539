"""Checkpoints of transformers on this machine: their files, and how they are loaded, or refused in one line.

:mod:`mmprofile.model.hub` finds or fetches them.
"""

import hashlib
import inspect
import pickle
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoConfig, AutoTokenizer

from mmprofile.errors import UserError
from mmprofile.files import read_json
from mmprofile.model.tiny_llava import tiny_llava
from mmprofile.paths import ASSETS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
ENDS = 1 << 20  # bytes at both ends of a weights file that tell it from another of the same size
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
MODEL_WEIGHTS = (
    "model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
"""The files of a model's weights that the hub's libraries write, those first that they prefer."""
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tekken.json",
)  # fmt: skip
SMALL_VOCABULARY = 0.9
"""A tokenizer with fewer tokens than this share of the embeddings is noted. Published models pad by a few per cent."""
MOST_PARAMETERS, SMALL_MODEL = 4, 1_000_000
"""Parameters for each byte of a model's weights, and those that are always allowed. A parameter takes half a byte or more."""
LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
"""Nothing is asked of a hub, no code of a checkpoint is run, and no question is put to the user."""


class Checkpoint(NamedTuple):
    """A checkpoint on this machine.

    Attributes:
        key: the setting that names it, for error messages.
        name: hub id, or path of a folder.
        folder: where its files are.
        commit: of its repository on the hub; None for a folder of one's own.
    """

    key: str
    name: str
    folder: Path
    commit: str | None

    def refuse(self, reason: str) -> UserError:
        """Return the one-line error that says why it cannot be loaded."""
        return UserError(f"{self.key}={self.name!r} cannot be loaded: {reason}")


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
def loading(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn the errors of loading a checkpoint into one line.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise checkpoint.refuse(
            "its .bin file is damaged, or holds more than tensors, which could run code and is not unpickled; fetch it "
            "again, or take a checkpoint in safetensors"
        ) from error
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            raise checkpoint.refuse(
                "it needs code of its own (auto_map in its .json files), and code of a checkpoint is never run here; take "
                "one whose architecture transformers has"
            ) from error
        again = f"fetch it again (hf download {checkpoint.name})" if checkpoint.commit else "copy the folder again"
        raise UserError(
            f"{checkpoint.key}={checkpoint.name!r} cannot be loaded ({type(error).__name__}: {reason[:160]}). If a file is "
            f"damaged, {again}; else set {checkpoint.key} to another hub id or folder"
        ) from error


def load_config(checkpoint: Checkpoint, **options: Any) -> Any:
    """Return a checkpoint's configuration.

    Raises:
        UserError: it cannot be loaded.
    """
    with loading(checkpoint):
        config: Any = AutoConfig.from_pretrained(str(checkpoint.folder), **LOCAL, **options)
    config.name_or_path = checkpoint.name  # transformers mends some tokenizers by their hub id
    return config


def load_tokenizer(checkpoint: Checkpoint, config: Any, **options: Any) -> Any:
    """Return a checkpoint's tokenizer.

    Args:
        checkpoint: what to load.
        config: its configuration.
        options: of the tokenizer.

    Raises:
        UserError: there is none, or it has more tokens than the model has embeddings.
    """
    folder = checkpoint.folder
    if not any((folder / name).is_file() for name in TOKENIZERS) and not any(folder.glob("*.tiktoken")):
        raise checkpoint.refuse(
            f"it has no tokenizer ({', '.join(TOKENIZERS[:3])}, ...); copy the tokenizer's files of its base model into "
            f"{folder}"
        )
    with loading(checkpoint):
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), config=config, **LOCAL, **options)
    ids = max(tokenizer.get_vocab().values(), default=-1) + 1
    rows = getattr(config.get_text_config(), "vocab_size", ids)
    if ids > rows:
        raise checkpoint.refuse(
            f"its tokenizer has {ids:,} tokens, its model {rows:,} embeddings; the tokenizer is that of another model"
        )
    if ids < SMALL_VOCABULARY * rows:
        print(
            f"note: {checkpoint.key}={checkpoint.name!r}: the tokenizer has {ids:,} tokens, the model {rows:,} embeddings; "
            "is it that of another model?",
            file=sys.stderr,
        )
    return tokenizer


def load_model(auto_class: Any, checkpoint: Checkpoint, head: bool = False, **options: Any) -> tuple[Any, set[str]]:
    """Load a model; every weight is the checkpoint's, none is left random.

    Args:
        auto_class: of transformers, whose ``from_pretrained`` is called.
        checkpoint: what to load.
        head: whether the model has a new head, which the checkpoint need not have.
        options: of ``from_pretrained``.

    Returns:
        The model, and the names of the new head's weights.

    Raises:
        UserError: it cannot be loaded, or lacks weights.
    """
    check_weights(checkpoint)
    weights = [path for path in checkpoint.folder.iterdir() if path.suffix in WEIGHTS]
    with loading(checkpoint), in_proportion(weights):
        model, report = auto_class.from_pretrained(str(checkpoint.folder), output_loading_info=True, **LOCAL, **options)
    missing = set(report["missing_keys"])
    body = f"{model.base_model_prefix}."
    new = {key for key in missing if not key.startswith(body) or "pooler" in key} if head else set()
    if lost := sorted(missing - new):
        raise checkpoint.refuse(
            f"{len(lost)} of its weights are missing ({lost[0]}, ...) and would be random; it is incomplete, or of another "
            "architecture than its config.json says"
        )
    return model, new


@contextmanager
def in_proportion(weights: Iterable[Path]) -> Iterator[None]:
    """Let no larger model be built than its weights can fill: a small file that describes one would take all memory.

    A model may have parameters that its weights have once, or not at all: tied ones, and a decoder that is removed.

    Args:
        weights: its files. Nothing is limited where they are not there.

    Raises:
        RuntimeError: the model has more than :data:`MOST_PARAMETERS` for each byte.
    """
    size = sum(path.stat().st_size for path in weights if path.is_file())
    left = MOST_PARAMETERS * size + SMALL_MODEL

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if size and left < 0:
            raise RuntimeError(f"it has more than {MOST_PARAMETERS} parameters for each byte of its weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def check_weights(checkpoint: Checkpoint, forms: Iterable[str] = MODEL_WEIGHTS) -> None:
    """Check that a checkpoint has its weights, every shard of them.

    Args:
        checkpoint: what is to be loaded.
        forms: names that its weights may have.

    Raises:
        UserError: some are missing.
    """
    if lacking := missing_weights(checkpoint.folder, forms):
        again = f"fetch it again (hf download {checkpoint.name})" if checkpoint.commit else "copy the folder again"
        raise checkpoint.refuse(f"{checkpoint.folder} has no {lacking}; {again}")


def missing_weights(folder: Path, forms: Iterable[str] = MODEL_WEIGHTS) -> str | None:
    """Return which file of weights a folder lacks; None if it has all.

    Args:
        folder: of a checkpoint.
        forms: see :func:`check_weights`.
    """
    forms = tuple(forms)
    files = weight_files((path.name for path in folder.iterdir() if path.is_file()), forms)
    if not files:
        return f"weights ({forms[0]}, or shards with their index)"
    if not files[0].endswith(".index.json"):
        return None
    try:
        shards = set(read_json(folder / files[0])["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"readable {files[0]}"
    return min((shard for shard in shards if not (folder / shard).is_file()), default=None)


def weight_files(names: Iterable[str], forms: Iterable[str] = MODEL_WEIGHTS) -> list[str]:
    """Return the files of weights that are loaded among all files of a checkpoint: one file, or an index and its shards."""
    present = set(names)
    for form in forms:
        if form in present:
            return [form]
        if (index := f"{form}.index.json") in present:
            stem, _, suffix = form.rpartition(".")
            shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}")
            return [index, *sorted(name for name in present if shard.fullmatch(name))]
    return []


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


def on_gpu(accelerator: str) -> bool:
    """Whether an accelerator, as Lightning's Trainer takes it, is an NVIDIA or AMD GPU that is there."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def has_bfloat16(accelerator: str) -> bool:
    """Whether the device computes in bfloat16 itself. A CPU counts: torch computes in bfloat16 on every one."""
    return not on_gpu(accelerator) or torch.cuda.is_bf16_supported(including_emulation=False)


def check_bfloat16(key: str, asked: str, accelerator: str, instead: str) -> None:
    """Refuse bfloat16 on a GPU that does not have it.

    Args:
        key: the setting.
        asked: its value: any precision.
        accelerator: as Lightning's Trainer takes it.
        instead: the value to use there.

    Raises:
        UserError: the device lacks it.
    """
    if ("bf16" in asked or "bfloat16" in asked) and not has_bfloat16(accelerator):
        raise UserError(f"{key}={asked}: {torch.cuda.get_device_name()} does not compute in bfloat16; use {instead}")


def choose_dtype(asked: str, accelerator: str, key: str = "dtype") -> str:
    """Return a precision by name; ``auto``: bfloat16 on a GPU that has it, float16 on another GPU, float32 on a CPU.

    Args:
        asked: ``auto`` or one of :data:`DTYPES`.
        accelerator: as Lightning's Trainer takes it.
        key: the setting, for error messages.

    Raises:
        UserError: an unknown precision, int8 without bitsandbytes or a GPU, or bfloat16 on a GPU that lacks it.
    """
    gpu = on_gpu(accelerator)
    if asked == "auto":
        half = "bfloat16" if has_bfloat16(accelerator) else "float16"
        return half if gpu else "float32"
    if asked not in DTYPES:
        raise UserError(f"{key}={asked!r} is not one of auto, {', '.join(DTYPES)}")
    if asked == "int8" and (not gpu or find_spec("bitsandbytes") is None):
        raise UserError(f"{key}=int8 needs an NVIDIA GPU and bitsandbytes (pip install bitsandbytes); else {key}=auto")
    check_bfloat16(key, asked, accelerator, "float32, or float16 where nothing is trained")
    return asked
