"""``python -m mmprofile.llm.attach data=demo``"""

from typing import Any

from mmprofile.config.command import run_command


def run(cfg: Any) -> None:
    """Attach labels to the prepared data set. Its imports take seconds, so the command line is checked before them."""
    from mmprofile.llm.attach.run import main

    main(cfg)


if __name__ == "__main__":
    run_command("llm", run)
