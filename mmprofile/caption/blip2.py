"""BLIP-2 captions by transformers. ``Trainer.predict`` shares the photos among devices and nodes; each rank writes shards.

Dimension letters as in :mod:`mmprofile.model`: P photos of a batch, N tokens of the prompt, L tokens written; ``queries`` of
the Q-Former.
"""

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mmprofile.caption.store import CaptionStore, Photo, Shards
from mmprofile.config.settings import CaptionConfig
from mmprofile.errors import UserError
from mmprofile.model.captioner import load_blip2, write_captions
from mmprofile.model.checkpoints import choose_dtype, fingerprint, load_config
from mmprofile.model.hub import fetch


class CaptionBatch(NamedTuple):
    """Photos of a batch, ready for the model.

    Attributes:
        photos: those that can be decoded, P of them.
        inputs: ``pixel_values`` (P, 3, height, width), ``input_ids`` and ``attention_mask`` (P, queries + N); empty without photos.
        errors: the other photos, each with the reason.
    """

    photos: list[Photo]
    inputs: dict[str, Tensor]
    errors: list[tuple[Photo, str]]


def identity(cfg: CaptionConfig, checkpoint: str) -> dict[str, str]:
    """Return what makes these captions: a text for each column of the captions file that records it.

    Args:
        cfg: the command's configuration.
        checkpoint: hub id or folder of the model.

    Raises:
        UserError: there is no such model, or no such revision of it; ``dtype`` cannot be used here.
    """
    found = fetch(checkpoint, "model", cfg.revision, weights=False)
    config = load_config(found)
    if config.model_type != "blip-2":
        raise UserError(
            f"model={checkpoint!r} is a {config.model_type} model: give a BLIP-2, such as Salesforce/blip2-flan-t5-xl"
        )
    if config.image_token_index is None:
        raise UserError(
            f"model={checkpoint!r} is from before BLIP-2 had image tokens (no image_token_index in its config.json), which "
            "transformers cannot caption with: fetch its newest revision"
        )
    folder = Path(checkpoint)
    return {
        "backend": "transformers",
        "backend_version": version("transformers"),
        "model": folder.resolve().name if folder.is_dir() else checkpoint,
        "revision": found.commit or fingerprint(found.folder),
        "prompt": cfg.prompt,
        "decoding": json.dumps(dict(cfg.decoding), sort_keys=True),
        "dtype": choose_dtype(cfg.dtype, cfg.trainer.accelerator),
    }


class CaptionPhotos(Dataset[tuple[Photo, Image.Image | str]]):
    """Photos with their decoded image, or with the reason why it cannot be decoded."""

    def __init__(self, photos: Sequence[Photo], jpeg: Callable[[str], bytes]) -> None:
        self.photos, self.jpeg = photos, jpeg

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Photo, Image.Image | str]:
        photo = self.photos[index]
        try:
            return photo, Image.open(io.BytesIO(self.jpeg(photo.photo_id))).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return photo, f"cannot be decoded: {error}"


class Collate:
    """Make batches: what the model reads of the photos, with the prompt."""

    def __init__(self, processor: Any, prompt: str) -> None:
        self.processor, self.prompt = processor, prompt

    def __call__(self, items: Sequence[tuple[Photo, Image.Image | str]]) -> CaptionBatch:
        good = [(photo, image) for photo, image in items if not isinstance(image, str)]
        bad = [(photo, reason) for photo, reason in items if isinstance(reason, str)]
        if not good:
            return CaptionBatch(photos=[], inputs={}, errors=bad)
        images = [image for _, image in good]
        inputs = self.processor(images=images, text=[self.prompt] * len(images), return_tensors="pt")
        return CaptionBatch(photos=[photo for photo, _ in good], inputs=dict(inputs), errors=bad)


class Captioner(pl.LightningModule):
    """Writes captions by beam search.

    Args:
        model: a BLIP-2 over OPT or Flan-T5.
        processor: of the model.
        decoding: options of transformers' ``generate``.
    """

    def __init__(self, model: Any, processor: Any, decoding: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.processor, self.decoding = model, processor, dict(decoding)

    def predict_step(self, batch: CaptionBatch, batch_idx: int) -> list[str]:
        """Return a caption for each photo, in order; it is empty where the model writes none."""
        return write_captions(self.model, self.processor, self.decoding, batch.inputs) if batch.photos else []


class Writing(Callback):
    """Hands captions to the shards as they come, and shows the progress.

    Args:
        shards: of this rank.
        total: photos of all ranks.
        progress: whether to show a bar.
    """

    def __init__(self, shards: Shards, total: int, progress: bool) -> None:
        self.shards, self.total, self.progress = shards, total, progress

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the bar; that of the first rank counts for all."""
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=self.total, desc="caption", unit="photo", mininterval=0.2 if terminal else 10,
            disable=not (self.progress and trainer.is_global_zero),
        )  # fmt: skip

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: CaptionBatch, *_: Any
    ) -> None:
        """Write the captions of a batch."""
        for photo, text in zip(batch.photos, outputs, strict=True):
            self.shards.add(photo, text, None if text else "the model wrote nothing")
        for photo, reason in batch.errors:
            self.shards.add(photo, "", reason)
        count = (len(batch.photos) + len(batch.errors)) * trainer.world_size
        self.bar.update(min(count, self.total - self.bar.n))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self.bar.close()


def caption(
    cfg: CaptionConfig, captions: CaptionStore, *, checkpoint: str, part: tuple[int, int] | None = None
) -> Counter[str] | None:
    """Caption what is not captioned yet.

    Args:
        cfg: the command's configuration.
        captions: of the data set.
        checkpoint: hub id or folder of the model.
        part: number of a part of the photos, and of how many; what is written of it is not joined. None: all photos.

    Returns:
        Numbers of captions by status; None of a part, and on all ranks but the first.

    Raises:
        UserError: the model cannot be loaded, or something else made the captions that are there.
    """
    maker = identity(cfg, checkpoint)
    settings = cfg.trainer
    trainer = pl.Trainer(
        accelerator=settings.accelerator, devices=settings.devices, strategy=settings.strategy,
        num_nodes=settings.num_nodes, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    todo = captions.todo(maker, cfg.existing, cfg.retry)
    if part is not None:  # by the photo itself: a part that is begun again is the same, whatever others have done
        todo = [photo for photo in todo if int(photo.sha256[:8], 16) % part[1] == part[0]]
    count = len(captions.photos)
    if trainer.is_global_zero:
        print(f"{count - len(todo):,} of {count:,} photos are done, {len(todo):,} to do", flush=True)
    if todo:
        if trainer.is_global_zero:
            print(f"loading {checkpoint} ({maker['dtype']})", flush=True)
        model, processor = load_blip2(cfg, checkpoint, maker["dtype"])
        photos, collate = CaptionPhotos(todo, captions.jpeg), Collate(processor, cfg.prompt)
        workers = (0 if trainer.strategy.root_device.type == "cpu" else 2) if cfg.workers is None else cfg.workers
        loader = DataLoader(photos, cfg.batch_size, num_workers=workers, collate_fn=collate)
        with captions.shards(maker, part[0] if part else trainer.global_rank, cfg.shard) as shards:
            trainer.callbacks.append(Writing(shards, len(todo), settings.progress))  # type: ignore[attr-defined]
            trainer.predict(Captioner(model, processor, cfg.decoding), loader, return_predictions=False)
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.strategy.barrier()
    if part is not None:
        return None
    return captions.finish(maker, cfg.existing) if trainer.is_global_zero else None
