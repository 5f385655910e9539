"""The `prepare:` part of ``conf/data/*.yaml`` as typed values; a wrong key or type is one clear line."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from mmprofile.errors import UserError

T = TypeVar("T")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Selection:
    """Which reviews and users stay: words per review, reviews per user, reviews with a usable photo per user."""

    min_words: int = 10
    max_words: int = 300
    min_reviews: int = 30
    photo_reviews: int = 3


@dataclass(frozen=True)
class Split:
    """Sizes of the splits: all integers (users), or all fractions of the users that remain."""

    train: float = 0.7
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0

    @property
    def counted(self) -> bool:
        """Whether the sizes are numbers of users."""
        return isinstance(self.train, int)


@dataclass(frozen=True)
class PhotoOptions:
    """What to do with photos: ``policy`` drop or error for unusable ones, sizes in pixels."""

    policy: str = "drop"
    shorter_side: int = 256
    max_pixels: int = 50_000_000


@dataclass(frozen=True)
class DemoSource:
    """The generated city."""

    kind: str = "demo"
    users: int = 1500
    seed: int = 0
    keep_raw: bool = False


@dataclass(frozen=True)
class YelpSource:
    """The Yelp Open Dataset as downloaded: a folder, a zip or tar, or several of them."""

    path: Any
    kind: str = "yelp"


@dataclass(frozen=True)
class CustomSource:
    """A user's own data: JSONL or Parquet of reviews, a folder of photos, and optionally labels."""

    reviews: Any
    kind: str = "custom"
    photos: str | None = None
    photo_root: str | None = None
    labels: str | None = None


Source = DemoSource | YelpSource | CustomSource
SOURCES: dict[str, type] = {"demo": DemoSource, "yelp": YelpSource, "custom": CustomSource}
MAX_PIXELS_LIMIT = 178_000_000  # Pillow itself refuses more than 178,956,970


@dataclass(frozen=True)
class Options:
    """Everything :func:`datamodules.prepare.prepare` is told, checked."""

    source: Source
    selection: Selection
    split: Split
    photos: PhotoOptions
    engine: str

    @classmethod
    def checked(cls, source: Any, selection: Any, split: Any, photos: Any, engine: str) -> "Options":
        """Options from plain or OmegaConf mappings.

        Raises:
            UserError: an unknown key, a wrong type, or a value that makes no sense; names the nearest valid choice.
        """
        given = plain(source or {}, "source")
        kind = str(given.get("kind", ""))
        if kind not in SOURCES:
            raise UserError(
                f"data.prepare.source.kind is {kind!r}: choose one of {', '.join(SOURCES)}{nearest(kind, SOURCES)}"
            )
        if engine != "duckdb":
            raise UserError(f"data.prepare.engine is {engine!r}: the engine this version has is duckdb")
        options = cls(
            source=_build(SOURCES[kind], given, "source"),
            selection=_build(Selection, plain(selection or {}, "selection"), "selection"),
            split=_build(Split, plain(split or {}, "split"), "split"),
            photos=_build(PhotoOptions, plain(photos or {}, "photos"), "photos"),
            engine=engine,
        )
        options._check_values()
        return options

    def _check_values(self) -> None:
        chosen, photos, split = self.selection, self.photos, self.split
        if chosen.min_words > chosen.max_words or min(chosen.min_words, chosen.min_reviews, chosen.photo_reviews) < 0:
            raise UserError(
                "data.prepare.selection: needs 0 <= min_words <= max_words, min_reviews >= 0, photo_reviews >= 0"
            )
        if photos.policy not in ("drop", "error"):
            raise UserError(f"data.prepare.photos.policy is {photos.policy!r}: choose drop or error")
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
        """Plain data without machine paths, the same on every machine; for the manifest and the fingerprint."""
        data = asdict(self)
        hidden = ("path", "reviews", "photos", "photo_root", "labels", "keep_raw")
        data["source"] = {key: value for key, value in data["source"].items() if key not in hidden}
        return data


def plain(value: Any, where: str) -> Any:
    """Dicts, lists and scalars from whatever a config system hands over (OmegaConf's containers included).

    Raises:
        UserError: a mandatory value (``???``) was not given.
    """
    if isinstance(value, Mapping):
        found = {}
        for key in value:
            try:
                item = value[key]
            except Exception as error:
                if type(error).__name__ != "MissingMandatoryValue":
                    raise
                raise UserError(
                    f"data.prepare.{where}.{key} is not set: give it on the command line or in conf/data"
                ) from None
            if item == "???":
                raise UserError(f"data.prepare.{where}.{key} is not set: give it on the command line or in conf/data")
            found[str(key)] = plain(item, f"{where}.{key}")
        return found
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item, where) for item in value]
    return value


def nearest(word: str, choices: Mapping[str, Any] | Sequence[str]) -> str:
    """`` (did you mean x?)`` for the closest choice, or nothing."""
    close = difflib.get_close_matches(str(word), list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _build(cls: type[T], data: dict[str, Any], where: str) -> T:
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key, value in data.items():
        if key not in known:
            raise UserError(f"data.prepare.{where} has no key {key!r}{nearest(key, known)}; keys: {', '.join(known)}")
        expected = known[key].type
        right = {
            int: isinstance(value, int) and not isinstance(value, bool),
            float: isinstance(value, int | float) and not isinstance(value, bool),
            str: isinstance(value, str),
            bool: isinstance(value, bool),
            str | None: value is None or isinstance(value, str),
        }.get(expected, True)  # type: ignore[arg-type]
        if not right:
            name = getattr(expected, "__name__", str(expected))
            raise UserError(
                f"data.prepare.{where}.{key} is {value!r}: expected {'a number' if name == 'float' else name}"
            )
    missing = [name for name in ("path", "reviews") if name in known and not data.get(name)]
    if missing:
        raise UserError(f"data.prepare.{where}.{missing[0]} is not set: say where the raw data lie")
    return cls(**data)
