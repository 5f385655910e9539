"""Checkpoints of a training: whole or not there, the last one in two generations, and one more before a signal ends it."""

import os
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from mmprofile.errors import Terminated, UserError
from mmprofile.files import whole

BEST, LAST, BEFORE = "best.ckpt", "last.ckpt", "last.before.ckpt"
PARTS = ("state_dict", "loops", "optimizer_states", "callbacks", "progress")
"""What a checkpoint that a training goes on from has, besides what Lightning adds."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes each checkpoint beside its place and renames it; of the last one the generation before is kept."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: the disk is full, say. The checkpoints that were there are still there.
        """
        target = Path(path)
        target.parent.mkdir(exist_ok=True)  # not its parents: a run's folder that somebody has removed stays away
        with whole(target) as partial:
            try:
                with partial.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(
                    error.__context__, OSError
                ):  # torch's archive cannot be closed after an error of the file
                    raise error.__context__ from None
                raise
            if target.name == LAST and target.exists():
                target.replace(target.with_name(BEFORE))


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every so many steps, after every epoch, and when a signal asks the training to end.

    A training whose checkpoint was written by the last step of an epoch would skip that epoch's validation when it is
    resumed, so that step writes none: the validation comes first. SIGTERM, SIGINT and SLURM's signal are heeded after the
    step, or after the validation; the second signal is heeded at once.

    Args:
        folder: of the checkpoints.
        every: steps between checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = folder / LAST, every
        self.signal: int | None = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Check that all processes would go on from the same checkpoint.

        Raises:
            UserError: they see different folders.
        """
        if trainer.world_size == 1:
            return
        files = [path.stat().st_size if path.exists() else None for path in (self.path, self.path.with_name(BEFORE))]
        same = files == trainer.strategy.broadcast(files)
        if not trainer.strategy.reduce_boolean_decision(same, all=True):
            raise UserError(
                f"not every process sees the same checkpoints in {self.path.parent}: take an out= that all machines share"
            )

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the state of the best checkpoint name the folder as it is called now: else it would forget its score."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and (state := checkpoint["callbacks"].get(callback.state_key)):
                _follow_folder(state, str(callback.dirpath))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Listen for signals, and end a training at once whose patience was at its end when it was killed."""
        if any(stop.wait_count >= stop.patience for stop in trainer.early_stopping_callbacks):
            trainer.should_stop = True
        numbers = [signal.SIGTERM, signal.SIGINT]
        if SLURMEnvironment.detect():
            numbers.append(signal.SIGUSR1)
        for (
            number
        ) in numbers:  # Lightning has set its own, which write in the middle of a step, and restores those before
            trainer._signal_connector._register_signal(number, self._ask)

    def _ask(self, number: int, _: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        self.signal = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if one is due, but not in the middle of accumulated gradients."""
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = self._asked(trainer)
        if asked or (self.every > 0 and trainer.global_step % self.every == 0):
            trainer.save_checkpoint(self.path)
        if asked:
            self._end(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write a checkpoint after validation."""
        trainer.save_checkpoint(self.path)
        if self._asked(trainer):
            self._end(trainer)

    def _asked(self, trainer: pl.Trainer) -> bool:
        """Return whether any process of the training was asked to end: all write a checkpoint together."""
        asked = self.signal is not None
        return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def _end(self, trainer: pl.Trainer) -> None:
        if self.signal == signal.SIGUSR1 and trainer.is_global_zero:
            job = os.environ["SLURM_JOB_ID"]
            if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
                job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            subprocess.run(["scontrol", "requeue", job], check=False)
        raise Ended(self.signal or signal.SIGTERM)


def _follow_folder(state: dict[str, Any], here: str) -> None:
    state["best_k_models"] = {str(Path(here, Path(path).name)): score for path, score in state["best_k_models"].items()}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = str(Path(here, Path(state[key]).name)) if state[key] else ""
    state["dirpath"] = here


class Ended(Exception):
    """The training has written its last checkpoint and ends, as a signal has asked.

    Lightning hands on an exception of this kind as it is; of an interrupt it makes exit status 1.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint to go on from, and say so; a damaged one is passed over. None: there is none.

    Args:
        folder: of the checkpoints.

    Raises:
        UserError: all that are there are damaged.
    """
    damaged: dict[str, str] = {}
    for name in (LAST, BEFORE):
        path = folder / name
        if not path.exists():
            continue
        reason = damage(path)
        if reason is None:
            others = "".join(f"{other} is damaged ({why}): " for other, why in damaged.items())
            print(f"{others}continuing from {path}", flush=True)
            return path
        damaged[name] = reason
    if damaged:
        reasons = "; ".join(f"{folder / name} is damaged ({why})" for name, why in damaged.items())
        raise UserError(f"{reasons}: remove {folder} to train again from the start")
    return None


def damage(path: Path, parts: tuple[str, ...] = PARTS) -> str | None:
    """Return what is wrong with a checkpoint, in a few words; None: nothing, or it is a folder, which its strategy reads.

    Args:
        path: of the checkpoint.
        parts: what it should have.
    """
    if path.is_dir():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare checksums
            broken = archive.testzip()
        if broken is not None:
            return f"{Path(broken).name}: wrong checksum"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        lacking = [part for part in parts if part not in content]
    except Exception as error:  # noqa: BLE001 - whatever a damaged file leads its readers to
        return " ".join(f"{type(error).__name__}: {error}".split())[:100]
    return f"it lacks {lacking[0]}" if lacking else None
