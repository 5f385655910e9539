"""Lightning's Trainer as we set it up: when it stops, what it keeps, and how it goes on."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmprofile.config.settings import TrainerConfig
from mmprofile.errors import UserError
from mmprofile.train.loop import fit, load_weights, make_trainer
from mmprofile.train.module import Learner
from tests.support.optimizers import optim_config

pytestmark = pytest.mark.fast

SCORES = [50.0, 40.0, 45.0, 46.0, 47.0, 48.0, 49.0]


class Scripted(Learner):
    """A module whose validation scores are written down."""

    def __init__(self, scores: Sequence[float] = SCORES) -> None:
        super().__init__(optim_config(), steps=20)
        self.weight, self.scores = nn.Parameter(torch.ones(1)), scores

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = (self.weight * batch).square().sum()
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        """Nothing to do."""

    def on_validation_epoch_end(self) -> None:
        self.end_epoch(self.scores[self.current_epoch], {"validation_loss_paired": 0.5})

    def configure_optimizers(self) -> Any:
        return self.adam([], [self.weight])


class Numbers(pl.LightningDataModule):
    """Two steps an epoch."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.arange(1.0, 5.0), batch_size=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.arange(1.0, 3.0), batch_size=2)


def train(folder: Path, epochs: int) -> tuple[Scripted, pl.Trainer]:
    settings = TrainerConfig(
        accelerator="cpu",
        devices=1,
        strategy="auto",
        num_nodes=1,
        precision="32-true",
        max_epochs=epochs,
        patience=3,
        gradient_clip=1.0,
        checkpoint_every=1,
        progress=False,
    )
    module, trainer = Scripted(), make_trainer(settings, folder, "32-true")
    fit(trainer, module, Numbers(), folder)
    return module, trainer


def names_of_earlier_versions(path: Path) -> None:
    """Rename what is called validation in a checkpoint to dev, as it was."""
    checkpoint = torch.load(path, weights_only=True)
    progress, states = checkpoint["progress"], checkpoint["callbacks"]
    progress["history"] = [{k.replace("validation_", "dev_"): v for k, v in row.items()} for row in progress["history"]]
    checkpoint["callbacks"] = {
        key.replace("validation/macro_f1", "dev/macro_f1"): state for key, state in states.items()
    }
    assert sum("dev/macro_f1" in key for key in checkpoint["callbacks"]) == 2  # early stopping, the best checkpoint
    assert "dev_macro_f1" in progress["history"][0]
    torch.save(checkpoint, path)


@pytest.mark.parametrize("old", [False, True])
def test_a_resumed_run_knows_its_best_epoch_and_its_patience(
    old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After 50, 40 | 45, 46 the patience of 3 is at its end; what began anew would see 45, 46, 47, ... get better."""
    train(tmp_path, 2)
    assert "epoch   1/2   loss 14.9994   validation macro-F1 50.00   " in capsys.readouterr().out
    if old:
        names_of_earlier_versions(tmp_path / "checkpoints" / "last.ckpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Be aware that when using `ckpt_path`")  # states that no callback takes
        module, _ = train(tmp_path, 7)
    assert [row["validation_macro_f1"] for row in module.history] == SCORES[:4]
    assert [row["epoch"] for row in module.history] == [1, 2, 3, 4]
    assert list(module.history[0]) == list(module.history[3])
    assert not any("dev" in name for row in module.history for name in row)
    printed = capsys.readouterr().out
    assert "continuing from" in printed
    assert "validation macro-F1 45.00" in printed
    assert "best" not in printed.replace("best.ckpt", "")
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 0


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    module, _ = train(tmp_path, 1)
    best = tmp_path / "checkpoints" / "best.ckpt"
    trained = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.zero_()
    load_weights(module, best)
    assert torch.equal(module.weight, trained)
    module.other = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match=r"best\.ckpt does not fit the model: other; delete the run's folder"):
        load_weights(module, best)
