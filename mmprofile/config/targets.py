"""What a configuration may build: the parts of this project that ``conf/`` names, and those named on the command line.

A ``config.yaml`` comes with a run's folder, from anybody, and a ``_target_`` in it is called with what stands beside it.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmprofile.errors import UserError

OURS = frozenset({
    "datamodules.captions.Captions",
    "datamodules.cleaning.clean",
    "datamodules.draws.Draws",
    "datamodules.forgetting.PreparedFolders",
    "datamodules.options.PhotoOptions",
    "datamodules.people.read_people",
    "datamodules.photos.process",
    "datamodules.prepare.prepare",
    "datamodules.profiles.ProfileDataModule",
    "datamodules.suggest.suggest_schema",
    "datamodules.text_only.attach",
})  # fmt: skip
TRUST, VARIABLE = "--trust", "MMPROFILE_TRUST"


def build(node: Any, **options: Any) -> Any:
    """Return what Hydra makes of a part of a configuration, if all that it would call is ours or trusted.

    Args:
        node: with a ``_target_``.
        options: added to its arguments.

    Raises:
        UserError: it names something else, at any depth. Nothing is imported then.
    """
    plain = OmegaConf.to_container(node, resolve=True)
    trusted = OURS.union(os.environ.get(VARIABLE, "").split())
    for target in (plain.get("_target_") if isinstance(plain, dict) else None, *_targets(plain)):
        if target not in trusted:
            raise UserError(
                f"_target_: {target} is no part of mmprofile, and calling it could do anything; if it is your own code, add "
                f"{TRUST}={target} to the command line"
            )
    return instantiate(node, **options)


def _targets(value: Any) -> Iterator[Any]:
    """Yield all that Hydra would call in a part of a configuration."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value["_target_"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _targets(item)


def trust(words: Sequence[str]) -> list[str]:
    """Return a command line without its ``--trust=module.name``, after allowing these to be called, also by child processes.

    Raises:
        UserError: one names nothing.
    """
    flags = [word for word in words if word.partition("=")[0] == TRUST]
    names = [flag.partition("=")[2] for flag in flags]
    for flag, name in zip(flags, names, strict=True):
        if "." not in name or not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"{flag}: give {TRUST}=package.module.name, what a _target_ of your own names")
    if names:
        os.environ[VARIABLE] = " ".join([os.environ.get(VARIABLE, ""), *names]).strip()
    return [word for word in words if word not in flags]
