"""Lightning's Trainer around the modules: early stopping, resuming, and what can go wrong in between."""

import signal
import threading
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from mmprofile.config.command import quiet
from mmprofile.config.settings import TrainerConfig
from mmprofile.errors import Terminated, UserError
from mmprofile.inputs.data import BatchData
from mmprofile.train.checkpoints import CheckpointFiles, Ended, LastCheckpoint, damage, newest_checkpoint
from mmprofile.train.devices import FSDP
from mmprofile.train.module import METRIC, Learner
from mmprofile.train.progress import EpochLines, StepBar


def make_trainer(settings: TrainerConfig, folder: Path, precision: str) -> pl.Trainer:
    """Return Lightning's Trainer with best and last checkpoint, early stopping on validation macro-F1, and TensorBoard."""
    quiet()  # once more: Lightning turned its messages on when it was imported
    checkpoints = folder / "checkpoints"
    best = ModelCheckpoint(  # its name is fixed: a versioned one would leave a stale file to score
        checkpoints, "best", monitor=METRIC, mode="max", save_weights_only=True, enable_version_counter=False
    )
    last = LastCheckpoint(checkpoints, settings.checkpoint_every)
    # Checked right after validation: a run that is resumed at the end of an epoch would find no score to check.
    stop = EarlyStopping(METRIC, mode="max", patience=settings.patience, check_on_train_epoch_end=False)
    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    progress: list[Callback] = [StepBar(), EpochLines()] if settings.progress else [EpochLines()]
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=ModelParallelStrategy(save_distributed_checkpoint=False)
        if settings.strategy == FSDP
        else settings.strategy,
        num_nodes=settings.num_nodes,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=settings.max_epochs,
        gradient_clip_val=settings.gradient_clip or None,
        plugins=[CheckpointFiles()],
        callbacks=[stop, best, last, LearningRateMonitor("step"), *progress],
        logger=logger,
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_progress_bar=settings.progress,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def fit(trainer: pl.Trainer, module: Learner, data: BatchData | pl.LightningDataModule, folder: Path) -> None:
    """Train to the end, from the last checkpoint if there is one.

    Raises:
        UserError: a checkpoint is damaged, memory is short, a loss is no number, or the like.
        Terminated, KeyboardInterrupt: a signal has ended the training, after its last checkpoint.
    """
    assert isinstance(data, pl.LightningDataModule)  # those that conf/loader names are
    resume = newest_checkpoint(folder / "checkpoints")
    threading.excepthook = _told_once
    try:
        with module.guard.explained():
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except Ended as end:
        raise (KeyboardInterrupt() if end.number == signal.SIGINT else Terminated(end.number)) from None
    except SIGTERMException:  # before the first step
        raise Terminated(signal.SIGTERM) from None
    except SystemExit:  # Lightning's answer to an interrupt before the first step
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        threading.excepthook = threading.__excepthook__


def _told_once(error: threading.ExceptHookArgs) -> None:
    """Print what ends a thread, unless it is TensorBoard's: that hands the error on to the next write of the training."""
    if not type(error.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(error)


def load_weights(module: Learner, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into the module.

    Raises:
        UserError: the checkpoint is damaged, lacks a trained weight, or has others.
    """
    if reason := damage(checkpoint, ("state_dict",)):
        raise UserError(f"{checkpoint} is damaged ({reason}): remove {checkpoint.parent} to train again from the start")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    missing, unexpected = module.load_state_dict(state, strict=False)
    if wrong := [*(set(missing) - set(module.frozen())), *unexpected]:
        raise UserError(f"{checkpoint} does not fit the model: {min(wrong)}; delete the run's folder and train again")
