"""Systems that are not trained by gradient descent, as ordinary ``model=`` choices: same users, draws, scorer and files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError
from mmprofile.inputs.views import Example, User, View, build_view, check_paradigm
from mmprofile.profile.schema import Schema
from mmprofile.systems.answers import AnswerFile
from mmprofile.systems.classical import LOGISTIC, Estimators, Features, Fitted, majority, tfidf
from mmprofile.systems.features import PHOTOS_AND_TEXT, PhotoFeatures, tfidf_and_photos


class System(Protocol):
    """What writes profiles without being trained here.

    Attributes:
        view: what it is shown of a user.
        repeats: whether it can be asked of the same users with other photos.
        n_parameters: fitted coefficients; None where nothing is fitted here.
    """

    view: View
    repeats: bool
    n_parameters: int | None

    def fit(self, data: Any) -> None:
        """Learns from ``data.users("train")``; called once, before :meth:`predict`."""

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """The profile text of each user; ``label`` is of a progress bar."""

    def facts(self) -> dict[str, Any]:
        """What ``metrics.json`` tells besides."""


class Majority:
    """The most frequent value of every attribute."""

    view = View("nothing", "text", reviews=False)
    repeats = True
    n_parameters: int | None = 0

    def __init__(self, cfg: Any, schema: Schema, folder: Path) -> None:
        self.schema = schema

    def fit(self, data: Any) -> None:
        """Counts."""
        self.train = data.examples("train")

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """The same for everybody."""
        return [self.schema.render(p) for p in majority(self.schema, self.train, [Example.of(u) for u in users])]

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass
class TfidfConfig:
    """``model.options`` of ``conf/model/tfidf_lr.yaml``."""

    captions: bool


class Linear:
    """Logistic regression on features, chosen by cross-validation; see :class:`mmprofile.systems.classical.Fitted`.

    Args:
        features: the data -> what is made of the users.
        estimators: the choices.
    """

    repeats = True

    def __init__(self, schema: Schema, view: View, features: Callable[[Any], Features], estimators: Estimators) -> None:
        self.schema, self.view, self.features, self.estimators = schema, view, features, estimators
        self.n_parameters: int | None = None

    def fit(self, data: Any) -> None:
        """Chooses, then fits."""
        self.fitted = Fitted(self.schema, data.examples("train"), self.features(data), self.estimators)
        self.n_parameters = self.fitted.n_parameters

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """One text per user."""
        return [self.schema.render(profile) for profile in self.fitted.predict([Example.of(user) for user in users])]

    def facts(self) -> dict[str, Any]:
        """What cross-validation chose for each attribute."""
        return {"choices": self.fitted.choices}


def tfidf_lr(cfg: Any, schema: Schema, folder: Path) -> System:
    """TF-IDF of the reviews and, with ``options.captions``, of the photos' captions."""
    captions = typed_part(TfidfConfig, cfg.model.options, "model.options").captions
    view = build_view("fusion", "uni" if captions else "text")
    return Linear(schema, view, lambda data: tfidf(captions), LOGISTIC)


def tfidf_image(cfg: Any, schema: Schema, folder: Path) -> System:
    """TF-IDF of the reviews, colours and edges of the photos."""
    view = build_view("fusion", "multi")
    return Linear(schema, view, lambda data: tfidf_and_photos(PhotoFeatures(data.jpeg)), PHOTOS_AND_TEXT)


def chat(cfg: Any, schema: Schema, folder: Path) -> System:
    """A model at an endpoint, asked for what the paradigm shows when it predicts."""
    try:
        from mmprofile.systems.chat import Chat, ChatConfig
    except ImportError as error:
        raise UserError(f"model.system=chat needs the package {error.name}: pip install 'mmprofile[llm]'") from error
    settings = typed_part(ChatConfig, cfg.model.options, "model.options")
    return Chat(settings, schema, check_paradigm(cfg.paradigm).prediction_view, folder, cfg.seed)


def file(cfg: Any, schema: Schema, folder: Path) -> System:
    """Answers from a file."""
    path = cfg.model.options.get("path")
    if path is None:
        raise UserError("model.system=file: add model.options.path=... (JSONL of user_id, and text or profile)")
    return AnswerFile(Path(path).expanduser(), check_paradigm(cfg.paradigm).prediction_view)


SYSTEMS: dict[str, Callable[[Any, Schema, Path], System]] = {
    "majority": Majority,
    "tfidf_lr": tfidf_lr,
    "tfidf_image": tfidf_image,
    "chat": chat,
    "file": file,
}


def check_system(name: str) -> None:
    """Whether there is such a system.

    Raises:
        UserError: there is not.
    """
    if name != "neural" and name not in SYSTEMS:
        raise UserError(f"model.system={name!r} is not one of neural, {', '.join(SYSTEMS)}")
