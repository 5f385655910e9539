"""``python -m mmprofile.forget user=... [dry_run=true]``"""

from mmprofile.config.command import run_command
from mmprofile.config.data_settings import ForgetConfig


def run(cfg: ForgetConfig) -> None:
    """Remove a person from prepared data, captions, journals, labels, predictions and reports, and name the models to retrain."""
    from mmprofile.forget.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("forget", run)
