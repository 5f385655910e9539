"""Text models from the hub, a folder or this package: encoder-decoders, causal models, LLaVA; and their adapters."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
)
from transformers.utils import logging as transformers_logging

from mmprofile.errors import UserError
from mmprofile.inputs.texts import Prompt
from mmprofile.model.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DTYPES,
    Checkpoint,
    check_weights,
    load_config,
    load_model,
    load_tokenizer,
    loading,
)
from mmprofile.model.hub import fetch
from mmprofile.model.kernels import ATTENTION
from mmprofile.profile.grammar import continuation_ids

TRAINED_DTYPES = ("float32", "bfloat16")
"""Precisions of weights that are trained: T5 fails in float16."""
UNSCALED = ("t5", "mt5")
"""Model types whose attention scores are not divided by sqrt(d_kv)."""
IMAGE = "<image>"
"""Marks where photos stand in an instruction."""
transformers_logging.disable_progress_bar()  # a bar for every file it opens


class TextModel(NamedTuple):
    """A loaded text model.

    Attributes:
        model: of transformers.
        tokenizer: its tokenizer.
        adapter: the peft model around it; None where it is not adapted. peft changes the linear maps of ``model`` in place.
        checkpoint: where it came from.
    """

    model: Any
    tokenizer: Any
    adapter: Any
    checkpoint: Checkpoint


def load_text(text: Mapping[str, Any], pretrained: bool) -> TextModel:
    """Load a text model, its tokenizer and adapter.

    Args:
        text: ``name`` (hub id or folder) and ``revision``, ``dropout`` or None, ``dtype``, ``lora`` (rank, alpha, dropout),
            ``adapter``, the folder or hub id of one to start from, and ``adapter_revision``.
        pretrained: False builds the architecture without weights.

    Raises:
        UserError: it cannot be loaded, or the adapter is that of another model.
    """
    dropout, dtype = text.get("dropout"), text.get("dtype", "float32")
    if dtype not in TRAINED_DTYPES:
        raise UserError(f"model.text.dtype={dtype!r} is not one of {', '.join(TRAINED_DTYPES)}: T5 fails in fp16")
    checkpoint = fetch(str(text["name"]), "model.text.name", text.get("revision"), weights=pretrained)
    start = None
    if text.get("adapter") and pretrained:
        revision = text.get("adapter_revision")
        start = fetch(str(text["adapter"]), "model.text.adapter", revision, config=ADAPTER_CONFIG)
    config = load_config(checkpoint)
    if not config.is_encoder_decoder and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(
            f"model.text.name={checkpoint.name!r} is a {config.model_type} model, which cannot write: take an "
            "encoder-decoder like T5 or a causal language model like Llama"
        )
    for key in ("dropout_rate", "dropout", "attention_dropout") if dropout is not None else ():
        if hasattr(config, key):
            setattr(config, key, dropout)
    tokenizer = load_tokenizer(checkpoint, config)
    options = {"config": config, "dtype": DTYPES[dtype], "attn_implementation": _attention(config)}
    if pretrained:
        backbone, _ = load_model(_auto_class(config), checkpoint, **options)
        backbone.name_or_path = config.name_or_path = checkpoint.name  # which an adapter names as its base
    else:
        with loading(checkpoint):
            backbone = _auto_class(config).from_config(**options)
    lora = text.get("lora") or {"rank": 0}
    adapter = None
    if start is not None:
        adapter = load_adapter(backbone, checkpoint.name, start)
    elif lora["rank"]:
        adapter = add_adapter(backbone, lora)
    return TextModel(model=backbone, tokenizer=tokenizer, adapter=adapter, checkpoint=checkpoint)


def _auto_class(config: Any) -> Any:
    """Return the class of transformers that builds models of a configuration."""
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    return AutoModelForImageTextToText if config.model_type == "llava" else AutoModelForCausalLM


def _attention(config: Any) -> str | None:
    """Return our attention for encoder-decoders on a CPU; None leaves the choice to transformers."""
    return ATTENTION if config.is_encoder_decoder and ATTENTION != "sdpa" else None


def add_adapter(backbone: Any, lora: Mapping[str, Any], new: Sequence[str] = ()) -> Any:
    """Return a peft model around a text model: low-rank adaptation of all linear maps but the output's.

    All other weights are frozen, except those of a LLaVA's projector and of the modules ``new``.

    Args:
        backbone: the text model, which is changed in place.
        lora: ``rank``, ``alpha`` and ``dropout``.
        new: names of modules that no checkpoint brought.
    """
    peft = _peft()
    where: dict[str, Any] = {"target_modules": "all-linear"}
    if backbone.config.model_type == "llava":
        where = {"target_modules": r".*language_model.*_proj", "modules_to_save": ["multi_modal_projector"]}
    if new:
        where |= {"modules_to_save": list(new), "exclude_modules": list(new)}
    rank, alpha, dropout = (lora[key] for key in ("rank", "alpha", "dropout"))
    return peft.get_peft_model(backbone, peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, **where))


def load_adapter(backbone: Any, name: str, adapter: Checkpoint) -> Any:
    """Return the peft model of an adapter.

    Args:
        backbone: the text model.
        name: its hub id or folder.
        adapter: to start from.

    Raises:
        UserError: it cannot be loaded, lacks weights, or was trained on another model.
    """
    peft = _peft()
    check_weights(adapter, ADAPTER_WEIGHTS)
    with loading(adapter):
        base = str(peft.PeftConfig.from_pretrained(str(adapter.folder)).base_model_name_or_path)
        if Path(base).name != Path(name).name:
            raise UserError(
                f"model.text.adapter={adapter.name!r} was trained on {base!r}, not on model.text.name={name!r}"
            )
        model = peft.PeftModel.from_pretrained(backbone, str(adapter.folder), is_trainable=True)
        saved = peft.utils.load_peft_weights(str(adapter.folder), device="cpu").keys()
        lost = sorted(peft.get_peft_model_state_dict(model, save_embedding_layers=False).keys() - saved)
    if lost:
        raise adapter.refuse(f"{len(lost)} of its weights are missing ({lost[0]}, ...) and would be random")
    return model


def _peft() -> Any:
    """Return the package peft.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module("peft")
    except ImportError as error:
        raise UserError("LoRA (lora.rank above 0, or an adapter) needs peft: pip install 'mmprofile[llm]'") from error


