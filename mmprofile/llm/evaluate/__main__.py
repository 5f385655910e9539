"""``python -m mmprofile.llm.evaluate data=demo``"""

from typing import Any

from mmprofile.config.command import run_command


def run(cfg: Any) -> None:
    """Score labels against gold values. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.evaluate.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
