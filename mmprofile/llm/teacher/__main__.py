"""``python -m mmprofile.llm.teacher data=demo teacher=lexicon``"""

from mmprofile.config.command import run_command
from mmprofile.config.llm_settings import LlmConfig


def run(cfg: LlmConfig) -> None:
    """Ask a teacher about people. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.teacher.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
