"""The ``prepare:`` part of ``conf/data/*.yaml`` as typed values; a wrong key or type is one clear line.

The values here are for calls from Python that leave some out; they are those of ``conf/data/demo.yaml``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

from omegaconf import MISSING

from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError, nearest

ENGINES = ("duckdb", "spark")
MAX_PIXELS_LIMIT = 178_000_000  # Pillow itself refuses more than 178,956,970


@dataclass(frozen=True)
class Selection:
    """Which reviews and users stay.

    Attributes:
        min_words, max_words: of a review.
        min_reviews: of a user.
        photo_reviews: reviews with a usable photo, of a user.
        min_labels: of a user; None: all that the schema does not allow to be ``Unknown``.
    """

    min_words: int = 10
    max_words: int = 300
    min_reviews: int = 30
    photo_reviews: int = 3
    min_labels: int | None = None


@dataclass(frozen=True)
class Split:
    """Sizes of the splits: all integers (users), or all fractions of the users that remain."""

    train: int | float = 0.7
    validation: int | float = 0.1
    test: int | float = 0.2
    seed: int = 0

    @property
    def counted(self) -> bool:
        """Whether the sizes are numbers of users."""
        return isinstance(self.train, int)

    @property
    def asked(self) -> int:
        """Return the number of users that are asked for; 0 where the sizes are shares."""
        return int(self.train + self.validation + self.test) if self.counted else 0


@dataclass(frozen=True)
class PhotoOptions:
    """What to do with photos: ``policy`` drop or error for unusable ones, none for all of them; sizes in pixels."""

    policy: str = "drop"
    shorter_side: int = 256
    max_pixels: int = 50_000_000

    @property
    def read(self) -> bool:
        """Whether there are photos in the data."""
        return self.policy != "none"


@dataclass(frozen=True)
class DemoSource:
    """The generated city. ``indirect``: share of the give-away sentences that only hint."""

    kind: str = "demo"
    users: int = 1500
    seed: int = 0
    indirect: float = 0.0
    keep_raw: bool = False


@dataclass(frozen=True)
class YelpSource:
    """The Yelp Open Dataset as downloaded: a folder, a zip or tar, or several of them. ``users``: at most so many; None: all."""

    path: Any = MISSING  # a path or a list of them
    kind: str = "yelp"
    users: int | None = None


@dataclass(frozen=True)
class CustomSource:
    """A user's own data: JSONL or Parquet of reviews, a folder of photos, and optionally businesses and labels.

    ``users``: as for Yelp.
    """

    reviews: str = MISSING
    kind: str = "custom"
    photos: str | None = None
    photo_root: str | None = None
    labels: str | None = None
    businesses: str | None = None
    users: int | None = None


Source = DemoSource | YelpSource | CustomSource
SOURCES: dict[str, type[Source]] = {"demo": DemoSource, "yelp": YelpSource, "custom": CustomSource}
ON_THIS_MACHINE = ("path", "reviews", "photos", "photo_root", "labels", "businesses", "keep_raw")
"""Keys of a source that say where files lie or stay, not what the data are."""


@dataclass(frozen=True)
class Options:
    """All options of :func:`datamodules.prepare.prepare`, checked."""

    source: Source
    selection: Selection
    split: Split
    photos: PhotoOptions
    engine: str

    @classmethod
    def checked(cls, source: Any, selection: Any, split: Any, photos: Any, engine: str) -> "Options":
        """Return the options that plain or OmegaConf mappings hold.

        Raises:
            UserError: an unknown key, a wrong type, or a value that makes no sense; names the nearest valid choice.
        """
        kind = str(source.get("kind", "")) if isinstance(source, Mapping) else ""
        if kind not in SOURCES:
            raise UserError(
                f"data.prepare.source.kind is {kind!r}: choose one of {', '.join(SOURCES)}{nearest(kind, SOURCES)}"
            )
        if engine not in ENGINES:
            raise UserError(
                f"data.prepare.engine is {engine!r}: choose one of {', '.join(ENGINES)}{nearest(engine, ENGINES)}"
            )
        if engine == "spark" and find_spec("pyspark") is None:
            raise UserError(
                "data.prepare.engine=spark needs PySpark, and Java 17 or later: pip install 'mmprofile[spark]'"
            )
        options = cls(
            source=typed_part(SOURCES[kind], source, "data.prepare.source"),
            selection=typed_part(Selection, selection or {}, "data.prepare.selection"),
            split=typed_part(Split, split or {}, "data.prepare.split"),
            photos=typed_part(PhotoOptions, photos or {}, "data.prepare.photos"),
            engine=engine,
        )
        options._check_values()
        if not options.photos.read:  # nobody can be asked for reviews with photos
            return replace(options, selection=replace(options.selection, photo_reviews=0))
        return options

    def _check_values(self) -> None:
        for name in ("path", "reviews"):
            if not getattr(self.source, name, True):
                raise UserError(f"data.prepare.source.{name} is not set: say where the raw data lie")
        if self.source.users is not None and self.source.users < 1:
            raise UserError(f"data.prepare.source.users={self.source.users}: give 1 or more")
        if isinstance(self.source, DemoSource) and not 0 <= self.source.indirect <= 1:
            raise UserError(f"data.prepare.source.indirect={self.source.indirect} is not a share (0 to 1)")
        selection, photos, split = self.selection, self.photos, self.split
        least = min(selection.min_words, selection.min_reviews, selection.photo_reviews, selection.min_labels or 0)
        if selection.min_words > selection.max_words or least < 0:
            raise UserError(
                "data.prepare.selection: needs 0 <= min_words <= max_words, and no number below 0 of min_reviews, "
                "photo_reviews and min_labels"
            )
        if photos.policy not in ("drop", "error", "none"):
            raise UserError(f"data.prepare.photos.policy is {photos.policy!r}: choose drop, error or none")
        if photos.shorter_side < 16 or not 0 < photos.max_pixels <= MAX_PIXELS_LIMIT:
            raise UserError(f"data.prepare.photos: needs shorter_side >= 16 and 0 < max_pixels <= {MAX_PIXELS_LIMIT}")
        sizes = (split.train, split.validation, split.test)
        if len({isinstance(size, int) for size in sizes}) != 1 or min(sizes) < 0 or split.train == 0:
            raise UserError(
                f"data.prepare.split: train/validation/test are {sizes}: "
                "give three integers (users) or three fractions, train > 0"
            )
        if not split.counted and sum(sizes) > 1 + 1e-9:
            raise UserError(f"data.prepare.split: the fractions {sizes} add up to more than 1")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the manifest and the fingerprint: the same on every machine, without its paths."""
        data = asdict(self) | {"engine": ENGINES[0]}  # whichever makes the tables, they are the same
        if data["selection"]["min_labels"] is None:
            del data["selection"]["min_labels"]  # data prepared before there was this option are the same
        data["source"] = {key: value for key, value in data["source"].items() if key not in ON_THIS_MACHINE}
        if data["source"]["users"] is None:
            del data["source"]["users"]  # likewise
        if not data["source"].get("indirect", True):
            del data["source"]["indirect"]  # likewise
        return data
