"""Pretrains the tiny backbone that the package carries (``mmprofile/assets/tiny``): a T5 and a ViT of 2 M parameters.

    python scripts/pretrain_tiny.py --out mmprofile/assets/tiny --minutes 25

The data are demo cities of other seeds than the demo's, so no user, business, review or photo of the demo is seen. The
tasks are those of the backbones it stands in for, and none of them shows a profile:

- span corruption of reviews and captions (T5);
- the stars and the trades of reviews, as rating and topic tasks are part of Flan's mixture;
- captions and trades of photos from the ViT's class state (or all its states), which the T5 decoder reads directly.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from datamodules.demo import write_city
from mmprofile.batch import IGNORE, pad
from mmprofile.paths import conf_dir
from mmprofile.profile import Schema
from mmprofile.vision import mask_pixels, photo_transform

SEEDS = (9001, 9002, 9003, 9004)  # the demo's own is 0, tests use small numbers
SENTINELS = 40
VOCABULARY = 3072
TEXT = {"d_model": 128, "d_kv": 32, "d_ff": 384, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
VISION = {"img_size": 96, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 0}
ARCHITECTURE = "vit_tiny_patch16_224"
INPUT = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
CROP = {"crop_pct": 1.0, "crop_mode": "squash"}
HELD_OUT = 0.03
MAX_WORDS = 60  # a single review of 300 words would make its whole batch ten times as wide


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a newline-delimited JSON file."""
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def read_cities(folder: Path, users: int, seeds: tuple[int, ...], trades: tuple[str, ...]) -> tuple[list, list]:
    """Generates the cities and reads them back: reviews (text, stars, trades) and photos (pixels, caption, trades)."""
    transform = photo_transform({**INPUT, **CROP, "input_size": tuple(INPUT["input_size"])})
    reviews, photos = [], []
    for seed in seeds:
        city = folder / f"city-{seed}"
        if not city.exists():
            write_city(city, users=users, seed=seed)
        known = {
            row["business_id"]: [t for t in trades if t in (row["categories"] or "").split(", ")]
            for row in rows(city / "yelp_academic_dataset_business.json")
        }
        for row in rows(city / "yelp_academic_dataset_review.json"):
            if 10 <= len(row["text"].split()) <= MAX_WORDS:
                reviews.append((row["text"], str(int(row["stars"])), known[row["business_id"]]))
        captions = {row["photo_id"]: row["caption"] for row in rows(city / "captions.jsonl") if "photo_id" in row}
        of = {row["photo_id"]: row["business_id"] for row in rows(city / "photos.json")}
        for photo, caption in captions.items():
            pixels = transform(Image.open(city / "photos" / f"{photo}.jpg").convert("RGB"))
            photos.append((np.asarray(pixels), caption, known[of[photo]]))
    return reviews, photos


def train_tokenizer(texts: list[str], schema: Schema) -> PreTrainedTokenizerFast:
    """A BPE tokenizer with T5's special tokens and sentinels; the schema's words are made frequent, to stay whole."""
    words = [f"{a.name}: {v}; {v}, {v}" for a in schema.attributes for v in a.values]
    words += ["Unknown review: photo: profile: stars: trade:", " ".join(str(number) for number in range(10))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    sentinels = [f"<extra_id_{i}>" for i in range(SENTINELS)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - SENTINELS,
        special_tokens=["<pad>", "</s>", "<unk>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts + words * 200, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
        model_max_length=4096,
    )


def corrupt_spans(
    ids: list[int], sentinels: list[int], rng: random.Random, rate: float = 0.2
) -> tuple[list[int], list[int]]:
    """T5's span corruption: spans of 3 tokens on average replaced by sentinels, which head the spans in the target."""
    source, target, i, used = [], [], 0, 0
    while i < len(ids):
        if rng.random() < rate / 3 and used < len(sentinels) - 1:
            length = min(rng.choice((1, 2, 3, 4, 5)), len(ids) - i)
            source.append(sentinels[used])
            target += [sentinels[used], *ids[i : i + length]]
            used, i = used + 1, i + length
        else:
            source.append(ids[i])
            i += 1
    return source, [*target, sentinels[used]]


class Mixture:
    """Draws batches of the pretraining tasks."""

    def __init__(self, reviews: list, photos: list, tokenizer: Any, seed: int) -> None:
        self.reviews, self.photos, self.tokenizer = reviews, photos, tokenizer
        self.rng, self.pixel_rng = random.Random(seed), np.random.default_rng(seed)
        self.sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(SENTINELS)])
        self.eos = tokenizer.eos_token_id

    def ids(self, text: str) -> list[int]:
        """Token ids without end-of-sequence."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(self, size: int) -> tuple[Tensor, Tensor]:
        """A third each span corruption, stars and trades of ``size`` reviews, one to three at a time: source, target."""
        sources, targets = [], []
        count = self.rng.choice((1, 1, 1, 2, 3))  # the same throughout a batch: little padding
        for i in range(size // count):
            drawn = self.rng.sample(self.reviews, count)
            text = " ".join(f"review: {review}" for review, _, _ in drawn)
            if i % 3 == 0:
                if self.rng.random() < 0.5:
                    captions = self.rng.sample(self.photos, self.rng.choice((1, 2, 3)))
                    text = " ".join([text, *(f"photo: {caption}" for _, caption, _ in captions)])
                source, target = corrupt_spans(self.ids(text), self.sentinels, self.rng)
            elif i % 3 == 1:
                source, target = self.ids(f"stars: {text}"), self.ids(", ".join(stars for _, stars, _ in drawn))
            else:
                trades = "; ".join(", ".join(trades) or "none" for _, _, trades in drawn)
                source, target = self.ids(f"trade: {text}"), self.ids(trades)
            sources.append([*source, self.eos])
            targets.append([*target, self.eos])
        return pad(sources, 0), pad(targets, IGNORE)

    def images(self, size: int, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Photos, uint8 (size, 3, H, W), and the ids of their captions or trades; ``augment``: mirrored, partly masked."""
        drawn = self.rng.sample(self.photos, min(size, len(self.photos)))
        pixels = [p for p, _, _ in drawn]
        if augment:
            pixels = [p[:, :, ::-1].copy() if self.rng.random() < 0.5 else p for p in pixels]
            pixels = [mask_pixels(p, 0.3, self.pixel_rng) if self.rng.random() < 0.25 else p for p in pixels]
        texts = [c if self.rng.random() < 0.75 else f"trade: {', '.join(t) or 'none'}" for _, c, t in drawn]
        return torch.from_numpy(np.stack(pixels)), pad([[*self.ids(text), self.eos] for text in texts], IGNORE)


