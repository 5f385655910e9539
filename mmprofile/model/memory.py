"""The memory of this machine, and what of it a causal model takes that answers."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def memory() -> tuple[int | None, int | None]:
    """Return the memory of this machine, or what its container may use of it, and what of it is free; in bytes."""
    total = free = None
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows; macOS does not tell what is free
        pass
    facts = _lines("/proc/meminfo")
    if "MemAvailable" in facts:  # what caches give back counts as free
        free = int(facts["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return total, free
    if limit.isdigit() and total is not None and int(limit) < total:
        total = int(limit)
        free = min(free or total, max(total - used, 0))
    return total, free


def _lines(path: str) -> dict[str, str]:
    """Return the lines ``key: value`` of a file; nothing where there is no such file."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def answering_memory(config: Any, dtype: torch.dtype, rows: int, tokens: int) -> tuple[int, int]:
    """Return the bytes of a causal model's weights, and of the keys and values that it keeps while it answers.

    The model is built without numbers. Layers that see a part of the text only are counted as if they saw all of it.

    Args:
        config: of transformers.
        dtype: of the weights.
        rows: texts that are answered together.
        tokens: of the longest, prompt and answer.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if heads is None:
        return weights, 0
    keys = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return weights, 2 * text.num_hidden_layers * keys * width * tokens * rows * dtype.itemsize
