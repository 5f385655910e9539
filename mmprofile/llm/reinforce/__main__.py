"""``python -m mmprofile.llm.reinforce data=demo``"""

from mmprofile.config.command import run_command
from mmprofile.config.llm_settings import LlmConfig


def run(cfg: LlmConfig) -> None:
    """Refine the student by reinforcement learning. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.reinforce.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
