"""What does captioning cost besides the model? ``python benchmarks/caption.py``.

``python -m mmprofile.caption`` captions photos of 600 x 400 pixels (256 on the shorter side once prepared) in a process of its
own, on a CPU, by a random BLIP-2 of a few million parameters (ViT-Ti/16 at 224 pixels, 4 layers of Q-Former, the shipped T5),
with beam 5, 30 tokens, and batches of 16. *Overhead* is the share of the loop's time, from the start of Lightning to the end of
the file, that is not spent in ``generate`` of transformers; start-up (imports, loading) is timed apart. On a CPU nothing else runs
during ``generate``. Memory is what the process has allocated (anonymous pages, so without the files that it maps). *Resume* is the
cost, without imports, of a run that finds all photos captioned: open the data, compare, count.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from common import machine, parser, report, spread, table
from PIL import Image
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    T5Config,
)

from datamodules.captions import Captions
from datamodules.prepare import prepare
from mmprofile.caption.blip2 import caption, identity
from mmprofile.config.command import quiet
from mmprofile.config.compose import load_config
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile.schema import Schema


def save_blip2(folder: Path) -> None:
    """Save the random model as a hub has it."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    text = T5Config.from_pretrained(ASSETS / "tiny" / "text")
    small = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3}
    vision = Blip2VisionConfig(**small, num_hidden_layers=12, image_size=224, patch_size=16)
    qformer = Blip2QFormerConfig(**small, num_hidden_layers=4, encoder_hidden_size=192, vocab_size=8)
    image = tokenizer.convert_tokens_to_ids("<image>")
    text.vocab_size = max(text.vocab_size, image + 1)
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=32, image_token_index=image
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 224, "width": 224}
    Blip2Processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=32).save_pretrained(folder)


def make_data(root: Path, photos: int, size: tuple[int, int]) -> Path:
    """Prepare a folder of different photos: smooth colours under noise, about as large as a camera's files."""
    raw, rng = root / f"raw{photos}", np.random.default_rng(0)
    raw.mkdir()
    for i in range(photos):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        noise = rng.integers(-8, 9, (size[1], size[0], 1), dtype=np.int16)
        pixels = np.clip(np.asarray(coarse, dtype=np.int16) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(raw / f"{i}.jpg", quality=85)
    names = [f"{i}.jpg" for i in range(photos)]
    rows = [{"user_id": f"u{i}", "text": "we liked it", "photos": names[i::3]} for i in range(3)]
    (raw / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = root / f"prepared{photos}"
    prepare(
        {"kind": "custom", "reviews": str(raw / "reviews.jsonl")},
        {"min_words": 1, "max_words": 300, "min_reviews": 1, "photo_reviews": 0},
        {"train": 1, "validation": 1, "test": 1},
        schema=Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml"), progress=False, folder=str(folder),
    )  # fmt: skip
    return folder


def allocated() -> int:
    """Return the anonymous memory of this process in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))


def measured(overrides: list[str]) -> dict[str, Any]:
    """Caption in this process and measure the seconds of the whole loop and of ``generate``, and memory over time."""
    quiet()
    cfg = load_config("caption", overrides)
    captions = Captions(cfg.folder)
    seconds = {"generate": 0.0}
    generate, predict = Blip2ForConditionalGeneration.generate, pl.Trainer.predict
    memory, stop = list[int](), threading.Event()

    def timed(self: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        ids = generate(self, **kwargs)
        seconds["generate"] += time.perf_counter() - start
        return ids

    def started(self: Any, *args: Any, **kwargs: Any) -> Any:
        seconds["start"] = time.perf_counter()
        return predict(self, *args, **kwargs)

    def watch() -> None:
        memory.append(allocated())
        while not stop.wait(0.1):
            memory.append(allocated())

    Blip2ForConditionalGeneration.generate = timed  # type: ignore[method-assign]
    pl.Trainer.predict = started  # type: ignore[method-assign]
    threading.Thread(target=watch, daemon=True).start()
    counts = caption(cfg, captions, checkpoint=cfg.checkpoint)
    stop.set()
    memory.append(allocated())  # the shortest run has a first and a last figure
    loop = time.perf_counter() - seconds["start"]
    return {"loop": loop, "generate": seconds["generate"], "captions": counts["ok"], "memory": memory}


def run(folder: Path, model: Path) -> dict[str, Any]:
    """Caption from nothing in a process of its own and return what it measured."""
    (folder / "captions.parquet").unlink(missing_ok=True)
    overrides = [f"folder={folder}", f"model={model}", "trainer=cpu", "trainer.progress=false"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", *overrides],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"wall": time.perf_counter() - start}


def resume(folder: Path, model: Path) -> float:
    """Return the seconds to find that all photos of a folder are captioned."""
    quiet()
    cfg = load_config("caption", [f"folder={folder}", f"model={model}", "trainer=cpu"])
    captions, maker = Captions(folder), identity(cfg, cfg.checkpoint)
    if not (folder / "captions.parquet").exists():
        with captions.shards(maker) as shards:
            for photo in captions.todo(maker):
                shards.add(photo, f"a photo of {photo.photo_id}")
        captions.finish(maker)
    start = time.perf_counter()
    caption(cfg, Captions(folder), checkpoint=cfg.checkpoint)
    return time.perf_counter() - start


def main() -> None:
    """Measure and report; the command line is that of all benchmarks, and the sizes."""
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--photos", type=int, default=1000, help="photos of the run whose overhead is measured")
    options.add_argument("--many", type=int, default=10_000, help="photos of the run whose memory is measured")
    options.add_argument("--done", type=int, default=100_000, help="captions that a run finds done")
    options.add_argument("--child", nargs="+", default=None, help="one run in this process; used by the script itself")
    arguments = options.parse_args()
    if arguments.child:
        print(json.dumps(measured(arguments.child)))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_blip2(root / "model")
        few = make_data(root, arguments.photos, (600, 400))
        runs = [run(few, root / "model") for _ in range(arguments.repeats)]
        many = run(make_data(root, arguments.many, (600, 400)), root / "model")
        done = make_data(root, arguments.done, (16, 16))
        resumes = [resume(done, root / "model") for _ in range(arguments.repeats + 1)][1:]
    overhead = [1 - r["generate"] / r["loop"] for r in runs]
    tenth = max(1, len(many["memory"]) // 10)
    early, late = (
        statistics.median(part) / 1e6 for part in (many["memory"][tenth : 2 * tenth + 1], many["memory"][-tenth:])
    )
    figures = {
        "overhead": round(statistics.median(overhead), 4), "memory_growth_mb": round(late - early, 1),
        "resume_s": round(statistics.median(resumes), 3),
    }  # fmt: skip
    rows = [
        [f"{arguments.photos:,} photos: loop, s", spread([r["loop"] for r in runs])],
        ["of it generate, s", spread([r["generate"] for r in runs])],
        ["overhead", spread([100 * share for share in overhead]) + " %"],
        ["start-up, s", spread([r["wall"] - r["loop"] for r in runs])],
        [f"{arguments.many:,} photos: memory in the second tenth of the run, MB", f"{early:,.0f}"],
        ["in the last tenth, MB", f"{late:,.0f}"],
        ["most, MB", f"{max(many['memory']) / 1e6:,.0f}"],
        [f"{arguments.done:,} captions done: resume, s", spread(resumes)],
    ]
    text = f"## Captions\n\n`python benchmarks/caption.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{machine()}, {torch.get_num_threads()} threads; median (least to most) of {arguments.repeats}, memory of one run.\n\n"
    report("caption", text + table(["", "measured"], rows), figures, arguments)


if __name__ == "__main__":
    main()
