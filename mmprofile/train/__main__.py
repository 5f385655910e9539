"""``python -m mmprofile.train paradigm=both``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import TrainConfig


def run(cfg: TrainConfig) -> None:
    """Train, score and report a model. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.train.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("train", run)
