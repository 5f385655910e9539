"""``python -m mmprofile.llm.vote data=demo``"""

from mmprofile.config.command import run_command
from mmprofile.config.llm_settings import LlmConfig


def run(cfg: LlmConfig) -> None:
    """Vote the answers into labels. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.vote.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
