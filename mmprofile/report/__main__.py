"""``python -m mmprofile.report run=outputs/both``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import ReportConfig


def run(cfg: ReportConfig) -> None:
    """Render the reports of a finished run again. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.report.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("report", run)
