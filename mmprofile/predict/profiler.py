"""Profiles of anybody from Python: ``Profiler.from_pretrained("outputs/both").predict(reviews=[...], photos=[...])``.

Nothing of training is imported here: no Lightning, no Hydra, no scikit-learn, no datasets.
"""

import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from mmprofile.config.settings import CaptionerConfig
from mmprofile.errors import UserError
from mmprofile.inputs.views import Masking
from mmprofile.inspection.counterfactuals import effects, without_each
from mmprofile.model.decoding import Decoded
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.paths import conf_dir
from mmprofile.predict.certainty import Certainty, check_calibrator, choose_calibrator
from mmprofile.predict.rows import InputUser
from mmprofile.predict.users import (
    Captioner,
    DecodedPhotos,
    ProcessedPhoto,
    Selection,
    batches,
    plain,
    prediction_view,
)
from mmprofile.profile.schema import Profile

PhotoLike = str | Path | bytes | Image.Image | np.ndarray
"""A file's path or content, an image, or pixels: uint8 (H, W) or (H, W, 3)."""
ALTERNATIVES = 5
"""Values of an attribute that a prediction tells, at most."""


class Alternative(NamedTuple):
    """A value of an attribute (a list where it has several) and its probability, 0 to 1."""

    value: Any
    probability: float


class Evidence(NamedTuple):
    """What a photo or review does to an attribute.

    Attributes:
        source: ``review 0``, ``photo 1``, ...: counted from 0 among those that the model was shown.
        total_variation: how much the attribute's posterior changes without it, 0 to 1.
        before, after: the probability of the predicted value with and without it.
    """

    source: str
    total_variation: float
    before: float
    after: float


