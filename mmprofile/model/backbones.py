"""Text models from the hub, a folder or this package: encoder-decoders, causal models, LLaVA; adapters of theirs."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlavaForConditionalGeneration,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from mmprofile.errors import UserError
from mmprofile.inputs.texts import Prompt
from mmprofile.model.checkpoints import loading, local_name
from mmprofile.model.kernels import ATTENTION

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
IMAGE = "<image>"
"""Where photos stand in an instruction."""
transformers_logging.disable_progress_bar()  # a bar for every file it opens


class TextModel(NamedTuple):
    """A text model, its tokenizer, and the peft model around it where it is adapted (its maps are changed in place)."""

    model: Any
    tokenizer: Any
    adapter: Any


def load_text(text: Mapping[str, Any], pretrained: bool) -> TextModel:
    """Loads a text model, its tokenizer and adapter.

    Args:
        text: ``name`` (hub id or folder), ``dropout`` or None, ``dtype``, ``lora`` (rank, alpha, dropout) and ``adapter``,
            the folder or hub id of one to start from.
        pretrained: False builds the architecture without weights.

    Raises:
        UserError: it cannot be had, or the adapter is none of its own.
    """
    name, dropout = local_name(str(text["name"])), text.get("dropout")
    dtype = DTYPES.get(text.get("dtype", "float32"))
    if dtype is None:
        raise UserError(f"model.text.dtype={text['dtype']!r} is not one of {', '.join(DTYPES)}: T5 fails in fp16")
    with loading("model.text.name", name):
        config = AutoConfig.from_pretrained(name)
        if not config.is_encoder_decoder and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            raise UserError(
                f"model.text.name={name!r} is a {config.model_type} model, which cannot write: take an encoder-decoder "
                "like T5 or a causal language model like Llama"
            )
        for key in ("dropout_rate", "dropout", "attention_dropout") if dropout is not None else ():
            if hasattr(config, key):
                setattr(config, key, dropout)
        tokenizer = AutoTokenizer.from_pretrained(name)
        options = {"config": config, "dtype": dtype, "attn_implementation": _attention(config)}
        kind = _kind(config)
        backbone: Any = kind.from_pretrained(name, **options) if pretrained else _built(kind, options)
    lora = text.get("lora") or {"rank": 0}
    adapter = None
    if text.get("adapter") and pretrained:
        adapter = _load_adapter(backbone, name, str(text["adapter"]))
    elif lora["rank"]:
        adapter = add_adapter(backbone, lora)
    return TextModel(backbone, tokenizer, adapter)


def _kind(config: Any) -> Any:
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    return LlavaForConditionalGeneration if config.model_type == "llava" else AutoModelForCausalLM


def _built(kind: Any, options: dict[str, Any]) -> nn.Module:
    if kind is not LlavaForConditionalGeneration:
        return kind.from_config(**options)
    return LlavaForConditionalGeneration._from_config(**options)


def _attention(config: Any) -> str | None:
    """Ours for encoder-decoders on a CPU; else transformers' choice, which knows which models have no sdpa."""
    return ATTENTION if config.is_encoder_decoder and ATTENTION != "sdpa" else None


def add_adapter(backbone: Any, lora: Mapping[str, Any], new: Sequence[str] = ()) -> Any:
    """Low-rank adaptation of every linear map but the output's; all else is frozen, but for a LLaVA's projector and the modules
    ``new``, which no checkpoint brought."""
    peft = _peft()
    where: dict[str, Any] = {"target_modules": "all-linear"}
    if backbone.config.model_type == "llava":
        where = {"target_modules": r".*language_model.*_proj", "modules_to_save": ["multi_modal_projector"]}
    if new:
        where |= {"modules_to_save": list(new), "exclude_modules": list(new)}
    rank, alpha, dropout = (lora[key] for key in ("rank", "alpha", "dropout"))
    return peft.get_peft_model(backbone, peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, **where))


def _load_adapter(backbone: Any, name: str, adapter: str) -> Any:
    peft = _peft()
    with loading("model.text.adapter", adapter):
        base = str(peft.PeftConfig.from_pretrained(adapter).base_model_name_or_path)
        if Path(base).name != Path(name).name:
            raise UserError(f"model.text.adapter={adapter!r} was trained on {base!r}, not on model.text.name={name!r}")
        return peft.PeftModel.from_pretrained(backbone, adapter, is_trainable=True)


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as error:
        raise UserError("LoRA (lora.rank above 0, or an adapter) needs peft: pip install 'mmprofile[llm]'") from error


def drop_decoder(model: Any) -> None:
    """Lets go of all of an encoder-decoder but its encoder."""
    encoder = model.get_encoder()
    for part in [part for part in model.modules() if part is not encoder and encoder in part.modules()]:
        for name, child in list(part.named_children()):
            if encoder not in child.modules():
                setattr(part, name, None)


def build_prompt(tokenizer: Any, instruction: str, answer: str) -> Prompt:
    """The prompt of a causal model: what stands first in any text of its, an instruction; behind the texts what begins the answer.

    Args:
        tokenizer: of the model.
        instruction: what to do; :data:`IMAGE` in it marks where photos stand, by default right behind the first tokens.
        answer: the words from which the profile is written on.
    """
    eos = tokenizer.eos_token_id
    first = [token for token in tokenizer("")["input_ids"] if token != eos or tokenizer.bos_token_id == eos]

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    front, mark, back = instruction.partition(IMAGE)
    before = [*first, *ids(front)] if mark else first
    *after, start = ids(answer)
    return Prompt((*before, *ids(back if mark else front)), tuple(after), len(before), start)
