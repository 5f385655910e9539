"""``python -m mmprofile.inspection run=outputs/both``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import InspectionConfig


def run(cfg: InspectionConfig) -> None:
    """Look inside a run. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.inspection.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("inspection", run)
