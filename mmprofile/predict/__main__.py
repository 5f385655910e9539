"""``python -m mmprofile.predict run=outputs/both input=users.jsonl``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import PredictConfig


def run(cfg: PredictConfig) -> None:
    """Write the profiles of anybody. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.predict.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("predict", run)
