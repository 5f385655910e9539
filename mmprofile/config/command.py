"""What every door calls: the command line is checked, then the command runs; mistakes and interrupts are one line."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig

from mmprofile.config.compose import HYDRA_QUIET, load_config, spelled, typed
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir

INTERRUPTED = "interrupted; the same command goes on from there"


def run_command(name: str, run: Callable[[Any], None]) -> None:
    """Run a command on its configuration, which is composed once, before ``run`` imports anything heavy.

    Flags (``-m`` for a multirun, ``--help``, ``--cfg``) are handed to Hydra. Exit status 2 for a user's mistake, 130 for
    an interrupt.
    """
    quiet()
    if not _has_flags(name):
        guarded(lambda: run(load_config(name, sys.argv[1:])))
        return

    def job(cfg: DictConfig) -> None:
        guarded(lambda: run(typed(name, cfg)))

    sys.argv[1:] = [*(spelled(name, word) for word in sys.argv[1:]), *HYDRA_QUIET]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()


def _has_flags(name: str) -> bool:
    return any(spelled(name, word).startswith("-") for word in sys.argv[1:])


def guarded(action: Callable[[], Any], interrupted: str = INTERRUPTED) -> Any:
    """Does it; a user's mistake is one line and exit status 2, an interrupt the line ``interrupted`` and 130."""
    try:
        return action()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)


def quiet() -> None:
    """Turns off chatter that no user of ours can act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings(
        "ignore", module=r"(pytorch_lightning|lightning_fabric|torch|torchdata|torchmetrics|timm|entmax)\b.*"
    )
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b.*")  # of each other
    for logger in ("pytorch_lightning", "lightning_fabric", "lightning", "transformers", "timm", "datasets"):
        logging.getLogger(logger).setLevel(logging.ERROR)
