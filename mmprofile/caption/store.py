"""What captioning needs of a prepared data set; ``conf/caption.yaml`` names the class that has it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol


class Photo(Protocol):
    """A photo to caption."""

    @property
    def sha256(self) -> str:
        """Of its content."""

    @property
    def photo_id(self) -> str:
        """The first of the ids that have this content."""


class Shards(Protocol):
    """Where the captions of one rank go."""

    def add(self, photo: Any, caption: str, error: str | None = None) -> None:
        """Add a caption, or why there is none."""


class Imported(Protocol):
    """What became of the rows of an imported table.

    Attributes:
        rows: how many there were.
        report: the file that lists the unmatched.
        used: captions of photos that had none by this table.
        unmatched: rows of no photo of the data set.
        empty: rows without a caption.
        repeated: rows of a photo that has a caption from an earlier row.
    """

    rows: int
    report: Path
    used: int
    unmatched: list[dict[str, Any]]
    empty: int
    repeated: int


class Check(Protocol):
    """The captions compared with the data set.

    Attributes:
        photos: distinct photos of the data set.
        captioned: those of them that have a caption.
        makers: what made the captions -> how many.
    """

    photos: int
    captioned: int
    makers: Counter[str]

    @property
    def problems(self) -> Mapping[str, Sequence[str]]:
        """Kind of problem -> ids of photos."""


class CaptionStore(Protocol):
    """The captions of a prepared data set, such as :class:`datamodules.captions.Captions`.

    Attributes:
        folder: the prepared folder.
        photos: SHA-256 of a photo -> its first id.
    """

    folder: Path
    photos: dict[str, str]

    def jpeg(self, photo_id: str) -> bytes:
        """Return a photo's file."""

    def todo(self, maker: Mapping[str, str], existing: str = "refuse", retry: bool = False) -> Sequence[Photo]:
        """Return the photos that ``maker`` has still to caption."""

    def shards(self, maker: Mapping[str, str], rank: int = 0, size: int = 512) -> AbstractContextManager[Shards]:
        """Open the place where one rank's captions go."""

    def finish(self, maker: Mapping[str, str], existing: str = "refuse") -> Counter[str]:
        """Join the shards to the captions that are there, and return the numbers of captions by status."""

    def import_table(self, path: Path, existing: str = "refuse") -> tuple[Imported, Counter[str]]:
        """Take over captions made elsewhere."""

    def verify(self) -> Check:
        """Compare the captions with the data set."""
