"""Systems that are not trained by gradient descent, as ordinary ``model=`` choices: same users, draws, scorer and files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmprofile.config.parts import typed_part
from mmprofile.config.settings import TrainConfig
from mmprofile.errors import UserError
from mmprofile.inputs.data import PhotoData
from mmprofile.inputs.views import Example, User, View, build_view, check_paradigm
from mmprofile.profile.schema import Schema
from mmprofile.systems.answers import AnswerFile
from mmprofile.systems.classical import LOGISTIC, AttributeClassifiers, Estimators, FitFeatures, majority, tfidf
from mmprofile.systems.features import PHOTOS_AND_TEXT, PhotoFeatures, tfidf_and_photos


class System(Protocol):
    """A system that writes profiles and is not trained by us.

    Attributes:
        view: what it is shown of a user.
        repeats: whether it can predict the same users again with other photos.
        n_parameters: fitted coefficients; None where nothing is fitted here.
    """

    view: View
    repeats: bool
    n_parameters: int | None

    def fit(self, data: PhotoData) -> None:
        """Learn from the training users; called once, before :meth:`predict`."""

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """Return the profile text of each user; ``label`` is of a progress bar."""

    def facts(self) -> dict[str, Any]:
        """Return what ``metrics.json`` should say about the system."""


class MakeSystem(Protocol):
    """Makes a system from a configuration, its schema and the run's folder."""

    def __call__(self, *, cfg: TrainConfig, schema: Schema, folder: Path) -> System:
        """Return the system.

        Raises:
            UserError: an option of the system is unknown or makes no sense.
        """


class MajoritySystem:
    """Predicts the most frequent value of every attribute."""

    repeats = True

    def __init__(self, schema: Schema) -> None:
        self.schema, self.view = schema, View("nothing", "text", reviews=False)
        self.n_parameters: int | None = 0

    def fit(self, data: PhotoData) -> None:
        """Keep the training examples."""
        self.train = data.examples("train")

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """Return the same text for every user."""
        profiles = majority(self.schema, self.train, [Example.of(user) for user in users])
        return [self.schema.render(profile) for profile in profiles]

    def facts(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class LinearSystem:
    """Logistic regression on features, tuned per attribute; see :class:`mmprofile.systems.classical.AttributeClassifiers`.

    Args:
        schema: of the profiles.
        view: what the features are made of.
        features: data -> the function that fits features to training examples.
        estimators: to choose from.
    """

    repeats = True

    def __init__(
        self, *, schema: Schema, view: View, features: Callable[[PhotoData], FitFeatures], estimators: Estimators
    ) -> None:
        self.schema, self.view, self.features, self.estimators = schema, view, features, estimators
        self.n_parameters: int | None = None

    def fit(self, data: PhotoData) -> None:
        """Choose an estimator for each attribute by cross-validation, then fit it to all training examples."""
        self.classifiers = AttributeClassifiers(
            self.schema, data.examples("train"), self.features(data), self.estimators
        )
        self.n_parameters = self.classifiers.n_parameters

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """Return the profile text of each user."""
        profiles = self.classifiers.predict([Example.of(user) for user in users])
        return [self.schema.render(profile) for profile in profiles]

    def facts(self) -> dict[str, Any]:
        """Return what cross-validation chose for each attribute."""
        return {"choices": self.classifiers.choices}


@dataclass
class TfidfConfig:
    """``model.options`` of ``conf/model/tfidf_lr.yaml``."""

    captions: bool


def majority_system(*, cfg: TrainConfig, schema: Schema, folder: Path) -> System:
    """Return the system that predicts the most frequent values."""
    return MajoritySystem(schema)


def tfidf_system(*, cfg: TrainConfig, schema: Schema, folder: Path) -> System:
    """Return TF-IDF of the reviews and, with ``options.captions``, of the photos' captions."""
    captions = typed_part(TfidfConfig, cfg.model.options, "model.options").captions
    view = build_view("fusion", "uni" if captions else "text")
    return LinearSystem(schema=schema, view=view, features=lambda data: tfidf(captions), estimators=LOGISTIC)


def tfidf_photos_system(*, cfg: TrainConfig, schema: Schema, folder: Path) -> System:
    """Return TF-IDF of the reviews with colours and edges of the photos."""
    return LinearSystem(
        schema=schema,
        view=build_view("fusion", "multi"),
        features=lambda data: tfidf_and_photos(PhotoFeatures(data.jpeg)),
        estimators=PHOTOS_AND_TEXT,
    )


def chat_system(*, cfg: TrainConfig, schema: Schema, folder: Path) -> System:
    """Return a model at an endpoint, which reads what the paradigm shows when it predicts."""
    try:
        from mmprofile.systems.chat import Chat, ChatConfig
    except ImportError as error:
        raise UserError(f"model.system=chat needs the package {error.name}: pip install 'mmprofile[llm]'") from error
    return Chat(
        typed_part(ChatConfig, cfg.model.options, "model.options"),
        schema=schema,
        view=check_paradigm(cfg.paradigm).prediction_view,
        folder=folder,
        seed=cfg.seed,
    )


def answer_file_system(*, cfg: TrainConfig, schema: Schema, folder: Path) -> System:
    """Return a system whose answers are in a file."""
    path = cfg.model.options.get("path")
    if path is None:
        raise UserError("model.system=file: add model.options.path=... (JSONL of user_id, and text or profile)")
    return AnswerFile(Path(path).expanduser(), check_paradigm(cfg.paradigm).prediction_view, schema)


SYSTEMS: dict[str, MakeSystem] = {
    "majority": majority_system,
    "tfidf_lr": tfidf_system,
    "tfidf_image": tfidf_photos_system,
    "chat": chat_system,
    "file": answer_file_system,
}
"""The values of ``model.system`` besides ``neural``."""


def check_system(name: str) -> None:
    """Refuse an unknown ``model.system``.

    Raises:
        UserError: names the known ones.
    """
    if name != "neural" and name not in SYSTEMS:
        raise UserError(f"model.system={name!r} is not one of neural, {', '.join(SYSTEMS)}")
