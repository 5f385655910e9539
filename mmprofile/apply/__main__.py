"""``python -m mmprofile.apply task=sentiment run=outputs/both``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import ApplyConfig


def run(cfg: ApplyConfig) -> None:
    """Measure what profiles are good for. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.apply.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("apply", run)
