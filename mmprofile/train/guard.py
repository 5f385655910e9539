"""Steps that cannot be taken: a loss or gradients that are no number, and a batch that does not fit into memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.files import whole
from mmprofile.inputs.batch import Batch

ON_NAN = ("stop", "skip")
SHOWN = 3
"""Users whose ids are in the message; all are in the file."""
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


def check_on_nan(on_nan: str) -> None:
    """Refuse an unknown word.

    Raises:
        UserError: names those that there are.
    """
    if on_nan not in ON_NAN:
        raise UserError(f"trainer.on_nan={on_nan!r} is not one of {', '.join(ON_NAN)}")


class StepGuard:
    """Looks at every step's loss and gradients before they change the model.

    Args:
        folder: of the run, where the batch of a step that stops the training is saved; None: it is not saved.
        on_nan: ``stop`` the training, or ``skip`` the step and count it.

    Raises:
        UserError: another word.
    """

    def __init__(self, folder: Path | None = None, on_nan: str = "stop") -> None:
        check_on_nan(on_nan)
        self.folder, self.on_nan = folder, on_nan
        self.skipped = 0
        self.batch: Any = None
        self.losses: Mapping[str, Tensor] = {}

    def allows(self, step: int, norm: Tensor, rank: int = 0) -> bool:
        """Return whether a step may change the model: its losses and gradients are finite. Otherwise it is counted.

        Args:
            step: its number, from 1.
            norm: a scalar, of the gradients of all ranks: so all ranks agree.
            rank: of this process.

        Raises:
            UserError: the step is no number, and the training is to stop.
        """
        if torch.isfinite(norm):
            return True
        if self.on_nan == "skip":
            self.skipped += 1
            return False
        wrong = [
            f"the loss of the view {name} is {float(loss)}" for name, loss in self.losses.items() if not loss.isfinite()
        ]
        what = wrong[0] if wrong else f"the norm of the gradients is {float(norm)}, though the losses are finite"
        users = self.batch.users if isinstance(self.batch, Batch) else []
        who = f" (users {', '.join(users[:SHOWN])}{', ...' if len(users) > SHOWN else ''})" if users else ""
        saved = (
            f"; the batch is saved in {self._save(step, rank)}" if isinstance(self.batch, Batch) and self.folder else ""
        )
        raise UserError(
            f"step {step}: {what}{who}{saved}: lower optim.lr_pretrained and optim.lr_new, or leave such steps out by "
            f"trainer.on_nan=skip"
        )

    def _save(self, step: int, rank: int) -> Path:
        """Write the batch as plain tensors and texts, which ``torch.load`` reads with ``weights_only``."""
        assert self.folder is not None
        path = self.folder / f"step-{step}-rank-{rank}.pt"
        values = {field.name: getattr(self.batch, field.name) for field in fields(self.batch)}
        plain = {name: value.cpu() for name, value in values.items() if isinstance(value, Tensor)}
        views = [view.name for view in self.batch.views]
        losses = {name: float(loss) for name, loss in self.losses.items()}
        with whole(path) as partial:
            torch.save({"step": step, "users": self.batch.users, "views": views, "losses": losses, **plain}, partial)
        return path

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what a step can fail of into one line: memory, or a process that makes batches.

        Raises:
            UserError: one of these.
        """
        try:
            yield
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            reason = str(error)
            if isinstance(error, torch.OutOfMemoryError) or any(text in reason for text in _NO_MEMORY):
                place = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "this machine"
                raise UserError(
                    f"{place} has too little memory for a batch of {self._shape()}: lower loader.micro_batch_size, which "
                    f"changes no result, or inputs.max_tokens"
                ) from error
            if "DataLoader worker" in reason:
                raise UserError(
                    "a process that makes batches was killed, perhaps since memory was short: run the same command again, "
                    "with fewer of them (loader.workers=0)"
                ) from error
            raise

    def _shape(self) -> str:
        batch = self.batch
        if not isinstance(batch, Batch):
            return "reviews"
        texts, tokens = batch.text_ids.shape
        views = len(batch.views)
        return (
            f"{len(batch.users)} users in {views} views ({texts} texts of {tokens} tokens, {len(batch.photos)} photos)"
        )