@dataclass(frozen=True)
class PredictedProfile:
    """A profile, how sure it is, and why.

    Attributes:
        user_id: as given.
        values: attribute -> value, a list where it has several, None for Unknown and where the model abstains.
        confidence: attribute -> the probability that the model gives to the value, calibrated on the validation users of
            its training.
        alternatives: attribute -> its likeliest values.
        abstained: attributes whose value is less likely than ``abstain_below``.
        sets: attribute -> the values among which the true one is, for all users but the share ``risk``; None: not asked
            for.
        evidence: attribute -> what each photo and review does to it, the most influential first; None: not asked for.
        reviews, photos: the texts that the model was shown, and the places of the photos among those given.
    """

    user_id: str
    values: dict[str, Any]
    confidence: dict[str, float]
    alternatives: dict[str, list[Alternative]]
    abstained: list[str]
    sets: dict[str, list[Any]] | None
    evidence: dict[str, list[Evidence]] | None
    reviews: list[str]
    photos: list[int]

    def __getitem__(self, attribute: str) -> Any:
        return self.values[attribute]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON has them."""
        data = asdict(self)
        for name, rows in self.alternatives.items():
            data["alternatives"][name] = [row._asdict() for row in rows]
        for name, evidence in (self.evidence or {}).items():
            data["evidence"][name] = [row._asdict() for row in evidence]
        return data

    def __repr__(self) -> str:
        parts = [f"{name}: {_written(self.values[name])} ({share:.2f})" for name, share in self.confidence.items()]
        return f"<{'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        """Return a table for Jupyter."""
        columns = ["attribute", "value", "confidence", "next"] + (["moved most by"] if self.evidence else [])
        head = "".join(f"<th style='text-align:left'>{column}</th>" for column in columns)
        rows = []
        for name, share in self.confidence.items():
            value = f"abstained ({_written(self.alternatives[name][0].value)})" if name in self.abstained else None
            after = [f"{_written(a.value)} {a.probability:.2f}" for a in self.alternatives[name][1:3]]
            cells = [name, value or _written(self.values[name]), f"{share:.2f}", ", ".join(after)]
            if self.evidence:
                most = self.evidence[name][:1]
                cells += [f"{most[0].source} ({most[0].total_variation:.2f})" if most else ""]
            rows.append("".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells))
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


class Profiler:
    """Writes profiles of people with a trained model.

    Args:
        model: put into evaluation mode.
        captioner: captions photos that have no caption, if the model reads captions.
    """

    def __init__(self, model: ProfileModel, captioner: Captioner | None = None) -> None:
        self.model = model.eval()
        self._process = _photo_reader()
        self._captioner = captioner

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str = "cpu", captioner: str | Path | None = None
    ) -> "Profiler":
        """Return a profiler with a trained model.

        Args:
            folder: a finished run, its ``model/`` or another exported model.
            device: of torch.
            captioner: hub id or folder of a BLIP-2 that captions photos without captions, for a model that reads them.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = Path(folder).expanduser()
        if (path / "config.yaml").is_file():
            if not (path / "model").is_dir():
                raise UserError(f"{folder}: this run has no model: its training has not finished, or it trains none")
            path = path / "model"
        elif not (path / "config.json").is_file():
            raise UserError(f"{folder}: neither a run (config.yaml) nor an exported model (config.json) is there")
        return cls(load_pretrained(path).to(device), None if captioner is None else _load_captioner(str(captioner)))

    def predict(
        self,
        reviews: Sequence[str] = (),
        photos: Sequence[PhotoLike] = (),
        captions: Sequence[str | None] | None = None,
        *,
        known: Mapping[str, str | float | Sequence[str]] | None = None,
        abstain_below: float = 0.0,
        risk: float | None = None,
        explain: bool = False,
    ) -> PredictedProfile:
        """Return the profile of a person.

        Args:
            reviews: texts. Of more than the model was trained with some are drawn, always the same.
            photos: likewise.
            captions: parallel to ``photos``, None where a photo has none.
            known: attributes whose values are known; the others are predicted given these.
            abstain_below: least confidence of a value; less sure ones become None.
            risk: 0.1 asks for sets of values that hold the true one for 90 % of users.
            explain: whether to say what each photo and review does to each attribute.

        Raises:
            UserError: there is nothing to read, a photo cannot be used, or ``known`` does not fit the schema.
        """
        row = {"reviews": reviews, "photos": photos, "captions": captions, "known": known}
        [profile] = self.predict_many([row], abstain_below=abstain_below, risk=risk, explain=explain)
        return profile

    def predict_many(
        self,
        people: Iterable[Mapping[str, Any]],
        *,
        abstain_below: float = 0.0,
        risk: float | None = None,
        explain: bool = False,
        batch_size: int = 16,
    ) -> Iterator[PredictedProfile]:
        """Yield the profiles of people, in order; at most ``batch_size`` of them are in memory.

        Args:
            people: mappings with the arguments of :meth:`predict`, and ``user_id``.
            abstain_below, risk, explain: see :meth:`predict`.
            batch_size: people at a time.

        Raises:
            UserError: as :meth:`predict`; names the person.
        """
        photos = _GivenPhotos(self._process, self.model.transform, keep_images=self._captioner is not None)
        known: list[Profile] = []

        def rows() -> Iterator[InputUser]:
            for number, person in enumerate(people):
                name = str(number if person.get("user_id") is None else person["user_id"])
                known.append(self._known(person.get("known"), name))
                yield photos.take(person, name)

        check_calibrator(self.model, risk)
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: give 1 or more")

        for selections, batch in batches(self.model, rows(), photos, batch_size, self._captioner):
            given, known[:] = list(known), []
            for selection in selections:
                if not any(selection.used[name] for name in ("reviews", "photos", "captions")):
                    raise UserError(f"person {selection.user.user_id}: this model reads nothing of what was given")
            batch = batch.to(next(self.model.parameters()).device)
            decoded = self.model.decode(batch, known=given if any(given) else None)
            explained = self._explained(selections, decoded, given, photos) if explain else [None] * len(decoded)
            for selection, profile, evidence in zip(selections, decoded, explained, strict=True):
                certainty = Certainty.of(self.model, selection, profile, risk)
                yield self._profile(selection, certainty, evidence, abstain_below)

    def _profile(
        self,
        selection: Selection,
        certainty: Certainty,
        evidence: dict[str, list[Evidence]] | None,
        abstain_below: float,
    ) -> PredictedProfile:
        schema, decoded = self.model.schema, certainty.decoded
        confidence = decoded.confidence
        abstained = [name for name, share in confidence.items() if share < abstain_below]
        return PredictedProfile(
            user_id=selection.user.user_id,
            values={
                name: None if name in abstained else plain(schema[name], values)
                for name, values in decoded.profile.items()
            },
            confidence=confidence,
            alternatives={
                name: [Alternative(plain(schema[name], v), p) for v, p in [*shares.items()][:ALTERNATIVES]]
                for name, shares in decoded.posteriors.items()
            },
            abstained=abstained,
            sets=certainty.sets,
            evidence=evidence,
            reviews=[*selection.user.reviews] if selection.used["reviews"] else [],
            photos=[int(key.rpartition("/")[2]) for key in selection.user.photos] if selection.used["photos"] else [],
        )

    def _explained(
        self,
        selections: Sequence[Selection],
        decoded: Sequence[Decoded],
        known: Sequence[Profile],
        photos: "_GivenPhotos",
    ) -> list[dict[str, list[Evidence]]]:
        """Return, for each person, what each photo and review does to each attribute."""
        view = prediction_view(self.model)
        collator = self.model.collator(self.model.settings["inputs"], photos, Masking(), 0)
        explained = []
        for selection, raw, given in zip(selections, decoded, known, strict=True):
            calibrator = choose_calibrator(self.model, selection)
            before = raw.calibrated(calibrator)
            versions = without_each(selection.user, view)
            evidence: dict[str, list[Evidence]] = {name: [] for name in before.profile}
            if versions:
                batch = collator([*versions.values()], (view,)).to(next(self.model.parameters()).device)
                again = self.model.decode(batch, known=[given] * len(versions) if given else None)
                for source, after in zip(versions, [one.calibrated(calibrator) for one in again], strict=True):
                    moved = {row.attribute: row.total_variation for row in effects("", source, before, after)}
                    for name, values in before.profile.items():
                        shares = [decoded.posteriors[name].get(values, 0.0) for decoded in (before, after)]
                        evidence[name].append(Evidence(source, moved[name], *shares))
            explained.append(
                {name: sorted(rows, key=lambda row: -row.total_variation) for name, rows in evidence.items()}
            )
        return explained

    def _known(self, given: Mapping[str, str | float | Sequence[str]] | None, person: str) -> Profile:
        """Return the values that are known of a person, by the schema's names.

        Raises:
            UserError: an attribute that the schema does not have, or what is no value.
        """
        names = {name.lower(): name for name in self.model.schema.names}
        profile: Profile = {}
        for name, values in (given or {}).items():
            if name.lower() not in names:
                raise UserError(
                    f"person {person}: known: {name!r} is not an attribute: {', '.join(self.model.schema.names)}"
                )
            texts = self.model.schema[name].words(values)
            if not all(isinstance(text, str) for text in texts):
                raise UserError(f"person {person}: known: {name}: {values!r} is no text or list of texts")
            profile[names[name.lower()]] = tuple(texts)
        return profile


