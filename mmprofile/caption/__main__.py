"""``python -m mmprofile.caption data=... model=...``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import CaptionConfig


def run(cfg: CaptionConfig) -> None:
    """Caption the photos of a prepared data set. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.caption.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("caption", run)
