"""Raw data of any kind, and which reader opens them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from datamodules.custom import RawCustom
from datamodules.engine import Engine
from datamodules.files import SourceFile
from datamodules.label_file import GivenLabels
from datamodules.options import CustomSource, Options, YelpSource
from datamodules.photos import Given
from datamodules.pseudonyms import Pseudonyms
from datamodules.raw import RawYelp
from datamodules.rules import Columns
from datamodules.yelp import Tables
from mmprofile.profile.schema import Schema
from mmprofile.remote import is_url


class Raw(Protocol):
    """A Yelp folder or archive, or a user's own files."""

    @property
    def sources(self) -> list[SourceFile]: ...
    @property
    def has_photos(self) -> bool: ...
    def stamps(self) -> list[Any]: ...
    def tables(self, engine: Engine, work: Path, columns: Columns) -> Tables: ...
    def labels(self, schema: Schema, people: set[str]) -> GivenLabels: ...
    def photos(self, ids: set[str]) -> Iterator[Given]: ...
    def where(self) -> str: ...


def raw_files(options: Options, names: Pseudonyms) -> Raw | None:
    """Return the raw files; None for a city that is yet to be generated. ``names``: own photos.

    Raises:
        UserError: they are not there.
    """
    if isinstance(options.source, YelpSource):
        given = options.source.path
        places = [str(place) for place in (given if isinstance(given, list) else [given])]
        paths = [place if is_url(place) else Path(place).expanduser() for place in places]
        return RawYelp(paths, options.photos.read)
    if isinstance(options.source, CustomSource):
        return RawCustom(options.source, names, options.photos.read)
    return None
