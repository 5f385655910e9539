"""A run's folder: its configuration, its data, its model, and whether they still go together."""

import json
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mmprofile.config.compose import typed
from mmprofile.errors import UserError
from mmprofile.inputs.data import prepare_data
from mmprofile.inputs.views import (
    check_paradigm,
)
from mmprofile.model.build import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema


def open_draws(cfg: Any, schema: Schema, prepared: Path, captions: bool = False) -> Any:
    """The users of a prepared folder as a system sees them; ``captions``: whether it must have some."""
    inputs = OmegaConf.to_container(cfg.inputs)
    return instantiate(cfg.reader, _partial_=True)(prepared, schema=schema, inputs=inputs, captions=captions)


def make_data(cfg: Any, model: ProfileModel, folder: Path) -> Any:
    """The datamodule that a training configuration describes, over a prepared folder."""
    views, weights, masking = check_paradigm(cfg.paradigm)
    return instantiate(cfg.loader, _partial_=True)(
        folder=folder,
        model=model,
        views=views,
        inputs=OmegaConf.to_container(cfg.inputs) | {"encoding": cfg.text.encoding},  # type: ignore[operator]
        masking=masking,
        schedule=cfg.paradigm.schedule,
        weights=weights,
        seed=cfg.seed,
        eval_batch_size=cfg.evaluation.batch_size,
    )


def run_data(cfg: Any, model: ProfileModel) -> Any:
    """The datamodule of a run's own data, which are prepared again where they are not there any more."""
    return make_data(cfg, model, prepare_data(cfg.data, model.schema))


def load_run(run: str) -> tuple[Path, Any, ProfileModel]:
    """A run's folder, configuration and best model.

    Raises:
        UserError: no finished run there.
    """
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").is_file():
        raise UserError(f"run={run}: no run there (no config.yaml); a run is a folder that mmprofile.train wrote")
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    cfg = typed("train", cfg)
    if cfg.model.system != "neural":
        raise UserError(
            f"run={run}: system {cfg.model.system} leaves no model behind; its scores are in {folder / 'metrics.json'}"
        )
    if not (folder / "model").is_dir():
        raise UserError(
            f"run={run}: its training has not finished; run the same mmprofile.train command again to go on"
        )
    return folder, cfg, load_pretrained(folder / "model")


def run_facts(cfg: Any) -> dict[str, Any]:
    """What a report says of a configuration."""
    facts = {
        "name": cfg.name,
        "paradigm": cfg.paradigm.name,
        "model": cfg.model.name,
        "data": cfg.data.name,
        "seed": cfg.seed,
    }
    return facts if cfg.purpose is None else facts | {"purpose": cfg.purpose}


ELSEWHERE = "folder=/path/to/prepared"


def find_prepared(cfg: Any, schema: Schema, folder: str | None) -> Path:
    """The folder of a run's prepared data: ``folder``, or where its configuration has them, prepared again if need be.

    Raises:
        UserError: they are not there and cannot be prepared.
    """
    if folder is not None:
        return Path(folder).expanduser()
    try:
        return Path(prepare_data(cfg.data, schema))
    except UserError as error:
        raise UserError(f"{error}; if its prepared data lie elsewhere: {ELSEWHERE}") from error


def check_data(run: Path, data: Any) -> None:
    """Refuses data with other users than those that a run predicted when it had been trained.

    Raises:
        UserError: says how many are gone.
    """
    try:
        lines = (run / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return
    asked = {json.loads(line)["user_id"] for line in lines if line}
    there = {user.user_id for user in data.users("test")}
    if asked != there:
        raise UserError(
            f"{len(asked - there)} of its {len(asked)} test users are not among the {len(there)} of {data.prepared.folder}: "
            f"its prepared data, or the key of user ids beside them, have moved: {ELSEWHERE}"
        )
