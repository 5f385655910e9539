"""``python -m mmprofile.evaluate run=outputs/both``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import EvaluateConfig


def run(cfg: EvaluateConfig) -> None:
    """Score a run again. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.evaluate.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("evaluate", run)
