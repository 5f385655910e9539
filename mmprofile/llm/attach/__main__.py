"""``python -m mmprofile.llm.attach data=demo``"""

from mmprofile.config.command import run_command
from mmprofile.config.llm_settings import LlmConfig


def run(cfg: LlmConfig) -> None:
    """Attach labels to the prepared data set. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.attach.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
