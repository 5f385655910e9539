"""``python -m mmprofile.doctor paradigm=both``, with the words of ``mmprofile.train``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import TrainConfig


def run(cfg: TrainConfig) -> None:
    """Say what a training with this configuration would need, and whether it could start here; nothing is downloaded."""
    from mmprofile.doctor.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("train", run)
