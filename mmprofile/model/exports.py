"""Exported models: what :meth:`ProfileModel.save_pretrained` wrote, loaded again, whatever format it has."""

import sys
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import nn

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json
from mmprofile.inputs.evidence import load_selector
from mmprofile.model.build import build_model
from mmprofile.model.checkpoints import CONFIG, TOKENIZERS, in_proportion
from mmprofile.model.confidence import load_confidence
from mmprofile.model.model import FORMAT, ModelSettings, ProfileModel
from mmprofile.profile.schema import Schema

ADDED: dict[int, dict[str, Any]] = {
    2: {"target": "profile", "head": {"kind": "lm"}, "auxiliary": 0.0, "source": {}},
}
"""Format -> the settings that came with it or during the one before, and what they are where an export has none."""


def load_pretrained(folder: Path) -> ProfileModel:
    """Return the model that :meth:`ProfileModel.save_pretrained` wrote, in evaluation mode.

    An export of an older format is converted while it is read, which a line on standard error says.

    Args:
        folder: with ``config.json``, ``model.safetensors`` and ``text/``.

    Raises:
        UserError: there is no such model, it is damaged, or a newer version of this package wrote it.
    """
    data = _read(folder)
    settings = cast(ModelSettings, {key: value for key, value in data.items() if key not in ("format", "schema")})
    text = folder / "text"
    if not (text / CONFIG).is_file() or not any((text / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{text}: configuration or tokenizer is missing; export the model again")
    weights = folder / "model.safetensors"
    try:
        with in_proportion([weights]):
            model = build_model(
                text=settings["text"] | {"name": str(text)},
                vision=settings["vision"],
                fusion=settings["fusion"],
                schema=Schema.from_dict(data["schema"]),
                inputs=settings["inputs"],
                vocabulary=settings["vocabulary"],
                target=settings["target"],
                head=settings["head"] | {"auxiliary": settings["auxiliary"]},
                pretrained=False,
            )
    except (*MALFORMED, RuntimeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(
            f"{folder}: config.json or text/ describe no model ({reason}); export the model again"
        ) from error
    model.settings, model.confidence, model.selector = settings, load_confidence(folder), load_selector(folder)
    try:
        _tie_as_saved(model, weights)
        load_model(model, str(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{weights}: damaged or missing ({error}); export the model again") from error
    return model.eval()


def _read(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` of an export, in this version's format.

    Raises:
        UserError: there is none, or this version cannot read it.
    """
    path = folder / "config.json"
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: no exported model there ({error}); expected config.json and model.safetensors"
        ) from error
    version = data.get("format") if isinstance(data, dict) else None
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{folder}: model format {version!r}; this is no exported model of mmprofile")
    if version > FORMAT:
        raise UserError(f"{folder}: model format {version}, this version reads up to {FORMAT}; update mmprofile")
    for later in range(version + 1, FORMAT + 1):
        data = {**ADDED[later], **data}
    if version < FORMAT:
        print(
            f"{folder}: model format {version}, converted to {FORMAT} while it was read; save_pretrained writes it anew",
            file=sys.stderr,
        )
    needed = {"schema", *ModelSettings.__required_keys__}
    if missing := needed - data.keys():
        raise UserError(f"{path}: {min(missing)!r} is missing; export the model again")
    return data


def _tie_as_saved(model: nn.Module, weights: Path) -> None:
    """Share parameters, or keep them apart, as the file of weights does.

    A file has a shared parameter once, and names the others in its metadata. An architecture does not tell: transformers
    builds every T5 with tied embeddings, and takes those of T5 v1.1, Flan-T5 and mT5 apart only when it loads a checkpoint.

    Args:
        model: just built.
        weights: what ``save_model`` of safetensors wrote.
    """
    with safe_open(weights, "pt") as file:
        saved, shared = set(file.keys()), file.metadata() or {}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for group in names.values():
        apart = [name for name in group if name in saved]
        if len(apart) > 1:
            for name in apart:
                _set_parameter(model, name, nn.Parameter(model.get_parameter(name).detach().clone()))
            for name in set(group) - saved:
                _set_parameter(model, name, model.get_parameter(shared[name]))


def _set_parameter(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter where a model has the one of this name."""
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, parameter)
