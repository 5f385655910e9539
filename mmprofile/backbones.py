"""Text models from the hub, a folder or this package: encoder-decoders, causal models, LLaVA; adapters of theirs."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlavaForConditionalGeneration,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from mmprofile.baselines.tiny_llava import tiny_llava
from mmprofile.batch import Prompt
from mmprofile.errors import UserError
from mmprofile.kernels import ATTENTION
from mmprofile.paths import ASSETS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
IMAGE = "<image>"
"""Where photos stand in an instruction."""
transformers_logging.disable_progress_bar()  # a bar for every file it opens


class TextModel(NamedTuple):
    """A text model, its tokenizer, and the peft model around it where it is adapted (its maps are changed in place)."""

    model: Any
    tokenizer: Any
    adapter: Any


def local_name(name: str, scheme: str = "") -> str:
    """``mmprofile:tiny/text`` -> the folder inside this package; any other name as it is."""
    if name == "mmprofile:tiny/llava":
        return str(tiny_llava())
    return f"{scheme}{ASSETS / name.removeprefix('mmprofile:')}" if name.startswith("mmprofile:") else name


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


@contextmanager
def loading(key: str, name: str) -> Any:
    """What cannot be had from hub or disk is one line.

    Raises:
        UserError: says what setting ``key`` must be.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{key}={name!r} cannot be loaded ({type(error).__name__}: {str(error)[:160]}). It must be a hub id "
            f"or a local folder. Offline? Fetch it on a machine with network (`hf download {name}`), copy the "
            f"folder here and set {key}=/path/to/folder"
        ) from error


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


class LlavaVision(nn.Module):
    """The vision tower and projector of a LLaVA, which owns their weights: photos -> visual tokens of the text's width.

    Args:
        llava: the model.
        name: where its image processor is.
        grid: pool the patches of a photo to ``grid`` x ``grid``, where all would not fit the model's length; None: all.
        trainable: False freezes the tower; the projector learns.
    """

    def __init__(self, llava: Any, name: str, grid: int | None, trainable: bool) -> None:
        super().__init__()
        self._llava = [llava]  # in a list: not a part of this module
        self.grid, self.trainable = grid, trainable
        with loading("model.text.name", name):
            self.processor: Any = AutoImageProcessor.from_pretrained(name)
        if not trainable:
            llava.model.vision_tower.requires_grad_(False)

    @property
    def count(self) -> int:
        """M, visual tokens of a photo."""
        tower = self._llava[0].config.vision_config
        return self.grid**2 if self.grid is not None else (tower.image_size // tower.patch_size) ** 2

    @property
    def width(self) -> int:
        """The size of one visual token: the text's."""
        return int(self._llava[0].config.text_config.hidden_size)

    def rebuild_arguments(self) -> dict[str, Any]:
        """Arguments that build the same again: plain data."""
        return {"tokens": "patch" if self.grid is None else "grid", "grid": self.grid, "trainable": self.trainable}

    def transform(self, image: Image.Image) -> np.ndarray:
        """RGB image -> uint8 (3, H, W), as the processor has it but for the normalisation."""
        plain = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        return np.asarray(plain["pixel_values"][0].round().to(torch.uint8))

    def forward(self, photos: Tensor, keys: Sequence[Hashable] | None = None) -> Tensor:
        """uint8 (P, 3, H, W) -> (P, M, d)."""
        llava = self._llava[0]
        mean, std = (
            torch.tensor(values, device=photos.device).view(3, 1, 1)
            for values in (self.processor.image_mean, self.processor.image_std)
        )
        pixels = ((photos / 255 - mean) / std).to(llava.dtype)
        tokens = torch.stack(list(llava.get_image_features(pixels).pooler_output))
        if self.grid is None:
            return tokens
        side = round(tokens.shape[1] ** 0.5)
        square = tokens.transpose(1, 2).unflatten(2, (side, side))
        return F.adaptive_avg_pool2d(square, self.grid).flatten(2).transpose(1, 2)
