"""The device and the precision of a training, refused in one line where this machine does not have them."""

from typing import Any

import torch

from mmprofile.config.settings import TrainerConfig
from mmprofile.errors import UserError
from mmprofile.model.checkpoints import check_bfloat16, has_bfloat16, on_gpu

FSDP = "fsdp"
"""The strategy that spreads a model, its gradients and Adam's moments over the processes (``fully_shard`` of torch)."""


def choose_device(trainer: TrainerConfig) -> str:
    """Return the kind of device that Lightning's Trainer takes: ``cpu``, ``cuda``, ``mps`` or what else is asked for.

    Raises:
        UserError: it is not here, or not so many of it.
    """
    kind = asked = str(trainer.accelerator)
    if asked in ("auto", "gpu"):
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if (asked == "gpu" and kind == "cpu") or (kind == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"trainer.accelerator={asked}: torch finds no GPU here; take trainer=cpu or trainer=auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            f"trainer.accelerator={asked}: torch finds no such device here; take trainer=cpu or trainer=auto"
        )
    if str(trainer.strategy).startswith("fsdp_"):
        raise UserError(f"trainer.strategy={trainer.strategy}: give fsdp, without an ending")
    count = torch.cuda.device_count()
    if kind == "cuda" and _wanted(trainer.devices) > count:
        raise UserError(f"trainer.devices={trainer.devices}: there are {count} GPUs here; ask for that many at most")
    return kind


def _wanted(devices: Any) -> int:
    """Return how many devices ``trainer.devices`` asks for at least."""
    if isinstance(devices, int):
        return max(devices, 1)
    if isinstance(devices, str):
        return int(devices) if devices.isdigit() else 1
    return max((int(number) + 1 for number in devices), default=1)


def choose_precision(asked: str, accelerator: str) -> str:
    """Return Lightning's precision; ``auto`` is bf16-mixed where the device has it, else 32-true.

    Raises:
        UserError: fp16 is asked for, in which T5 gives NaN, or bf16 on a GPU that lacks it.
    """
    if "16" in str(asked) and "bf16" not in str(asked):
        raise UserError(f"trainer.precision={asked}: T5 overflows to NaN in fp16; use bf16-mixed, 32-true or auto")
    if asked != "auto":
        check_bfloat16("trainer.precision", str(asked), accelerator, "32-true or auto")
        return str(asked)
    return "bf16-mixed" if on_gpu(accelerator) and has_bfloat16(accelerator) else "32-true"
