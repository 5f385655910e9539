"""A training whose validation scores are written down, two steps an epoch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from mmprofile.config.settings import TrainerConfig
from mmprofile.train.guard import StepGuard
from mmprofile.train.loop import fit, make_trainer
from mmprofile.train.module import Learner
from tests.support.optimizers import optim_config

SCORES = [50.0, 40.0, 45.0, 46.0, 47.0, 48.0, 49.0]


class Scripted(Learner):
    """A module whose validation scores are written down.

    Args:
        scores: of the epochs.
        events: (``step`` or ``validation``, epoch, step of the epoch) -> what to do there, returning what the loss is
            multiplied by, or None.
        guard: see :class:`Learner`.
    """

    def __init__(
        self,
        scores: Sequence[float] = SCORES,
        events: dict[tuple[str, int, int], Callable[[], float | None]] | None = None,
        guard: StepGuard | None = None,
    ) -> None:
        super().__init__(optim_config(), steps=20, guard=guard)
        self.weight, self.scores, self.events = nn.Parameter(torch.ones(1)), scores, events or {}

    def event(self, kind: str, index: int) -> float:
        """Do what is planned here, once."""
        happens = self.events.pop((kind, self.current_epoch, index), None)
        factor = happens() if happens else None
        return 1.0 if factor is None else factor

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = (self.weight * batch).square().sum() * self.event("step", index)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.event("validation", index)

    def on_validation_epoch_end(self) -> None:
        self.end_epoch(self.scores[self.current_epoch], {"validation_loss_paired": 0.5})

    def configure_optimizers(self) -> Any:
        return self.adam([], [self.weight])


class Numbers(pl.LightningDataModule):
    """Two steps an epoch."""

    def train_dataloader(self) -> DataLoader:
        return StatefulDataLoader(torch.arange(1.0, 5.0), batch_size=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.arange(1.0, 3.0), batch_size=2)


def settings(epochs: int, every: int = 1) -> TrainerConfig:
    return TrainerConfig(
        accelerator="cpu",
        devices=1,
        strategy="auto",
        num_nodes=1,
        precision="32-true",
        max_epochs=epochs,
        patience=3,
        gradient_clip=1.0,
        checkpoint_every=every,
        progress=False,
    )


def train(folder: Path, epochs: int, every: int = 1, module: Scripted | None = None) -> tuple[Scripted, pl.Trainer]:
    """Train, or go on, in a folder."""
    module = module or Scripted()
    trainer = make_trainer(settings(epochs, every), folder, "32-true")
    fit(trainer, module, Numbers(), folder)
    return module, trainer
