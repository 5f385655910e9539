"""BLIP-2, which captions photos: loaded, and asked.

Dimension letters as in :mod:`mmprofile.model`: P photos, N tokens of the prompt, L tokens written; ``queries`` of the Q-Former.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, BitsAndBytesConfig, Blip2ForConditionalGeneration

from mmprofile.config.settings import CaptionerConfig
from mmprofile.errors import UserError
from mmprofile.model.checkpoints import DTYPES, LOCAL, choose_dtype, load_model, loading
from mmprofile.model.hub import fetch

AT_A_TIME = 16
"""Photos that are captioned together."""


class PhotoCaptioner:
    """Captions photos one after another, on the CPU.

    Args:
        cfg: ``conf/captioner/blip2.yaml``, with a checkpoint.

    Raises:
        UserError: there is no such checkpoint.
    """

    def __init__(self, cfg: CaptionerConfig) -> None:
        assert cfg.checkpoint is not None
        self.prompt, self.decoding = cfg.prompt, dict(cfg.decoding)
        self.model, self.processor = load_blip2(
            cfg, cfg.checkpoint, choose_dtype(cfg.dtype, "cpu"), "captioner.checkpoint"
        )

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Return a caption for each photo; it is empty where the model writes none."""
        captions: list[str] = []
        for start in range(0, len(images), AT_A_TIME):
            shown = [image.convert("RGB") for image in images[start : start + AT_A_TIME]]
            inputs = self.processor(images=shown, text=[self.prompt] * len(shown), return_tensors="pt")
            captions += write_captions(self.model, self.processor, self.decoding, dict(inputs))
        return captions


def load_blip2(cfg: CaptionerConfig, checkpoint: str, dtype: str, key: str = "model") -> tuple[Any, Any]:
    """Return model and processor, from the hub or a folder.

    Args:
        cfg: with the ``revision``.
        checkpoint: hub id or folder of the model.
        dtype: one of :data:`mmprofile.model.checkpoints.DTYPES`, or ``int8``.
        key: how the user gave the checkpoint; messages name it.

    Raises:
        UserError: they cannot be loaded.
    """
    precision: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if dtype == "int8":
        precision = {"dtype": torch.float16, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    found = fetch(checkpoint, key, cfg.revision)
    with loading(found):
        processor = AutoProcessor.from_pretrained(str(found.folder), **LOCAL)
    model, _ = load_model(Blip2ForConditionalGeneration, found, **precision)
    processor.num_query_tokens = model.config.num_query_tokens
    return model.eval(), processor


def write_captions(model: Any, processor: Any, decoding: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> list[str]:
    """Return the captions of a batch, made in halves where the device's memory does not hold all of it.

    Args:
        model: a BLIP-2 over OPT or Flan-T5.
        processor: of the model.
        decoding: options of transformers' ``generate``.
        inputs: ``pixel_values`` (P, 3, height, width), ``input_ids`` and ``attention_mask`` (P, queries + N).

    Returns:
        P texts.

    Raises:
        UserError: the memory does not hold one photo.
    """
    try:
        pixels = inputs["pixel_values"].to(model.dtype)
        ids = model.generate(  # (P, L), or (P, queries + N + L) of a decoder-only model
            **{**inputs, "pixel_values": pixels}, do_sample=False, **decoding
        )
    except torch.OutOfMemoryError as error:
        count = len(inputs["pixel_values"])
        if count == 1:
            raise UserError(
                "the device's memory does not hold the model and one photo: give dtype=int8, a smaller "
                "decoding.num_beams, or a smaller model"
            ) from error
        torch.cuda.empty_cache()
        halves = slice(0, count // 2), slice(count // 2, count)
        return [
            text
            for half in halves
            for text in write_captions(model, processor, decoding, {k: v[half] for k, v in inputs.items()})
        ]
    if model.config.use_decoder_only_language_model:
        ids = ids[:, inputs["input_ids"].shape[1] :]  # it repeats its input
    texts = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [" ".join(text.strip().partition("\n")[0].split()) for text in texts]