class _GivenPhotos:
    """Photos that were given as objects. A key is the number of the person, whatever their id, and the place among theirs."""

    def __init__(
        self,
        process: Callable[[bytes | Path], ProcessedPhoto],
        transform: Callable[[Image.Image], np.ndarray] | None,
        keep_images: bool,
    ) -> None:
        self.process, self._decoded = process, DecodedPhotos(transform, keep_images)
        self.images = self._decoded.images
        self._people = 0
        self._given: dict[str, tuple[PhotoLike, str]] = {}

    def take(self, person: Mapping[str, Any], name: str) -> InputUser:
        """Return a person as a row of an input, and remember the photos.

        Raises:
            UserError: there is nothing to read, or the captions are not as many as the photos.
        """
        lists = {key: person.get(key) for key in ("reviews", "photos", "captions")}
        for key, given in lists.items():
            if isinstance(given, str | bytes):
                raise UserError(f"person {name}: {key} is a text: give a list")
        reviews, photos, captions = ([] if given is None else [*given] for given in lists.values())
        if not all(isinstance(review, str) for review in reviews):
            raise UserError(f"person {name}: reviews must be texts")
        if not photos and not any(review.strip() for review in reviews):
            raise UserError(f"person {name}: there are neither reviews nor photos")
        if captions and len(captions) != len(photos):
            raise UserError(
                f"person {name}: {len(captions)} captions for {len(photos)} photos; give one for each, or None"
            )
        self._people += 1
        keys = [f"{self._people}/{place}" for place in range(len(photos))]
        what = [f"photo {place} of person {name}" for place in range(len(photos))]
        self._given |= dict(zip(keys, zip(photos, what, strict=True), strict=True))
        return InputUser(name, [review for review in reviews if review.strip()], keys, captions)

    def problem(self, path: str) -> str | None:
        """Decode a photo and keep its pixels.

        Raises:
            UserError: it cannot be used.
        """
        if path in self._decoded:
            return None
        given, what = self._given[path]
        photo = self.process(_content(given, what))
        if photo.jpeg is None or photo.reason is not None:
            raise UserError(f"{what}: {photo.reason}")
        self._decoded.add(path, photo.jpeg)
        return None

    def __call__(self, path: str) -> np.ndarray:
        return self._decoded.pixels[path]

    def forget(self) -> None:
        """Drop all photos."""
        self._given.clear()
        self._decoded.clear()


def _content(photo: PhotoLike, what: str) -> bytes | Path:
    """Return a photo as a file's content, or as its path.

    Raises:
        UserError: it is no photo.
    """
    if isinstance(photo, bytes):
        return photo
    try:
        if isinstance(photo, str | Path):
            if "\0" in str(photo):
                raise ValueError("no file has such a name")
            return Path(photo).expanduser()
        image = ImageOps.exif_transpose(Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo)
        file = io.BytesIO()
        (image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "LAB", "HSV") else image).save(file, format="PNG")
    except (AttributeError, OSError, TypeError, ValueError) as error:
        kind = f"an array of {photo.dtype} {photo.shape}" if isinstance(photo, np.ndarray) else repr(photo)[:60]
        raise UserError(
            f"{what}: {kind} is no photo; give a path, bytes, a PIL image or uint8 (height, width, 3)"
        ) from error
    return file.getvalue()


def _written(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value if value is not None else "Unknown")


def _load_captioner(checkpoint: str) -> Captioner:
    """Return a captioner with the settings of ``conf/captioner/blip2.yaml``."""
    from mmprofile.model.captioner import PhotoCaptioner

    settings: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "captioner" / "blip2.yaml"))
    return PhotoCaptioner(CaptionerConfig(**settings | {"checkpoint": checkpoint}))


def _photo_reader() -> Callable[[bytes | Path], ProcessedPhoto]:
    """Return the function that reads a photo as preparation does: that of ``conf/predict.yaml``, without Hydra."""
    node: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "predict.yaml"))
    photos = node["photos"]
    read, options = (_named(part["_target_"]) for part in (photos, photos["options"]))
    settings = options(**{key: value for key, value in photos["options"].items() if not key.startswith("_")})
    return lambda content: read(content, settings)


def _named(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)
