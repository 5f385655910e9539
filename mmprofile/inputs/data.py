"""What the data of a run can do, whoever made them: ``conf/`` names the classes, :mod:`datamodules` has them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from omegaconf import OmegaConf

from mmprofile.config.targets import build
from mmprofile.files import read_json
from mmprofile.inputs.evidence import EvidenceSelector
from mmprofile.inputs.views import Example, InputSettings, User, View
from mmprofile.profile.schema import Schema

if TYPE_CHECKING:  # torch takes seconds, and preparing data needs none
    from mmprofile.inputs.batch import Batch, Collator

DEMO_MAKER = "datamodules.prepare.prepare"
SCHEMA = "schema.yaml"
"""Of a run whose schema has numbers: their bins are those of its data."""


class ExampleData(Protocol):
    """Examples for the classical baselines."""

    def examples(self, split: str) -> list[Example]:
        """Return the users of a split, with the true cues where a generated city gives them."""


class UserData(ExampleData, Protocol):
    """The users of each split, as every system sees them.

    Attributes:
        inputs: what is shown of a user.
        prepared: the opened folder of the data (:class:`datamodules.prepared.Prepared`).
    """

    inputs: InputSettings
    prepared: Any

    def users(self, split: str) -> list[User]:
        """Return the users of a split, with their profiles."""

    def judged(self, split: str) -> list[User]:
        """Return the users of a split with the gold profiles that predictions are scored against."""


class PhotoData(UserData, Protocol):
    """Users with what was drawn of them, and with the files of their photos.

    Attributes:
        selector: of sentences from reviews that were not drawn; None: none are shown.
    """

    selector: EvidenceSelector | None

    def of(self, split: str) -> list[tuple[tuple[Mapping[str, Any], ...], User]]:
        """Return each user of a split with the rows of the reviews that were drawn."""

    def jpeg(self, photo_id: str) -> bytes:
        """Return a photo's file."""


class BatchData(UserData, Protocol):
    """Users in batches, for a model.

    Attributes:
        views: of the paradigm, the one used for prediction first.
        loss_weights: a weight per view; None where views are drawn by their weights.
        collator: makes batches of users.
        draws: the users without batches.
        seed: of the run.
        eval_batch_size: users per batch of :meth:`loader`.
    """

    views: tuple[View, ...]
    loss_weights: list[float] | None
    collator: "Collator"
    draws: PhotoData
    seed: int
    eval_batch_size: int

    def loader(self, users: Sequence[User]) -> Iterable["Batch"]:
        """Return batches of any users in the prediction view, in order."""

    def val_dataloader(self) -> Iterable["Batch"]:
        """Return batches of the validation split in the prediction view."""

    def steps_per_epoch(self, world: int = 1) -> int:
        """Return the optimizer steps of an epoch on each of ``world`` ranks."""


class FoundData(NamedTuple):
    """Data that are prepared, or that could be.

    Attributes:
        folder: where they are or would be.
        there: whether they are prepared.
        photos: whether they have photos, as far as can be seen.
        captions: whether the photos have captions; only a generated city has some before it is prepared.
    """

    folder: Path
    there: bool
    photos: bool
    captions: bool


def is_generated(data: Any) -> bool:
    """Return whether a configuration's ``data`` are the demo city's, whatever they are called: its people are nobody."""
    prepare = data.prepare
    return prepare.get("_target_") == DEMO_MAKER and OmegaConf.select(prepare, "source.kind") == "demo"


def find_data(data: Any, schema: Schema) -> FoundData:
    """Return what can be said of the data without preparing them; nothing is written.

    Args:
        data, schema: as for :func:`prepare_data`.

    Raises:
        UserError: the data could not be prepared: raw files are missing, say.
    """
    folder, photos, captions = build(data.prepare, _partial_=True)(schema=schema.observed, look=True)
    there = (folder / "manifest.json").is_file()
    if there:
        manifest = read_json(folder / "manifest.json")
        photos = manifest.get("photos", {}).get("stored") != 0
        captions = (folder / "captions.parquet").is_file()
    return FoundData(folder, there, photos, captions)


def prepare_data(data: Any, schema: Schema) -> Path:
    """Return the prepared folder of a configuration's ``data``, prepared now if it is not there yet.

    Args:
        data: the configuration's ``data``.
        schema: whose observed attributes are labelled.

    Raises:
        UserError: the data cannot be prepared.
    """
    return Path(build(data.prepare, _partial_=True)(schema=schema.observed))


def completed_schema(data: Any, schema: Schema, folder: str | None = None) -> Schema:
    """Return a schema with its numbers as the prepared data have them; one without numbers as it is.

    Args:
        data, schema: as for :func:`prepare_data`.
        folder: where the prepared data are; None: prepared now if they are not there yet.

    Raises:
        UserError: the data cannot be prepared or read.
    """
    if not schema.has_numbers:
        return schema
    prepared = prepare_data(data, schema) if folder is None else Path(folder).expanduser()
    return schema.completed(Schema.from_yaml(prepared / "schema.yaml"))


def run_schema(folder: Path, cfg: Any) -> Schema:
    """Return the schema of a run's profiles, with the bins of numbers.

    Args:
        folder: the run's.
        cfg: its configuration, which has what was asked for.

    Raises:
        UserError: it cannot be read.
    """
    completed = folder / SCHEMA
    return Schema.from_yaml(completed) if completed.is_file() else Schema.from_config(cfg.profile)
