"""What a training shows on the terminal: a bar within an epoch, one line after it."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar


class StepBar(TQDMProgressBar):
    """Lightning's bar, without the validation's own one; absent where standard error is no terminal."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0, leave=False)

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        """Without the version number that Lightning shows."""
        shown = super().get_metrics(trainer, module)
        shown.pop("v_num", None)
        return shown


class EpochLines(Callback):
    """Prints one line per epoch."""

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        """After the dev split was scored."""
        if trainer.sanity_checking or not trainer.is_global_zero or not module.history:
            return
        row = module.history[-1]
        best = max(one["dev_macro_f1"] for one in module.history)
        mark = "  best" if row["dev_macro_f1"] >= best else ""
        print(
            f"epoch {int(row['epoch']):>3}/{trainer.max_epochs}   loss {row['loss']:.4f}   "
            f"dev macro-F1 {row['dev_macro_f1']:5.2f}   {row['seconds']:.0f} s{mark}",
            flush=True,
        )
