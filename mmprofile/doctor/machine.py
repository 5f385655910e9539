"""This machine: packages, processor, memory, accelerators and disks."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mmprofile.config.settings import TrainerConfig
from mmprofile.errors import UserError
from mmprofile.files import size
from mmprofile.model.memory import memory
from mmprofile.train.devices import choose_device

PACKAGES = ("torch", "transformers", "timm", "pytorch-lightning")


@dataclass(frozen=True)
class Device:
    """What a run would compute on.

    Attributes:
        kind: cpu, cuda, mps or another accelerator of Lightning.
        count: how many of them on this machine.
        name: what it is called.
        memory, free: of one of them, in bytes; None where it is not known.
    """

    kind: str
    count: int
    name: str
    memory: int | None
    free: int | None


def packages() -> str:
    """Return the versions that matter."""
    installed = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"python {platform.python_version()}, mmprofile {version('mmprofile')}, {installed}"


def package(name: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def gpus() -> list[str]:
    """Return a line for each GPU: its name, its memory, and whether it computes in bfloat16."""
    lines = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        lines.append(f"GPU {number}: {facts.name}, {size(facts.total_memory)}, {'bf16' if half else 'no bf16'}")
    if torch.backends.mps.is_available():
        lines.append("MPS (Apple GPU, shares the machine's memory)")
    return lines


def chosen_device(trainer: TrainerConfig) -> Device:
    """Return the device that Lightning's Trainer would take.

    Raises:
        UserError: it is not here, or not so many of it.
    """
    kind = choose_device(trainer)
    if kind == "cuda":
        count = torch.cuda.device_count()
        free, total = torch.cuda.mem_get_info()
        return Device(kind=kind, count=count, name=torch.cuda.get_device_name(), memory=total, free=free)
    total_memory, free_memory = memory()
    return Device(kind=kind, count=1, name=platform.processor() or kind, memory=total_memory, free=free_memory)


def disk(path: Path) -> tuple[Path, int]:
    """Return the first folder above a path, or the path, that is there, and the bytes that are free on its disk.

    Raises:
        UserError: nothing can be written there.
    """
    path = path.expanduser().absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"{path}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{path}: {there} cannot be written to; choose another folder")
    return there, shutil.disk_usage(there).free
