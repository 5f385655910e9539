"""From configuration to model: a new one of parts from the hub, a folder or this package, or one that was saved whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model

from mmprofile.errors import UserError
from mmprofile.model.backbones import build_prompt, drop_decoder, load_text
from mmprofile.model.checkpoints import local_name
from mmprofile.model.fusion import build_fusion
from mmprofile.model.heads import Auxiliary, build_head
from mmprofile.model.model import FORMAT, VOCABULARIES, ProfileModel
from mmprofile.model.vision import LlavaVision, VisionEncoder
from mmprofile.profile.schema import Schema

PROMPT = {"instruction": "", "answer": " Profile:"}


def build_model(
    text: Mapping[str, Any],
    vision: Mapping[str, Any] | None,
    fusion: Mapping[str, Any],
    schema: Schema,
    inputs: Mapping[str, Any],
    vocabulary: str = "full",
    target: str = "profile",
    head: Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> ProfileModel:
    """Builds a model from the ``model`` part of the configuration.

    Args:
        text: arguments of :func:`mmprofile.model.backbones.load_text`, and of a causal model's prompt ``instruction`` and ``answer``.
        vision: arguments of :class:`VisionEncoder`; None for a model that never sees photos. A LLaVA has a tower of its
            own, of which only ``tokens``, ``grid`` and ``trainable`` are heeded.
        fusion: arguments of :func:`mmprofile.model.fusion.build_fusion` but the widths.
        inputs: how inputs are made (paradigm's modality, reviews, photos, tokens): kept with the model.
        vocabulary: one of :data:`VOCABULARIES`, see :class:`ProfileModel`.
        target: what a row writes, see :class:`mmprofile.inputs.batch.Collator`.
        head: see :func:`mmprofile.model.heads.build_head`; None: ``lm``. Beside it ``auxiliary``, the weight of
            classifiers beside the decoder.
        pretrained: False builds the architecture without weights.

    Raises:
        UserError: something cannot be loaded or does not fit.
    """
    if vocabulary not in VOCABULARIES:
        raise UserError(f"decoder.vocabulary={vocabulary!r} is not one of {', '.join(VOCABULARIES)}")
    text = {"dropout": None, "dtype": "float32", "lora": {"rank": 0}, "adapter": None, **PROMPT, **text}
    backbone, tokenizer, adapter = load_text(text, pretrained)
    if adapter is None:
        learn_characters(backbone, tokenizer, schema)
    lora = text["lora"]
    if adapter is not None:
        given = adapter.peft_config["default"]
        lora = {"rank": given.r, "alpha": given.lora_alpha, "dropout": given.lora_dropout}
    kind = "none" if vision is None else str(fusion["kind"])
    if kind not in ("none", "prefix") and not backbone.config.is_encoder_decoder:
        raise UserError(f"model.fusion.kind={kind}: {text['name']} has no encoder; use prefix or none")
    head = {"kind": "lm"} if head is None else dict(head)
    weight = head.pop("auxiliary", 0.0)
    if weight and not backbone.config.is_encoder_decoder:
        raise UserError(
            f"model.auxiliary={weight}: {text['name']} has no encoder whose states could be classified; use 0"
        )
    if head["kind"] != "lm" and not backbone.config.is_encoder_decoder:
        raise UserError(f"model.head={head['kind']}: {text['name']} has no encoder; use lm")
    blind = vision is None or (kind == "none" and head["kind"] == "lm")
    tower = None if blind else _build_vision(vision or {}, backbone, text, pretrained)
    more: dict[str, Any] = {}
    if kind == "prefix" and not backbone.config.is_encoder_decoder:
        at = build_prompt(tokenizer, text["instruction"], text["answer"]).at
        more = {"at": at, "project": not isinstance(tower, LlavaVision)}
    width = int(backbone.get_input_embeddings().embedding_dim)
    joint = build_fusion(
        **{**fusion, "kind": kind, **more}, width=width, visual_width=tower.width if tower is not None else 1
    )
    classifiers = build_head(head, schema, width, tower.width if tower is not None else 0)
    if classifiers is not None:
        drop_decoder(backbone)
    settings = {
        "text": {key: value for key, value in text.items() if key not in ("name", "adapter")} | {"lora": lora},
        "vision": None if tower is None else tower.rebuild_arguments(),
        "fusion": {**fusion, "kind": kind},
        "inputs": dict(inputs),
        "vocabulary": vocabulary,
        "target": target,
        "head": head,
        "auxiliary": weight,
    }
    auxiliary = Auxiliary(schema, width, weight) if weight else None
    model = ProfileModel(backbone, tokenizer, tower, joint, schema, settings, classifiers, auxiliary)
    model.adapter = [adapter] if adapter is not None else []
    return model


def learn_characters(backbone: Any, tokenizer: Any, schema: Schema) -> None:
    """Makes characters of the schema that the tokenizer does not know tokens of their own, which begin as the unknown token."""
    unknown = tokenizer.unk_token_id

    def foreign(text: str) -> bool:
        return unknown in tokenizer(text, add_special_tokens=False)["input_ids"]

    words = [word for a in schema.attributes for word in (a.name, *a.values) if foreign(word)]
    new = sorted(character for character in {*"".join(words)} if foreign(character))
    if not new:
        return
    tokenizer.add_tokens(new)
    if len(tokenizer) > backbone.get_input_embeddings().num_embeddings:
        backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = tokenizer.convert_tokens_to_ids(new)
    with torch.no_grad():
        for table in (backbone.get_input_embeddings(), backbone.get_output_embeddings()):
            table.weight[ids] = table.weight[unknown].clone()


def _build_vision(
    vision: Mapping[str, Any], backbone: Any, text: Mapping[str, Any], pretrained: bool
) -> VisionEncoder | LlavaVision:
    if backbone.config.model_type == "llava":
        grid = vision["grid"] if vision["tokens"] == "grid" else None
        return LlavaVision(backbone, local_name(str(text["name"])), grid, vision["trainable"])
    return VisionEncoder(**{**vision, "name": local_name(str(vision["name"]), "local-dir:")}, pretrained=pretrained)


def load_pretrained(folder: Path) -> ProfileModel:
    """The model that :meth:`ProfileModel.save_pretrained` wrote.

    Raises:
        UserError: no such model, or one of another format.
    """
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: no exported model there ({error}); expected config.json and model.safetensors"
        ) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise UserError(f"{folder}: model format {found!r}, this version reads {FORMAT}")
    missing = {"schema", "text", "vision", "fusion", "inputs", "vocabulary", "target", "head"} - data.keys()
    if missing:
        raise UserError(f"{folder / 'config.json'}: {min(missing)!r} is missing; export the model again")
    settings = {key: value for key, value in data.items() if key not in ("format", "schema")}
    model = build_model(
        settings["text"] | {"name": str(folder / "text")},
        settings["vision"],
        settings["fusion"],
        Schema.from_dict(data["schema"]),
        settings["inputs"],
        settings["vocabulary"],
        settings["target"],
        settings["head"] | {"auxiliary": settings.get("auxiliary", 0.0)},
        pretrained=False,
    )
    model.settings = settings
    try:
        load_model(model, str(folder / "model.safetensors"))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder / 'model.safetensors'}: damaged or missing ({error}); export the model again"
        ) from error
    return model.eval()