def drop_decoder(model: Any) -> None:
    """Remove all parts of an encoder-decoder but its encoder."""
    encoder = model.get_encoder()
    for part in [part for part in model.modules() if part is not encoder and encoder in part.modules()]:
        for name, child in list(part.named_children()):
            if encoder not in child.modules():
                setattr(part, name, None)


def build_prompt(tokenizer: Any, instruction: str, answer: str) -> Prompt:
    """Return the prompt of a causal model: its first tokens and an instruction, and behind the texts the answer's beginning.

    Args:
        tokenizer: of the model.
        instruction: what to do; :data:`IMAGE` in it marks where photos stand, by default right behind the first tokens.
        answer: the words behind which the profile is written.
    """
    eos = tokenizer.eos_token_id
    first = [token for token in tokenizer("")["input_ids"] if token != eos or tokenizer.bos_token_id == eos]

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    front, mark, back = instruction.partition(IMAGE)
    before = [*first, *ids(front)] if mark else first
    *after, start = continuation_ids(tokenizer, [answer])[0]
    return Prompt(before=(*before, *ids(back if mark else front)), after=tuple(after), at=len(before), start=start)


def attention_queries(model: Any) -> list[nn.Parameter]:
    """Return the trainable query weights of a T5, whose attention does not divide its scores; none of other models."""
    if model.config.model_type not in UNSCALED:
        return []
    return [weight for name, weight in model.named_parameters() if weight.requires_grad and name.endswith(".q.weight")]
