"""A run's folder: its configuration, its model, its data, and whether they still belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from mmprofile.config.compose import chosen_settings, read_run_config, typed
from mmprofile.config.settings import TrainConfig
from mmprofile.config.targets import build
from mmprofile.errors import UserError
from mmprofile.evaluate.rows import PREDICTIONS, read_predictions
from mmprofile.inputs.data import BatchData, PhotoData, UserData, prepare_data
from mmprofile.inputs.views import check_paradigm
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema

ELSEWHERE = "folder=/path/to/prepared"


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run of a model that was trained here.

    Attributes:
        folder: what ``mmprofile.train`` wrote.
        cfg: the configuration that it was trained with.
        model: its best weights, in evaluation mode.
    """

    folder: Path
    cfg: TrainConfig
    model: ProfileModel


def load_run(run: str) -> Run:
    """Return a finished run with its best model.

    Raises:
        UserError: there is no finished run, or its system leaves no model behind.
    """
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").is_file():
        raise UserError(f"run={run}: no run there (no config.yaml); a run is a folder that mmprofile.train wrote")
    cfg: TrainConfig = typed("train", read_run_config(folder))
    if cfg.model.system != "neural":
        raise UserError(
            f"run={run}: system {cfg.model.system} leaves no model behind; its scores are in {folder / 'metrics.json'}"
        )
    if not (folder / "model").is_dir():
        raise UserError(
            f"run={run}: its training has not finished; run the same mmprofile.train command again to go on"
        )
    return Run(folder=folder, cfg=cfg, model=load_pretrained(folder / "model"))


class Predictor(NamedTuple):
    """A model for people who are in no prepared data; ``beams``: see :meth:`ProfileModel.generate`."""

    model: ProfileModel
    beams: int | None


def load_predictor(run: str) -> Predictor:
    """Return the model of a finished run, or of an exported model's folder, such as a run's ``model/``.

    Raises:
        UserError: there is neither.
    """
    folder = Path(run).expanduser()
    if (folder / "config.yaml").is_file():
        found = load_run(run)
        return Predictor(found.model, found.cfg.evaluation.beams)
    if not (folder / "config.json").is_file():
        what = (
            "neither config.yaml of a run nor config.json of a model is there" if folder.is_dir() else "no such folder"
        )
        raise UserError(f"run={run}: {what}; give a folder that mmprofile.train wrote, or its model/")
    return Predictor(load_pretrained(folder), None)


def run_facts(cfg: TrainConfig, purpose: str | None = None) -> dict[str, Any]:
    """Return what a report says of a configuration; ``purpose``: what it is used for now, if this is not what it is for."""
    facts = {
        "name": cfg.name,
        "paradigm": cfg.paradigm.name,
        "model": cfg.model.name,
        "data": cfg.data.name,
        "seed": cfg.seed,
    }
    if cfg.model.system == "neural":
        facts |= {"reads": _what_is_read(cfg), "training": _how_it_is_trained(cfg), "settings": chosen_settings(cfg)}
    purpose = purpose or cfg.purpose
    return facts if purpose is None else facts | {"purpose": purpose}


def _what_is_read(cfg: TrainConfig) -> list[str]:
    """Return what a report says of a model's parts and inputs."""
    inputs = cfg.inputs
    checkpoints = [str(cfg.model.text.name)]
    if cfg.paradigm.modality in ("multi", "both"):
        checkpoints.append(str(cfg.model.vision.name).removeprefix("local-dir:"))
    names = [Path(name).name if Path(name).expanduser().is_dir() else name for name in checkpoints]
    photos = f"{inputs.photos_per_review} photo{'s' * (inputs.photos_per_review != 1)}"
    drawn = "drawn anew in each epoch" if inputs.redraw else "drawn once"
    texts = f"{cfg.text.encoding} texts of at most {inputs.max_tokens} tokens"
    evidence = f", and {inputs.evidence} sentences of the others that look like evidence" if inputs.evidence else ""
    return [*names, f"{inputs.reviews} reviews with {photos} each, {drawn}{evidence}", texts]


