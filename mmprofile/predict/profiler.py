"""Profiles of anybody from Python: ``Profiler.from_pretrained("outputs/both").predict(reviews=[...], photos=[...])``.

Nothing of training is imported here: no Lightning, no Hydra, no scikit-learn, no datasets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin
from omegaconf import OmegaConf

from mmprofile.config.settings import CaptionerConfig
from mmprofile.errors import UserError
from mmprofile.files import write_text
from mmprofile.inputs.views import Masking
from mmprofile.inspection.counterfactuals import effects, without_each
from mmprofile.model.decoding import Decoded
from mmprofile.model.exports import load_pretrained
from mmprofile.model.hub import TRANSPORT, fetch_export, why_not_pushed
from mmprofile.model.model import ProfileModel
from mmprofile.paths import conf_dir
from mmprofile.predict.certainty import Certainty, check_calibrator, choose_calibrator
from mmprofile.predict.given import GivenPhotos, PhotoLike
from mmprofile.predict.predicted import Alternative, Evidence, PredictedProfile
from mmprofile.predict.rows import InputUser
from mmprofile.predict.users import (
    Captioner,
    ProcessedPhoto,
    Selection,
    batches,
    plain,
    prediction_view,
)
from mmprofile.profile.schema import Profile, Schema, check_purpose
from mmprofile.report.card import model_card

CARD = "README.md"
ALTERNATIVES = 5
"""Values of an attribute that a prediction tells, at most."""


class Profiler(ModelHubMixin, library_name="mmprofile"):
    """Writes profiles of people with a trained model.

    Args:
        model: put into evaluation mode.
        captioner: captions photos that have no caption, if the model reads captions.
        purpose: what sensitive attributes are predicted for, which is written beside each profile; None: they are refused.

    Attributes:
        folder: the exported model that it was loaded from; None where it was made of a model.
    """

    def __init__(self, model: ProfileModel, captioner: Captioner | None = None, purpose: str | None = None) -> None:
        self.model = model.eval()
        self.purpose = purpose
        self.folder: Path | None = None
        self._process = _photo_reader()
        self._captioner = captioner

    def __repr__(self) -> str:
        origin = "" if self.folder is None else f", from {self.folder}"
        return f"<Profiler of {', '.join(self.model.schema.names)}{origin}>"

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's own would ask the hub twice, and without a deadline
        cls,
        folder: str | Path,
        device: str = "cpu",
        captioner: str | Path | None = None,
        purpose: str | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> "Profiler":
        """Return a profiler with a trained model.

        Args:
            folder: a finished run, its ``model/`` or another exported model; else the hub id of one, such as ``ann/shops``.
            device: of torch.
            captioner: hub id or folder of a BLIP-2 that captions photos without captions, for a model that reads them.
            purpose: what sensitive attributes are predicted for.
            revision: branch, tag or commit of the hub's repository.
            token, cache_dir, force_download, local_files_only: as in all of the hub's client.

        Raises:
            UserError: there is none, it is damaged, or the hub cannot give it.
        """
        path = Path(folder).expanduser()
        if (path / "config.yaml").is_file():
            if not (path / "model").is_dir():
                raise UserError(f"{folder}: this run has no model: its training has not finished, or it trains none")
            path = path / "model"
        elif not path.exists():
            path = fetch_export(
                str(folder),
                revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        elif not (path / "config.json").is_file():
            raise UserError(f"{folder}: neither a run (config.yaml) nor an exported model (config.json) is there")
        maker = None if captioner is None else _load_captioner(str(captioner))
        profiler = cls(load_pretrained(path).to(device), maker, purpose)
        profiler.folder = path
        return profiler

    def push_to_hub(self, repo_id: str, *, private: bool | None = True, **options: Any) -> str:
        """Upload the model with its card to a hub, and return the address of the commit.

        Args:
            repo_id: such as ``ann/shops``; made if it is not there.
            private: whether a new repository is private, which it is unless you say otherwise; None: as the hub's own default.
            options: ``commit_message``, ``token``, ``branch`` and others, see ``huggingface_hub.ModelHubMixin.push_to_hub``.

        Raises:
            UserError: the hub refuses it or cannot be reached.
        """
        try:
            return super().push_to_hub(repo_id, private=private, **options)
        except TRANSPORT as error:
            raise UserError(f"{repo_id} cannot be pushed: {why_not_pushed(error)}") from error

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write what ``from_pretrained`` needs, and the card of the model that was loaded.

        Raises:
            UserError: there are sensitive attributes, and neither the model nor its user has said what for.
        """
        check_purpose(self.model.schema, self.purpose, trained_for=self.model.settings.get("purpose"))
        self.model.save_pretrained(save_directory)
        card = None if self.folder is None else self.folder / CARD
        if card is not None and card.is_file():
            text = card.read_text(encoding="utf-8")
        else:
            text = model_card(self.model.schema, self.model.settings, {}, {})
        write_text(save_directory / CARD, text)

    @classmethod
    def fit(
        cls,
        users: Any,
        schema: Schema | Mapping[str, Any] | str | Path,
        labels: Any = None,
        paradigm: str | None = None,
        **options: Any,
    ) -> "Profiler":
        """Train on one's own people, as ``python -m mmprofile.train data=custom`` does, and return a profiler with the model.

        Args:
            users: a DataFrame or mappings. A row is a person: ``reviews`` (texts, or mappings with ``text`` and optionally
                ``photos``, ``stars``, ``business_id``, ``date``), optionally ``user_id``, ``photos``, ``captions``, and
                labels, an attribute a column. Or a row is a review: ``user_id``, ``text`` and the rest of a review.
            schema: what a profile has; also a YAML file, or the name of one in ``conf/profile``.
            labels: rows of ``user_id`` and attributes, or user id -> attribute -> value. None: they are in ``users``.
            paradigm: None: what the data have, as the command chooses it.
            options: keys of the command: ``name="shops", seed=1, trainer={"max_epochs": 20}``.

        Raises:
            UserError: as the command says it, and where a row is no person.
        """
        # Predicting needs none of Lightning, Hydra and the others that this imports.
        from mmprofile.predict.fit import train_on

        chosen = {"paradigm": paradigm} if paradigm else {}
        return cls.from_pretrained(train_on(users, schema, labels, chosen | options), purpose=options.get("purpose"))

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
            UserError: there is nothing to read, a photo cannot be used, ``known`` does not fit the schema, or sensitive
                attributes have no purpose.
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
        photos = GivenPhotos(self._process, self.model.transform, keep_images=self._captioner is not None)
        known: list[Profile] = []

        def rows() -> Iterator[InputUser]:
            for number, person in enumerate(people):
                name = str(number if person.get("user_id") is None else person["user_id"])
                known.append(self._known(person.get("known"), name))
                yield photos.take(person, name)

        check_purpose(self.model.schema, self.purpose)
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
            purpose=self.purpose,
        )

    def _explained(
        self,
        selections: Sequence[Selection],
        decoded: Sequence[Decoded],
        known: Sequence[Profile],
        photos: "GivenPhotos",
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
