"""``python -m mmprofile.train paradigm=both``"""

from collections.abc import Sequence

from mmprofile.config.command import run_command
from mmprofile.config.settings import TrainConfig


def run(cfg: TrainConfig) -> None:
    """Train, score and report a model. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.train.run import main

    main(cfg)


def more(cfg: TrainConfig, words: Sequence[str]) -> list[str]:
    """Return what the data add to the command line: their paradigm, where none was chosen."""
    from mmprofile.train.paradigm import follow_data

    return follow_data(cfg, words)


if __name__ == "__main__":
    run_command("train", run, more)
