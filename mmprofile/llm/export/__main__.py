"""``python -m mmprofile.llm.export student=outputs/llm/demo/student to=whole``"""

from mmprofile.config.command import run_command
from mmprofile.config.llm_settings import LlmConfig


def run(cfg: LlmConfig) -> None:
    """Write a student's whole weights. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.export.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