class Pair:
    """The two backbones, and the losses of the tasks."""

    def __init__(self, tokenizer: Any) -> None:
        config = T5Config(
            vocab_size=VOCABULARY, feed_forward_proj="relu", dropout_rate=0.0, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
            relative_attention_max_distance=64, **TEXT,
        )  # fmt: skip
        config._attn_implementation = "eager"  # with T5's position bias a third faster than sdpa on a CPU
        self.t5 = T5ForConditionalGeneration(config)
        self.vit = timm.create_model(ARCHITECTURE, pretrained=False, **VISION)

    def text_loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of the target tokens."""
        return self.t5(input_ids=source, attention_mask=source != 0, labels=target).loss

    def image_loss(self, photos: Tensor, target: Tensor, only_cls: bool) -> Tensor:
        """Mean cross-entropy of captions read from the class state, or from all states."""
        states = self.vit.forward_features((photos.float() / 255 - 0.5) / 0.5)
        states = states[:, :1] if only_cls else states
        logits = self.t5(
            encoder_outputs=BaseModelOutput(states),
            decoder_input_ids=self.t5.prepare_decoder_input_ids_from_labels(labels=target),
        ).logits
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE)


def train(pair: Pair, mixture: Mixture, held_out: Mixture, minutes: float, lr: float) -> dict[str, float]:
    """Trains for a time; the learning rate follows the clock (warm-up 3 %, cosine). Returns held-out losses."""
    parameters = [*pair.t5.parameters(), *pair.vit.parameters()]
    adam = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    start, step, mean = time.perf_counter(), 0, {"text": 0.0, "photo": 0.0}
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, done / 0.03, 0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        text = pair.text_loss(*mixture.text(48))
        photo = pair.image_loss(*mixture.images(48), only_cls=step % 4 != 3)
        adam.zero_grad()
        (text + photo).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        for name, loss in (("text", text), ("photo", photo)):
            mean[name] += (loss.item() - mean[name]) / min(step + 1, 100)
        step += 1
        if step % 100 == 0:
            print(
                f"{step:>6} steps  {60 * minutes * done:6.0f} s  text {mean['text']:.3f}  photo {mean['photo']:.3f}",
                flush=True,
            )
    with torch.no_grad():
        texts = [pair.text_loss(*held_out.text(64)).item() for _ in range(10)]
        photos = [pair.image_loss(*held_out.images(64, augment=False), only_cls=True).item() for _ in range(10)]
    return {"steps": step, "text_loss": float(np.mean(texts)), "photo_loss": float(np.mean(photos))}


def save(pair: Pair, tokenizer: Any, out: Path) -> None:
    """Both halves in hub layout, weights in float16: ``text/`` for transformers, ``vision/`` for timm."""
    pair.t5.half().save_pretrained(out / "text")
    tokenizer.save_pretrained(out / "text")
    vision = out / "vision"
    vision.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in pair.vit.state_dict().items()}, vision / "model.safetensors")
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": VISION["embed_dim"],
        "model_args": VISION,
        "pretrained_cfg": {**INPUT, **CROP, "num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head"},
    }
    (vision / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("mmprofile/assets/tiny"))
    parser.add_argument("--cities", type=Path, default=None, help="folder to keep the generated cities in")
    parser.add_argument("--users", type=int, default=1500, help="users of each city")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    with tempfile.TemporaryDirectory() as temporary:
        cities = args.cities or Path(temporary)
        reviews, photos = read_cities(cities, args.users, SEEDS, schema["Favorite Category"].values)
    print(f"{len(reviews)} reviews, {len(photos)} photos of cities {SEEDS}", flush=True)
    start = time.perf_counter()
    tokenizer = train_tokenizer([r[0] for r in reviews[::20]] + [p[1] for p in photos], schema)
    print(f"tokenizer trained in {time.perf_counter() - start:.0f} s", flush=True)
    random.Random(0).shuffle(reviews)
    random.Random(0).shuffle(photos)
    cut = int(len(reviews) * HELD_OUT), int(len(photos) * HELD_OUT)
    mixture = Mixture(reviews[cut[0] :], photos[cut[1] :], tokenizer, 1)
    held_out = Mixture(reviews[: cut[0]], photos[: cut[1]], tokenizer, 2)
    pair = Pair(tokenizer)
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in (("text", pair.t5), ("vision", pair.vit))}
    print(f"parameters {count}", flush=True)
    figures = train(pair, mixture, held_out, args.minutes, args.lr)
    save(pair, tokenizer, args.out)
    facts = {
        "parameters": count,
        "minutes": args.minutes,
        "seeds": SEEDS,
        "reviews": len(reviews),
        "photos": len(photos),
    }
    (args.out / "pretraining.json").write_text(json.dumps({**facts, **figures}, indent=2) + "\n", encoding="utf-8")
    print(figures)


if __name__ == "__main__":
    main()
