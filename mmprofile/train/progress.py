"""Progress of a training on the terminal: a bar within an epoch, one line after it."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar

from mmprofile.train.module import Learner


class StepBar(TQDMProgressBar):
    """Lightning's bar without a second one for validation; hidden where standard error is no terminal."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0, leave=False)

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        """Return the figures beside the bar, without the version number that Lightning adds."""
        metrics = super().get_metrics(trainer, module)
        metrics.pop("v_num", None)
        return metrics


class EpochLines(Callback):
    """One printed line per epoch."""

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print the epoch's line once the validation split is scored."""
        assert isinstance(module, Learner)
        if trainer.sanity_checking or not trainer.is_global_zero or not module.history:
            return
        row = module.history[-1]
        best = max(epoch["validation_macro_f1"] for epoch in module.history)
        mark = "  best" if row["validation_macro_f1"] >= best else ""
        print(
            f"epoch {int(row['epoch']):>3}/{trainer.max_epochs}   loss {row['loss']:.4f}   "
            f"validation macro-F1 {row['validation_macro_f1']:5.2f}   {row['seconds']:.0f} s{mark}",
            flush=True,
        )
