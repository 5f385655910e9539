"""What every door calls: check the command line, then run the command. Mistakes and interrupts are one line."""

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mmprofile.config.compose import HYDRA_QUIET, load_config, typed
from mmprofile.config.targets import trust
from mmprofile.config.words import translate
from mmprofile.errors import Terminated, UserError
from mmprofile.paths import conf_dir
from mmprofile.remote import local_copies

UMASK = "MMPROFILE_UMASK"
SPINS = "1000"
"""Measured in ``docs/reliability.md``: alone no slower, beside a busy process twice as slow instead of three times."""
INTERRUPTED = "interrupted; the same command goes on from there"


def run_command(
    name: str, run: Callable[[Any], None], more: Callable[[Any, Sequence[str]], list[str]] | None = None
) -> None:
    """Run a command on its configuration, which is composed once, before ``run`` imports anything heavy.

    Other flags than ``--help`` (``-m`` for a multirun, ``--cfg``) are handed to Hydra. The exit status is 2 after a user's
    mistake, 130 after an interrupt and 143 after SIGTERM.

    Args:
        name: of the configuration: the file in ``conf/``.
        run: the command.
        more: returns the words that a configuration and its words leave to be added; it is composed again with them.
    """
    if show_help(name, run):
        return
    quiet()
    share_cores()
    guarded(keep_private)
    words = guarded(lambda: translate(name, trust(sys.argv[1:])))

    def start(cfg: Any, given: Sequence[str]) -> None:
        added = more(cfg, given) if more else []
        cfg = load_config(name, [*given, *added]) if added else cfg
        with local_copies(cfg):
            run(cfg)

    if not any(word.startswith("-") for word in words):
        guarded(lambda: start(load_config(name, words), words))
        return

    def job(cfg: DictConfig) -> None:
        guarded(lambda: start(typed(name, cfg), HydraConfig.get().overrides.task))

    # Hydra wants all overrides side by side, wherever a flag was given.
    words.sort(key=lambda word: not word.startswith("-") and ("=" in word or word.startswith("~")))
    sys.argv[1:] = [*words, *HYDRA_QUIET]
    guarded(hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job))


def show_help(name: str, run: Callable[..., Any]) -> bool:
    """Print the options of a command if the command line asks for them; return whether it does.

    Args:
        name: of the configuration.
        run: the command; the first sentence of its docstring says what it is for.
    """
    words = sys.argv[1:]
    if not {"-h", "--help"} & set(words):
        return False
    from mmprofile.config.help import print_help

    spec = sys.modules["__main__"].__spec__  # of python -m
    command = spec.name.removesuffix(".__main__") if spec else f"mmprofile.{name}"
    purpose = f"{(run.__doc__ or '').split('.')[0]}."
    guarded(lambda: print_help(name, command, purpose, [word for word in words if not word.startswith("-")]))
    return True


def guarded(action: Callable[[], Any], interrupted: str = INTERRUPTED) -> Any:
    """Return what ``action`` returns. Print one line and exit after a user's mistake (status 2) or a signal (130, 143).

    Exit with status 1 and without a word when whoever reads the output (``head``, ``less``) has seen enough.

    Args:
        action: what to do.
        interrupted: the line that is printed after an interrupt or SIGTERM.
    """
    _listen_for_sigterm()
    try:
        try:
            return action()
        finally:
            sys.stdout.flush()  # a reader who is gone is noticed here instead of at the interpreter's exit
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Terminated) as stop:
        print(interrupted, file=sys.stderr)
        sys.exit(128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT))


def _listen_for_sigterm() -> None:
    """Let SIGTERM raise :class:`Terminated` in this process, and end processes that are forked from it at once."""
    process = os.getpid()

    def handle(number: int, _: Any) -> None:
        if os.getpid() == process:
            raise Terminated(number)
        os._exit(128 + number)

    if threading.current_thread() is threading.main_thread():  # only there signals arrive
        signal.signal(signal.SIGTERM, handle)


def keep_private() -> None:
    """Let nobody else read what this command and its children write, since it holds people's texts.

    Raises:
        UserError: ``MMPROFILE_UMASK``, which says otherwise, is no such mask.
    """
    mask = os.environ.get(UMASK, "077")
    if not re.fullmatch("0?[0-7]{1,3}", mask):
        raise UserError(f"{UMASK}={mask}: give an octal number, such as 027 for files that your group may read")
    os.umask(int(mask, 8))


def _reader_is_gone() -> bool:
    """Return whether it is the standard output that nobody reads any more, and not another pipe of the command."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def share_cores() -> None:
    """Let the threads of a parallel loop wait for each other in a bounded spin: torch's OpenMP reads this when it is loaded.

    Beside another busy process a thread that spins takes the core from the one that it waits for.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def quiet() -> None:
    """Turn off messages of libraries that no user of ours can act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # these two set their loggers when they are imported
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings(
        "ignore", module=r"(pytorch_lightning|lightning_fabric|torch|torchdata|torchmetrics|timm|entmax)\b.*"
    )
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b.*")  # of each other
    for logger in ("pytorch_lightning", "lightning_fabric", "lightning", "transformers", "timm", "datasets"):
        logging.getLogger(logger).setLevel(logging.ERROR)
