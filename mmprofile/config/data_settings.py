"""The parts of configurations that name a class or function of :mod:`datamodules` by ``_target_``, with their types."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class DataConfig:
    """Where the data come from: ``conf/data``."""

    name: str = MISSING
    prepare: Any = MISSING  # what its _target_ takes: a source has keys of its own


@dataclass
class PartialConfig:
    """A function or class that is called with what the command knows."""

    _target_: str = MISSING
    _partial_: bool = MISSING


@dataclass
class ReaderConfig:
    """The users of a prepared folder, for systems that take no batches."""

    _target_: str = MISSING


@dataclass
class LoaderConfig:
    """The batches of a prepared folder; see :class:`datamodules.profiles.ProfileDataModule`."""

    _target_: str = MISSING
    batch_size: int = MISSING
    micro_batch_size: int | None = MISSING
    workers: int = MISSING
    cache_mb: int = MISSING


@dataclass
class PhotoOptionsConfig:
    """How a photo is read; see :class:`datamodules.options.PhotoOptions`."""

    _target_: str = MISSING
    shorter_side: int = MISSING
    max_pixels: int = MISSING


@dataclass
class PhotosConfig:
    """The function that reads a photo, and its options."""

    _target_: str = MISSING
    _partial_: bool = MISSING
    options: PhotoOptionsConfig = field(default_factory=PhotoOptionsConfig)


@dataclass
class ShowConfig:
    """Whether ``report.html`` shows ``texts``: what people wrote, and their photos. None: of the demo city's people only."""

    texts: bool | None = MISSING


@dataclass
class ForgetConfig:
    """``conf/forget.yaml``."""

    user: Any = MISSING  # an id, which may look like a number
    out: str = MISSING
    folders: list[str] = MISSING
    files: list[str] = MISSING
    dry_run: bool = MISSING
    prepared: PartialConfig = field(default_factory=PartialConfig)
