# /// script
# requires-python = ">=3.10,<3.12"
# dependencies = [
#     "salesforce-lavis==1.0.2",
#     "eva-decord",
#     "numpy<2",
#     "pandas<3",
#     "pyarrow>=15,<21",
#     "requests",
#     "scikit-image<0.25",
#     "scipy<1.14",
#     "torch>=2.5",
# ]
# # decord's wheel bears a tag that uv takes for another Python's, so that each run would ask the index again.
# [tool.uv]
# override-dependencies = ["decord ; sys_platform == 'never'"]
# ///
"""BLIP-2 captions by LAVIS. Its pinned versions fit nothing else here, so this script has its own environment, made by uv.

``python -m mmprofile.caption backend=lavis`` runs it. On its own it writes JSON lines for ``backend=file``:
``uv run --script lavis_script.py --photos PREPARED/photos > captions.jsonl``
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # the files beside this one belong to another environment

import argparse
import io
import json
import os
import runpy
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import requests
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

MODELS = ("blip2_opt", "blip2_t5")


class LavisPhotos(Dataset):
    """Photos of a prepared folder as the model reads them, or the reason why a photo cannot be decoded.

    Args:
        folder: ``photos`` of the prepared folder.
        ids: of the photos; None: all.
        processor: image -> tensor (3, H, W).
    """

    def __init__(self, folder: Path, ids: list[str] | None, processor: Any) -> None:
        self.folder, self.processor = folder, processor
        place = {photo_id: row for row, photo_id in enumerate(self.read("photo_id").to_pylist())}
        self.rows = [(photo_id, place[photo_id]) for photo_id in (place if ids is None else ids)]

    def read(self, column: str) -> Any:
        """Return a column of the photo table, memory-mapped."""
        files = sorted(self.folder.glob("*.arrow"))
        if not files:
            sys.exit(f"error: {self.folder} holds no photos (*.arrow) of a prepared data set")
        return pa.concat_tables(pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in files)[column]

    @cached_property
    def jpegs(self) -> Any:
        """The photos' files; each worker opens them for itself."""
        return self.read("jpeg")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        photo_id, row = self.rows[index]
        try:
            image = Image.open(io.BytesIO(self.jpegs[row].as_py())).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return photo_id, f"cannot be decoded: {error}"
        return photo_id, self.processor(image)


def load(name: str, device: str) -> tuple[Any, Any]:
    """Return model and image processor: ``name/type`` of LAVIS, or what a Python file's ``load(device)`` returns.

    The process ends with a one-line error where they cannot be loaded.
    """
    if not name.endswith(".py"):
        without_hub()
    warnings.filterwarnings("ignore", module=r"(torch|fairscale|timm|transformers|huggingface_hub|lavis)\b.*")
    from lavis.common.registry import registry  # these two imports take seconds
    from lavis.models import load_model_and_preprocess  # fills the registry

    try:
        if name.endswith(".py"):
            return runpy.run_path(name)["load"](device)
        kind, _, variant = name.partition("/")
        if kind not in MODELS:
            sys.exit(f"error: model={name!r}: give NAME/TYPE with a name of {', '.join(MODELS)}, or a Python file")
        types = registry.get_model_class(kind).PRETRAINED_MODEL_CONFIG_DICT
        if variant not in types:
            sys.exit(f"error: model={name!r}: LAVIS has {', '.join(f'{kind}/{known}' for known in types)}")
        model, processors, _ = load_model_and_preprocess(kind, variant, is_eval=True, device=device)
        return model, processors["eval"]
    except Exception as error:  # noqa: BLE001 - whatever keeps it from loading: its network, its disk, a user's file
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        where = (
            "" if name.endswith(".py") else "; on first use LAVIS fetches its weights and tokenizers from the network"
        )
        sys.exit(f"error: model={name!r} cannot be loaded by LAVIS ({type(error).__name__}: {reason}){where}")


def without_hub() -> None:
    """Let the hub's client use its cache alone if the hub cannot be reached; else it would try each file for minutes."""
    try:
        requests.head(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=5)
    except requests.RequestException:
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def write(model: Any, images: Any, prompt: str, decoding: dict[str, Any]) -> list[str]:
    """Return a caption for each of the images (B, 3, H, W); in halves where the device's memory does not hold all."""
    try:
        return model.generate({"image": images, "prompt": prompt}, **decoding)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            sys.exit("error: the device's memory does not hold the model and one photo: give a smaller model")
        torch.cuda.empty_cache()
        return [text for half in images.chunk(2) for text in write(model, half, prompt, decoding)]


def main() -> None:
    """Print a JSON line for each photo: ``photo_id``, ``caption``, ``error``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="photos/ of a prepared folder")
    parser.add_argument("--ids", type=Path, help="file of the photo ids to caption, one per line; default: all")
    parser.add_argument(
        "--model", default="blip2_t5/pretrain_flant5xl", help="NAME/TYPE, or a Python file with load(device)"
    )
    parser.add_argument("--prompt", default="a photo of")
    parser.add_argument("--decoding", type=json.loads, default={}, help="JSON, for LAVIS's generate()")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between two marks of progress; 0: none")
    arguments = parser.parse_args()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever LAVIS prints
    ids = arguments.ids.read_text(encoding="utf-8").split("\n") if arguments.ids else None
    model, processor = load(arguments.model, arguments.device)
    photos = LavisPhotos(arguments.photos, ids, processor)
    loader = DataLoader(photos, arguments.batch_size, num_workers=arguments.workers, collate_fn=list)
    bar = tqdm(
        total=len(photos), desc="caption", unit="photo", mininterval=arguments.interval, disable=not arguments.interval
    )
    with bar, torch.inference_mode():
        for batch in loader:
            images = [image for _, image in batch if not isinstance(image, str)]  # (3, H, W) each
            texts = []
            if images:
                pixels = torch.stack(images).to(arguments.device)
                texts = write(model, pixels, arguments.prompt, arguments.decoding)
            captions = iter(texts)
            for photo_id, image in batch:
                failed = isinstance(image, str)
                caption, error = ("", image) if failed else (next(captions), None)
                row = {"photo_id": photo_id, "caption": caption, "error": error}
                out.write(json.dumps(row) + "\n")
            out.flush()
            bar.update(len(batch))


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):  # stopped, or nobody reads any more
        sys.exit(130)