def _how_it_is_trained(cfg: TrainConfig) -> list[str]:
    """Return what a report says of optimisation and decoding."""
    optim, beams = cfg.optim, cfg.evaluation.beams
    rates = " and ".join(f"{rate:g}" for rate in (optim.lr_pretrained, optim.lr_new))
    return [
        f"loss over the {cfg.decoder.vocabulary} vocabulary",
        f"{cfg.trainer.max_epochs} epochs in batches of {cfg.loader.batch_size}",
        f"Adam at {rates}, {optim.schedule}",
        "search without beams" if beams is None else f"{beams} beams",
    ]


def open_draws(cfg: TrainConfig, schema: Schema, prepared: Path, captions: bool = False) -> PhotoData:
    """Return the users of a prepared folder as a system sees them.

    Args:
        cfg: how reviews and photos are drawn of each user.
        schema: of the profiles.
        prepared: the folder.
        captions: whether the system reads captions; the folder must have some then.

    Raises:
        UserError: the folder was prepared with another schema, or lacks captions.
    """
    inputs = OmegaConf.to_container(cfg.inputs)
    data: PhotoData = build(cfg.reader, _partial_=True)(prepared, schema=schema, inputs=inputs, captions=captions)
    return data


def make_data(cfg: TrainConfig, model: ProfileModel, folder: Path) -> BatchData:
    """Return the datamodule that a training configuration describes, over a prepared folder."""
    paradigm = check_paradigm(cfg.paradigm)
    inputs: dict[str, Any] = OmegaConf.to_container(cfg.inputs)  # type: ignore[assignment]
    data: BatchData = build(cfg.loader, _partial_=True)(
        folder=folder,
        model=model,
        views=paradigm.views,
        inputs=inputs | {"encoding": cfg.text.encoding},
        masking=paradigm.masking,
        schedule=cfg.paradigm.schedule,
        weights=paradigm.weights,
        seed=cfg.seed,
        eval_batch_size=cfg.evaluation.batch_size,
    )
    return data


def run_data(run: Run) -> BatchData:
    """Return the datamodule of a run's own data, prepared again if they are gone.

    Raises:
        UserError: they have other test users now, who may be among those that the run was trained on.
    """
    return checked_data(run, None)


def checked_data(run: Run, folder: str | None) -> BatchData:
    """Return the datamodule of a run's data, which must still have the test users that the run predicted.

    Args:
        run: the run.
        folder: where its prepared data are; None: where its configuration has them.

    Raises:
        UserError: the data are gone, or have other users.
    """
    data = make_data(run.cfg, run.model, find_prepared(run.cfg, folder))
    check_data(run.folder, data)
    return data


def find_prepared(cfg: TrainConfig, folder: str | None) -> Path:
    """Return ``folder``, or else the folder that a run's configuration names, prepared again if it is gone.

    Raises:
        UserError: the data are gone and cannot be prepared.
    """
    if folder is not None:
        return Path(folder).expanduser()
    try:
        return prepare_data(cfg.data, Schema.from_config(cfg.profile))
    except UserError as error:
        raise UserError(f"{error}; if its prepared data lie elsewhere: {ELSEWHERE}") from error


def check_data(folder: Path, data: UserData) -> None:
    """Refuse data whose test users are not those in the predictions of a run; without predictions, accept all.

    Raises:
        UserError: says how many users are missing.
    """
    if not (folder / PREDICTIONS).exists():
        return
    predicted = {row["user_id"] for row in read_predictions(folder)}
    present = {user.user_id for user in data.users("test")}
    if predicted != present:
        raise UserError(
            f"{len(predicted - present)} of its {len(predicted)} test users are not among the {len(present)} of "
            f"{data.prepared.folder}: its prepared data, or the key of user ids beside them, have moved, or an "
            f"earlier version ordered them: {ELSEWHERE}"
        )
