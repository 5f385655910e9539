"""``python -m mmprofile.doctor paradigm=both``, with the words of ``mmprofile.train``"""

from collections.abc import Sequence

from mmprofile.config.command import run_command
from mmprofile.config.settings import TrainConfig
from mmprofile.errors import UserError


def run(cfg: TrainConfig) -> None:
    """Say what a training with this configuration would need, and whether it could start here; nothing is downloaded."""
    from mmprofile.doctor.run import main

    main(cfg)


def more(cfg: TrainConfig, words: Sequence[str]) -> list[str]:
    """Return what ``train`` would add to the command line."""
    from mmprofile.train.paradigm import follow_data

    try:
        return follow_data(cfg, words)
    except UserError:  # the data are looked at once more, and then it is one problem among others
        return []


if __name__ == "__main__":
    run_command("train", run, more)
