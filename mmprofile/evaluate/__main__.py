"""``python -m mmprofile.evaluate run=outputs/both``"""

from typing import Any

from mmprofile.config.command import run_command


def run(cfg: Any) -> None:
    """Score a run again. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.evaluate.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("evaluate", run)
