"""The command ``inspection``: arrays, tables and figures of a few users of a run."""

from pathlib import Path

import torch

from mmprofile.config.settings import InspectionConfig
from mmprofile.errors import UserError
from mmprofile.files import write_json
from mmprofile.inspection.drawing import write_counterfactuals, write_gates, write_inspection
from mmprofile.inspection.inspector import Inspector


def main(cfg: InspectionConfig) -> None:
    """Write arrays, tables and figures into ``<run>/inspection/``."""
    torch.set_flush_denormal(True)  # as in training
    if cfg.count < 1:
        raise UserError(f"count={cfg.count}: give 1 or more")
    inspector = Inspector.of_run(cfg.run, cfg.split, cfg.folder, cfg.purpose)
    with_photos = inspector.select()
    users = inspector.select(cfg.users) if cfg.users else with_photos[: cfg.count]
    folder = Path(cfg.run).expanduser() / "inspection"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"run={cfg.run}: cannot make {folder}: {error.strerror}") from error
    for inspection in inspector.inspect(users):
        write_inspection(folder, inspection, inspector)
    write_counterfactuals(folder, inspector.counterfactuals(users))
    write_gates(folder, inspector, with_photos)
    if inspector.purpose is not None:
        write_json(folder / "purpose.json", {"purpose": inspector.purpose})
    print(f"{len(users)} users, and the gates of all {len(with_photos)} of the {cfg.split} split with photos: {folder}")
