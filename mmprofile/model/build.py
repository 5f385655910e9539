"""Build a new model of parts from the hub, a folder or this package; :mod:`mmprofile.model.exports` loads exported ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AddedToken

from mmprofile.errors import UserError
from mmprofile.inputs.views import InputSettings
from mmprofile.model.auxiliary import Auxiliary
from mmprofile.model.backbones import TextModel, build_prompt, drop_decoder, load_text
from mmprofile.model.checkpoints import local_name
from mmprofile.model.fusion import Fusion, build_fusion
from mmprofile.model.heads import build_head
from mmprofile.model.model import VOCABULARIES, ModelSettings, ProfileModel
from mmprofile.model.vision import LlavaVision, VisionEncoder
from mmprofile.profile.schema import Schema

TEXT_DEFAULTS: dict[str, Any] = {
    "dropout": None,
    "dtype": "float32",
    "lora": {"rank": 0},
    "adapter": None,
    "instruction": "",
    "answer": " Profile:",
}
SOURCES = ("name", "revision", "adapter", "adapter_revision")
"""Settings of the text model that an export does not need."""


def build_model(
    *,
    text: Mapping[str, Any],
    vision: Mapping[str, Any] | None,
    fusion: Mapping[str, Any],
    schema: Schema,
    inputs: InputSettings,
    vocabulary: str = "full",
    target: str = "profile",
    head: Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> ProfileModel:
    """Build a model from the ``model`` part of the configuration.

    Args:
        text: arguments of :func:`mmprofile.model.backbones.load_text`, and ``instruction`` and ``answer`` of a causal
            model's prompt.
        vision: arguments of :class:`VisionEncoder`; None for a model that never sees photos. A LLaVA has a tower of its
            own, which takes ``tokens``, ``grid`` and ``trainable`` only.
        fusion: arguments of :func:`mmprofile.model.fusion.build_fusion` but the widths.
        schema: the profile that the model writes.
        inputs: how inputs are made (paradigm's modality, reviews, photos, tokens); kept with the model.
        vocabulary: one of :data:`VOCABULARIES`, see :class:`ProfileModel`.
        target: what a row writes, see :class:`mmprofile.inputs.texts.TextReader`.
        head: see :func:`mmprofile.model.heads.build_head`; None: ``lm``. It may also have ``auxiliary``, the weight of
            classifiers beside the decoder.
        pretrained: False builds the architecture without weights.

    Raises:
        UserError: something cannot be loaded or does not fit.
    """
    if vocabulary not in VOCABULARIES:
        raise UserError(f"decoder.vocabulary={vocabulary!r} is not one of {', '.join(VOCABULARIES)}")
    text = {**TEXT_DEFAULTS, **text}
    loaded = load_text(text, pretrained)
    if loaded.adapter is None:
        learn_characters(loaded.model, loaded.tokenizer, schema)
    kind = "none" if vision is None else str(fusion["kind"])
    head = {"kind": "lm"} if head is None else dict(head)
    weight = head.pop("auxiliary", 0.0)
    if not loaded.model.config.is_encoder_decoder:
        _check_causal(str(text["name"]), kind, head["kind"], weight)
    blind = vision is None or (kind == "none" and head["kind"] == "lm")
    tower = None if blind else _build_vision(vision or {}, loaded, pretrained)
    width = int(loaded.model.get_input_embeddings().embedding_dim)
    joint = _build_fusion({**fusion, "kind": kind}, loaded, text, width, tower)
    classifiers = build_head(head, schema, width, tower.width if tower is not None else 0)
    if classifiers is not None:
        drop_decoder(loaded.model)
    lora = text["lora"] if loaded.adapter is None else _lora_of(loaded.adapter)
    settings: ModelSettings = {
        "text": {key: value for key, value in text.items() if key not in SOURCES} | {"lora": lora},
        "vision": None if tower is None else tower.rebuild_arguments(),
        "fusion": {**fusion, "kind": kind},
        "inputs": {**inputs},
        "vocabulary": vocabulary,
        "target": target,
        "head": head,
        "auxiliary": weight,
        "source": _source(loaded, text, vision if isinstance(tower, VisionEncoder) else None),
    }
    return ProfileModel(
        text=loaded.model,
        tokenizer=loaded.tokenizer,
        vision=tower,
        fusion=joint,
        schema=schema,
        settings=settings,
        head=classifiers,
        auxiliary=Auxiliary(schema, width, weight) if weight else None,
        adapter=loaded.adapter,
    )


def _source(loaded: TextModel, text: Mapping[str, Any], vision: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the checkpoints of text and vision model: hub ids, with commit or revision; of a folder only its name."""
    source = {"text": _named(str(text["name"]), loaded.checkpoint.commit)}
    if vision is not None:
        source["vision"] = _named(str(vision["name"]), vision.get("revision"))
    return source


def _named(name: str, revision: str | None) -> str:
    """Return a checkpoint's name, which shows no path of this machine."""
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_dir():
        return folder.resolve().name
    return f"{name}@{revision}" if revision else name


def _check_causal(name: str, fusion: str, head: str, auxiliary: float) -> None:
    """Refuse what needs an encoder, which a causal model has not.

    Raises:
        UserError: the fusion, the head or the auxiliary classifiers need one.
    """
    if fusion not in ("none", "prefix"):
        raise UserError(f"model.fusion.kind={fusion}: {name} has no encoder; use prefix or none")
    if auxiliary:
        raise UserError(f"model.auxiliary={auxiliary}: {name} has no encoder whose states could be classified; use 0")
    if head != "lm":
        raise UserError(f"model.head={head}: {name} has no encoder; use lm")


def _lora_of(adapter: Any) -> dict[str, Any]:
    """Return the LoRA settings of a peft model."""
    config = adapter.peft_config["default"]
    return {"rank": config.r, "alpha": config.lora_alpha, "dropout": config.lora_dropout}


def _build_fusion(
    fusion: Mapping[str, Any],
    loaded: TextModel,
    text: Mapping[str, Any],
    width: int,
    tower: VisionEncoder | LlavaVision | None,
) -> Fusion:
    """Return the fusion of a text model and a vision tower."""
    where: dict[str, Any] = {}
    if fusion["kind"] == "prefix" and not loaded.model.config.is_encoder_decoder:
        at = build_prompt(loaded.tokenizer, text["instruction"], text["answer"]).at
        where = {"at": at, "project": not isinstance(tower, LlavaVision)}
    return build_fusion(**{**fusion, **where}, width=width, visual_width=tower.width if tower is not None else 1)


def _build_vision(vision: Mapping[str, Any], loaded: TextModel, pretrained: bool) -> VisionEncoder | LlavaVision:
    """Return a LLaVA's own tower, or a timm ViT."""
    if loaded.model.config.model_type == "llava":
        grid = vision["grid"] if vision["tokens"] == "grid" else None
        return LlavaVision(loaded.model, loaded.checkpoint, grid, vision["trainable"])
    return VisionEncoder(**{**vision, "name": local_name(str(vision["name"]), "local-dir:")}, pretrained=pretrained)


def learn_characters(backbone: Any, tokenizer: Any, schema: Schema) -> None:
    """Add a token for each character of the schema that the tokenizer does not know; it begins as the unknown token.

    T5's tokenizer puts a blank behind such a character and takes away one before it. A word that does not come back because
    of that becomes a token, its blank included.
    """
    unknown = tokenizer.unk_token_id

    def foreign(text: str) -> bool:
        return unknown in tokenizer(text, add_special_tokens=False)["input_ids"]

    def lost(word: str) -> bool:
        text = f"a {word}"
        return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])).strip() != text

    names = [name for a in schema.attributes for name in (a.name, *a.values) if foreign(name)]
    new = sorted(character for character in {*"".join(names)} if foreign(character))
    if not new:
        return
    tokenizer.add_tokens(new)
    words = [f" {word}" for word in sorted({word for name in names for word in name.split()}) if lost(word)]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    new += words
    if len(tokenizer) > backbone.get_input_embeddings().num_embeddings:
        _grow(backbone, len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(new)
    with torch.no_grad():
        for table in (backbone.get_input_embeddings(), backbone.get_output_embeddings()):
            table.weight[ids] = table.weight[unknown].clone()


def _grow(backbone: Any, size: int) -> None:
    """Give a text model more embeddings. Those of input and output stay apart where they are apart.

    transformers ties a T5's whatever its checkpoint says.
    """
    table, head = backbone.get_input_embeddings().weight, backbone.get_output_embeddings().weight
    backbone.resize_token_embeddings(size, mean_resizing=False)
    if head is not table:
        grown = backbone.get_output_embeddings()
        weight = grown.weight.detach().clone()
        weight[: len(head)] = head.detach()
        grown.weight = nn.Parameter(weight)
