"""Lightning's Trainer around the modules: checkpoints, early stopping, precision, resuming."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from mmprofile.errors import UserError
from mmprofile.train.module import Learner
from mmprofile.train.progress import EpochLines, StepBar

METRIC = "dev/macro_f1"


def make_trainer(cfg: Any, folder: Path, precision: str) -> pl.Trainer:
    """Lightning's Trainer: best and last checkpoint, early stopping on dev macro-F1, TensorBoard."""
    t = cfg.trainer
    checkpoints = folder / "checkpoints"
    # Fixed names: a versioned "last-v1.ckpt" would leave a stale "last.ckpt" to resume from.
    best = ModelCheckpoint(
        checkpoints, "best", monitor=METRIC, mode="max", save_weights_only=True, enable_version_counter=False
    )
    last = ModelCheckpoint(checkpoints, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    steps = ModelCheckpoint(checkpoints, "last", every_n_train_steps=t.checkpoint_every, enable_version_counter=False)
    # Checked as soon as the score is there: a run resumed at an epoch's end would find no score to check.
    stop = EarlyStopping(METRIC, mode="max", patience=t.patience, check_on_train_epoch_end=False)
    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    shown: list[Callback] = [StepBar(), EpochLines()] if t.progress else [EpochLines()]
    return pl.Trainer(
        accelerator=t.accelerator,
        devices=t.devices,
        strategy=t.strategy,
        num_nodes=t.num_nodes,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=t.max_epochs,
        gradient_clip_val=t.gradient_clip or None,
        callbacks=[stop, best, steps, last, LearningRateMonitor("step"), *shown],
        logger=logger,
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_progress_bar=t.progress,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def fit(trainer: pl.Trainer, module: Learner, data: Any, folder: Path) -> None:
    """Trains to the end, from the last checkpoint where there is one."""
    resume = folder / "checkpoints" / "last.ckpt"
    if resume.exists():
        print(f"going on from {resume}", flush=True)
    trainer.fit(module, datamodule=data, ckpt_path=resume if resume.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


def load_weights(module: Learner, checkpoint: Path) -> None:
    """Puts a checkpoint's weights into the module.

    Raises:
        UserError: a trained weight is not in it.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    missing, unexpected = module.load_state_dict(state, strict=False)
    if wrong := [*(set(missing) - set(module.frozen())), *unexpected]:
        raise UserError(f"{checkpoint} does not fit the model: {min(wrong)}; delete the run's folder and train again")


def choose_precision(asked: str, accelerator: str) -> str:
    """Lightning's precision for ``auto``: bf16-mixed where the device has it, else 32-true.

    Raises:
        UserError: fp16, in which T5 gives NaN.
    """
    if "16" in str(asked) and "bf16" not in str(asked):
        raise UserError(f"trainer.precision={asked}: T5 overflows to NaN in fp16; use bf16-mixed, 32-true or auto")
    if asked != "auto":
        return str(asked)
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
