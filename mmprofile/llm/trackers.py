"""Where the steps of a training are shown while it runs: TensorBoard, as for the main model, or what else transformers knows."""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

TENSORBOARD = "tensorboard"


def open_trackers(names: Sequence[str], checkpoints: Path) -> list[TrainerCallback]:
    """Return callbacks that pass the metrics of each step on.

    Args:
        names: of trackers; that of TensorBoard writes into ``tensorboard/student`` of the stage's folder.
        checkpoints: the folder of the student's, which ends in ``.partial``.
    """
    folder = checkpoints.parent / TENSORBOARD / checkpoints.stem
    return [
        TensorBoardCallback(SummaryWriter(str(folder))) if tracker is TensorBoardCallback else tracker()
        for tracker in get_reporting_integration_callbacks(list(names))
    ]
