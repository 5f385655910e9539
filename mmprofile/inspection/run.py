"""The command ``inspection``: arrays, tables and figures of a few users of a run."""

from pathlib import Path
from typing import Any

import torch

from mmprofile.errors import UserError
from mmprofile.inspection.drawing import write_counterfactuals, write_gates, write_inspection
from mmprofile.inspection.inspector import Inspector


def main(cfg: Any) -> None:
    """Entry point: arrays, tables and figures in ``<run>/inspection/``."""
    torch.set_flush_denormal(True)  # as in training
    if cfg.count < 1:
        raise UserError(f"count={cfg.count}: give 1 or more")
    inspector = Inspector.of_run(cfg.run, cfg.split, cfg.folder)
    everybody = inspector.select()
    users = inspector.select(cfg.users) if cfg.users else everybody[: cfg.count]
    folder = Path(cfg.run).expanduser() / "inspection"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"run={cfg.run}: cannot make {folder}: {error.strerror}") from error
    for found in inspector.inspect(users):
        write_inspection(folder, found, inspector)
    write_counterfactuals(folder, inspector.counterfactuals(users))
    write_gates(folder, inspector, everybody)
    print(f"{len(users)} users, and the gates of all {len(everybody)} of the {cfg.split} split with photos: {folder}")
