"""``python -m mmprofile.llm.distill data=demo student=tiny``"""

from mmprofile.config.command import run_command
from mmprofile.config.llm_settings import LlmConfig


def run(cfg: LlmConfig) -> None:
    """Train a student on the labels. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.distill.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
