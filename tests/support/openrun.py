"""Open a run's folder as a command does, and close it again."""

from pathlib import Path

from mmprofile.config.settings import ApplyConfig, TrainConfig
from mmprofile.train.run import opened_run


def open_run(cfg: TrainConfig | ApplyConfig) -> Path:
    """Return the folder, with its configuration in it."""
    with opened_run(cfg) as folder:
        return folder
