"""``python -m mmprofile.llm.distill data=demo student=tiny``"""

from typing import Any

from mmprofile.config.command import run_command


def run(cfg: Any) -> None:
    """Train a student on the labels. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.distill.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
