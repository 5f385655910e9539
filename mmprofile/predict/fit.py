"""Training from Python: people become the files that ``data=custom`` reads, and the commands do the rest.

This module imports all that training needs, so :class:`mmprofile.predict.profiler.Profiler` imports it only to train.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import open_dict

from mmprofile.caption.run import main as caption
from mmprofile.config.command import quiet
from mmprofile.config.compose import load_config
from mmprofile.config.settings import TrainConfig
from mmprofile.config.words import as_words
from mmprofile.errors import UserError
from mmprofile.files import whole, without_nan, write_text
from mmprofile.predict.given import photo_content
from mmprofile.profile.schema import Schema
from mmprofile.train.paradigm import follow_data
from mmprofile.train.run import main as train
from mmprofile.train.run import run_folder

REVIEW = ("text", "review_id", "business_id", "stars", "date")
"""What a review has besides photos; all but ``text`` may be left out."""
LISTS = ("reviews", "photos", "captions")


def train_on(users: Any, schema: Any, labels: Any, options: Mapping[str, Any]) -> Path:
    """Train as ``python -m mmprofile.train data=custom`` does, and return the run's folder.

    The people are written to ``<out>/people/``, into a folder that their content names.

    Args:
        users, schema, labels: see :meth:`mmprofile.predict.profiler.Profiler.fit`.
        options: key or group of the configuration -> its value, or a mapping of further keys.

    Raises:
        UserError: as the command does, and where a row is no person.
    """
    quiet()
    words = [word for key, value in options.items() for word in as_words(key, value)]
    cfg = _config(words, schema, {"reviews": Path("people")})  # a mistake in the options is told first
    if cfg.model.system != "neural":
        raise UserError(
            f"model={cfg.model.name} leaves no model to predict with: train it with python -m mmprofile.train"
        )
    people = People(Path(cfg.out).expanduser() / "people", Schema.from_config(cfg.profile))
    try:
        for number, row in enumerate(_rows(users, "users")):
            people.add(row, number)
        people.add_labels(labels)
        files = people.write()
    except OSError as error:
        raise UserError(f"cannot write {people.folder}: {error.strerror}; choose another out=") from error
    if people.silent:
        print(f"{people.silent:,} rows of users have no reviews: these people are left out", flush=True)
    files["photo_root"] = Path(people.folder.anchor)  # who gives paths as objects may give any
    table = files.pop("captions", None)
    cfg = _config(words, schema, files)
    if table is not None:
        captions = load_config("caption", ["backend=file", *as_words("path", table), "existing=replace"])
        captions.data, captions.profile = cfg.data, cfg.profile
        caption(captions)
    if more := follow_data(cfg, words):
        cfg = _config([*words, *more], schema, files)
    train(cfg)
    return run_folder(cfg)


def _config(words: list[str], schema: Any, files: Mapping[str, Path]) -> TrainConfig:
    """Return the configuration of a training on files of people."""
    source = [word for name, path in files.items() for word in as_words(f"data.prepare.source.{name}", path)]
    cfg: Any = load_config("train", ["data=custom", *source, *_schema_word(schema), *words])
    if isinstance(schema, Schema | Mapping):
        given = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        with open_dict(cfg):
            cfg.profile = given.to_dict()
    return cfg


class People:
    """People who are given as rows, as the rows of files; photos that are no files are written at once.

    Args:
        folder: to write to.
        schema: whose rules may read more columns of reviews.

    Attributes:
        silent: the number of rows without a review.
    """

    def __init__(self, folder: Path, schema: Schema) -> None:
        self.folder = folder.absolute()
        sources = [str((attribute.rule or {}).get("source", "")).split(".") for attribute in schema.attributes]
        named = {column for table, *columns in sources if table == "review" for column in columns}
        self.columns = {*REVIEW, *named} - {"user_id", *LISTS}
        self.silent = 0
        self.reviews: list[dict[str, Any]] = []
        self.captions: dict[str, str] = {}
        self.labels: dict[str, dict[str, Any]] = {}

    def add(self, row: Mapping[str, Any], number: int) -> None:
        """Add a person, or a review of one: a row with ``text``.

        Args:
            row: all that is neither of a review nor a list of :data:`LISTS` is a label.
            number: of the row; names a person without an id.

        Raises:
            UserError: the row is neither.
        """
        one_review = "text" in row
        if one_review and _is_missing(row.get("user_id")):
            raise UserError(f"users, row {number}: a review needs a user_id")
        user = str(number if _is_missing(row.get("user_id")) else row["user_id"])
        reviews = [row] if one_review else self._list(row, "reviews", user)
        rows = [self._review(review, user) for review in reviews]
        photos = [] if one_review else self._photos(row, user)
        self.silent += not rows
        for place, photo in enumerate(photos if rows else []):  # whose photo it is matters, not of which review
            rows[place % len(rows)].setdefault("photos", []).append(photo)
        self.reviews += rows
        known = {"user_id", *LISTS, *(self.columns if one_review else ())}
        self._label(user, {name: value for name, value in row.items() if name not in known})

    def add_labels(self, labels: Any) -> None:
        """Add labels that are given apart: rows with ``user_id``, or a mapping of user ids to their labels."""
        if isinstance(labels, Mapping):
            labels = [{"user_id": user, **row} for user, row in labels.items()]
        for number, row in enumerate(_rows([] if labels is None else labels, "labels")):
            if _is_missing(row.get("user_id")):
                raise UserError(f"labels, row {number}: no user_id")
            self._label(str(row["user_id"]), {name: value for name, value in row.items() if name != "user_id"})

    def write(self) -> dict[str, Path]:
        """Write the files, unless they are there, and return their paths: reviews, labels and captions if there are any.

        Raises:
            UserError: there is no review.
        """
        if not self.reviews:
            raise UserError("users: there is no review in any of the rows")
        captions = [{"path": path, "caption": caption} for path, caption in self.captions.items()]
        labels = [{"user_id": user, **row} for user, row in self.labels.items()]
        tables: dict[str, list[dict[str, Any]]] = {"reviews": self.reviews, "labels": labels, "captions": captions}
        texts = {name: "".join(_json(row) + "\n" for row in rows) for name, rows in tables.items() if rows}
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]
        paths = {name: self.folder / digest / f"{name}.jsonl" for name in texts}
        for name, path in paths.items():
            if not path.exists():
                write_text(path, texts[name])
        return paths

    def _review(self, review: Any, user: str) -> dict[str, Any]:
        """Return a row of the file of reviews."""
        given = {"text": review} if isinstance(review, str) else review
        text = given.get("text") if isinstance(given, Mapping) else None
        if not isinstance(text, str) or text.encode("utf-8", "ignore").decode() != text:
            raise UserError(f"person {user}: a review is {review!r:.60}: give a text, or a mapping with text")
        known = {
            name: _plain(value) for name, value in given.items() if name in self.columns and not _is_missing(value)
        }
        row = {"user_id": user, **known}
        photos = self._photos(given, user)
        return row | {"photos": photos} if photos else row

    def _photos(self, holder: Mapping[str, Any], user: str) -> list[str]:
        """Return the paths of the photos of a person or review, and keep their captions."""
        photos, captions = (self._list(holder, key, user) for key in ("photos", "captions"))
        if captions and len(captions) != len(photos):
            raise UserError(
                f"person {user}: {len(captions)} captions for {len(photos)} photos; give one for each, or None"
            )
        paths = [self._file(photo, f"photo {place} of person {user}") for place, photo in enumerate(photos)]
        self.captions |= {
            path: text for path, text in zip(paths, captions, strict=bool(captions)) if not _is_missing(text)
        }
        return paths

    def _file(self, photo: Any, what: str) -> str:
        """Return the path of a photo, which is written if it is none."""
        content = photo_content(photo, what)
        if isinstance(content, bytes):
            path = self.folder / "photos" / hashlib.sha256(content).hexdigest()
            if not path.exists():
                with whole(path) as partial:
                    partial.write_bytes(content)
            return str(path)
        return str(content.absolute())

    def _label(self, user: str, labels: Mapping[str, Any]) -> None:
        """Add labels of a person, but for those that are missing."""
        for name, value in labels.items():
            if _is_missing(value):
                continue
            plain = _plain(value)
            known = self.labels.setdefault(user, {}).setdefault(str(name), plain)
            if known != plain:
                raise UserError(f"person {user}: {name} is {known!r} in one row and {plain!r} in another")

    @staticmethod
    def _list(holder: Mapping[str, Any], key: str, user: str) -> list[Any]:
        value = holder.get(key)
        if isinstance(value, str | bytes | Mapping) or not (_is_missing(value) or isinstance(value, Iterable)):
            raise UserError(f"person {user}: {key} is {value!r:.60}: give a list")
        return [] if value is None or _is_missing(value) else [*value]


def _rows(table: Any, name: str) -> Iterable[Mapping[str, Any]]:
    """Yield the rows of a DataFrame or of any iterable of mappings; missing cells are None.

    Raises:
        UserError: it is neither.
    """
    if hasattr(table, "columns") and hasattr(table, "to_dict"):
        table = table.astype(object).where(table.notna(), None).to_dict("records")
    if isinstance(table, str | Mapping) or not isinstance(table, Iterable):
        raise UserError(f"{name} is {table!r:.60}: give a DataFrame or a list of dicts")
    for number, row in enumerate(table):
        if not isinstance(row, Mapping):
            raise UserError(f"{name}, row {number} is {row!r:.60}: give a dict")
        yield row


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _json(row: Mapping[str, Any]) -> str:
    """Return a line of a file."""
    return json.dumps(without_nan(row), ensure_ascii=False, default=str)  # dates have many types


def _schema_word(schema: Any) -> list[str]:
    """Return the word that chooses a schema of conf/profile or of a file."""
    if isinstance(schema, str | Path):
        return [f"profile={schema}"]
    if isinstance(schema, Schema | Mapping):
        return []
    raise UserError(f"schema is {schema!r:.60}: give a Schema, a dict, or a YAML file")
