"""``python -m mmprofile.predict run=outputs/both input=users.jsonl``"""

import gc

from mmprofile.config.command import run_command
from mmprofile.config.settings import PredictConfig
from mmprofile.imports import heavy_imports


def run(cfg: PredictConfig) -> None:
    """Write the profiles of anybody. Its imports take seconds, so the command line is checked before them."""
    with heavy_imports():
        from mmprofile.predict.shards import main

    gc.freeze()  # what was imported stays until the end, which comes a second earlier when nobody looks through it
    main(cfg)


if __name__ == "__main__":
    run_command("predict", run)
