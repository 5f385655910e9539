"""Checks of ``conf/train.yaml``: settings that make no sense are refused before the data are prepared; then those of the data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from mmprofile.config.settings import TrainConfig
from mmprofile.errors import UserError
from mmprofile.files import read_json, write_json
from mmprofile.inputs.data import UserData
from mmprofile.inputs.texts import check_encoding
from mmprofile.inputs.views import check_inputs, check_paradigm
from mmprofile.model.heads import check_head
from mmprofile.profile.calibrator import check_risk
from mmprofile.profile.schema import Schema, check_purpose
from mmprofile.systems.systems import check_system
from mmprofile.train.guard import check_on_nan

DATA = "data.json"
"""Of a run: what it learns from."""


def check_settings(cfg: TrainConfig) -> None:
    """Refuse what would otherwise be noticed only after the data are prepared, or after training.

    Raises:
        UserError: a setting of the paradigm, the inputs, the encoding, the steps or the evaluation makes no sense, or sensitive
            attributes have no purpose.
    """
    schema = Schema.from_config(cfg.profile)
    check_purpose(schema, cfg.purpose)
    check_system(cfg.model.system)
    check_paradigm(cfg.paradigm)
    check_inputs(cfg.inputs)
    if cfg.inputs.evidence and schema.text_only is None:
        raise UserError(
            f"inputs.evidence={cfg.inputs.evidence}: the rationales of text-only attributes say what evidence looks like, and "
            f"profile {schema.name} has none: choose profile=yelp+text_only, or leave inputs.evidence at 0"
        )
    check_encoding(cfg.text.encoding, cfg.model.target)
    check_head(cfg.model)
    _check_model(cfg)
    for name, beams in (("beams", cfg.evaluation.beams), ("validation_beams", cfg.evaluation.validation_beams)):
        if beams is not None and beams < 1:
            raise UserError(f"evaluation.{name}={beams} is not a number of beams: give 1 or more, or null")
    if cfg.probe.users < 0:
        raise UserError(f"probe.users={cfg.probe.users}: give a number of users, or 0 for no probe")
    check_risk(cfg.evaluation.risk)
    check_on_nan(cfg.trainer.on_nan)
    if cfg.trainer.checkpoint_every < 0:
        raise UserError(
            f"trainer.checkpoint_every={cfg.trainer.checkpoint_every}: give a number of steps, or 0 for none"
        )
    micro = cfg.loader.micro_batch_size
    if micro is not None and micro < 1:
        raise UserError(f"loader.micro_batch_size={micro}: give 1 or more, or null")
    missing = cfg.evaluation.missing
    if missing is not None and not 0 <= missing <= 1:
        raise UserError(f"evaluation.missing={missing} is not a probability (0 to 1, or null)")


def keep_data(folder: Path, contents: Mapping[str, str], generated: bool) -> None:
    """Write beside a run's configuration what it learns from, or check that a run that goes on has the same.

    Args:
        folder: the run's.
        contents: part of the data -> hash.
        generated: whether the people are a city's. A run of an earlier version says nothing of its data, and a generated city
            is the same in every version.

    Raises:
        UserError: the data are not those that the run began with, or are prepared otherwise than they were then.
    """
    path = folder / DATA
    if (folder / "checkpoints").exists():
        before = read_json(path) if path.is_file() else contents if generated else {}
        changed = [name for name, content in contents.items() if before.get(name) != content]
        if changed:
            raise UserError(
                f"{folder}: the data have changed since this run began ({', '.join(changed)}): choose another name= or out=, "
                f"or delete the folder"
            )
    write_json(path, contents)


def check_labels(schema: Schema, data: UserData) -> None:
    """Refuse an attribute that nothing can be learned of.

    Raises:
        UserError: no training user has a label of it.
    """
    users = data.users("train")
    for name in schema.observed.names:
        if not any(name in (user.profile or {}) for user in users):
            raise UserError(
                f"{data.prepared.folder}: no user of the split 'train' has a label of {name}: give the attribute a rule or "
                f"labels, or leave it out of the profile schema"
            )


def check_photos(cfg: TrainConfig, photos: bool) -> None:
    """Refuse a model that reads photos or captions, where there are none.

    Args:
        cfg: the run's configuration.
        photos: whether the data have photos.

    Raises:
        UserError: they have none.
    """
    if photos or cfg.model.system != "neural" or cfg.paradigm.modality == "text":
        return
    shown = "captions of photos" if cfg.paradigm.modality == "uni" else "photos"
    left_out = OmegaConf.select(cfg.data.prepare, "photos.policy") == "none"
    raise UserError(
        f"paradigm={cfg.paradigm.name} reads {shown}, and data={cfg.data.name} has no photos here: choose paradigm=text, "
        f"or {'leave out photos=none' if left_out else 'prepare data with photos'}"
    )


def unknown_tokens(tokens: Iterable[Sequence[int]], unknown: int | None) -> float:
    """Return the share of tokens that a tokenizer has no name for, 0 to 1.

    Args:
        tokens: ids of texts.
        unknown: the id of the unknown token; None: the tokenizer has none.
    """
    counts = [(len(ids), sum(token == unknown for token in ids)) for ids in tokens]
    total, lost = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return lost / total if total else 0.0


def _check_model(cfg: TrainConfig) -> None:
    weight, model = cfg.model.auxiliary, cfg.model
    whole_profiles = model.head == "lm" and model.target != "attributes"
    if not 0 <= weight < math.inf or (weight and not whole_profiles):
        raise UserError(
            f"model.auxiliary={weight}: give 0 or more, and 0 unless a decoder writes whole profiles "
            f"(model.head=lm, model.target=profile or prompted)"
        )
    if model.text.lora.rank < 0:
        raise UserError(f"model.text.lora.rank={model.text.lora.rank}: give 1 or more, or 0 to train all weights")
    if model.fusion.kind == "none" and model.head == "lm" and cfg.paradigm.modality in ("multi", "both"):
        raise UserError(
            f"model {model.name} with paradigm {cfg.paradigm.name}: it has no fusion and sees no photos; "
            f"choose paradigm=text or paradigm=uni (captions), or model.fusion.kind=..."
        )
