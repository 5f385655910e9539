"""Pretrains the tiny backbone that the package carries (``mmprofile/assets/tiny``): a T5 and a ViT of 2 M parameters.

    python scripts/pretrain_tiny.py --out mmprofile/assets/tiny --minutes 25

The data are demo cities of other seeds than the demo's, so no user, business, review or photo of the demo is seen. The
tasks are those of the backbones it stands in for, and none of them shows a profile:

- span corruption of reviews and captions (T5);
- the stars of reviews and the trades of what they are about, as rating and topic tasks are part of Flan's mixture;
- from reviews and captions of a business its trades, and the caption of another of its photos;
- captions and trades of photos from the ViT's class state (or all its states), which the T5 decoder reads directly.

Linear heads, thrown away afterwards, learn stars, trades and the words of captions from the text encoder's mean state, and
the words of its caption from a photo's class state: sooner than the decoder learns where to look.
"""

import argparse
import json
import math
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from itertools import count as count_from
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
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
TASKS = ("spans", "trades", "other photo", "stars", "trades", "other photo")
PHOTO_EVERY = 3  # photos are learned in fewer steps than texts
MAX_WORDS = 60  # a single review of 300 words would make its whole batch ten times as wide


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a newline-delimited JSON file."""
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


class Review(NamedTuple):
    """A review and what is known of it."""

    text: str
    stars: int
    trades: list[str]
    business: str


class Photo(NamedTuple):
    """A photo, uint8 (3, H, W), and what is known of it."""

    pixels: np.ndarray
    caption: str
    trades: list[str]
    business: str


def read_cities(
    folder: Path, users: int, seeds: tuple[int, ...], trades: tuple[str, ...]
) -> tuple[list[Review], list[Photo]]:
    """Generates the cities and reads their reviews and photos back."""
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
                business = row["business_id"]
                reviews.append(Review(row["text"], int(row["stars"]), known[business], business))
        captions = {row["photo_id"]: row["caption"] for row in rows(city / "captions.jsonl") if "photo_id" in row}
        of = {row["photo_id"]: row["business_id"] for row in rows(city / "photos.json")}
        for photo, caption in captions.items():
            pixels = transform(Image.open(city / "photos" / f"{photo}.jpg").convert("RGB"))
            photos.append(Photo(np.asarray(pixels), caption, known[of[photo]], of[photo]))
    return reviews, photos


def split_held_out(
    reviews: list[Review], photos: list[Photo]
) -> tuple[tuple[list[Review], list[Photo]], tuple[list[Review], list[Photo]]]:
    """What is learned from, and what only the last losses are measured on; shuffles both lists."""
    for rows in (reviews, photos):
        random.Random(0).shuffle(rows)  # type: ignore[arg-type]
    r, p = int(len(reviews) * HELD_OUT), int(len(photos) * HELD_OUT)
    return (reviews[r:], photos[p:]), (reviews[:r], photos[:p])


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


class TextBatch(NamedTuple):
    """Texts (T, S); what a row reads of them, (R, N) indices of their tokens as in :class:`mmprofile.batch.Batch`; target
    ids (R, L); the share of each of the stars (R, 5) and trades (R, trades) in what it reads.

    ``words`` (R, words): the share of the photos of the businesses it reads of whose captions have each word; nan where
    they have no photos.
    """

    texts: Tensor
    row_tokens: Tensor
    target: Tensor
    stars: Tensor
    trades: Tensor
    words: Tensor


class PhotoBatch(NamedTuple):
    """Photos, uint8 (P, 3, H, W); target ids (P, L), their captions or trades; words of their captions (P, words), 0 or 1."""

    pixels: Tensor
    target: Tensor
    words: Tensor


def words_of(caption: str) -> set[str]:
    """The words of a caption."""
    return set(re.findall(r"[a-z0-9']+", caption.lower()))


def frequent_words(photos: list[Photo]) -> list[str]:
    """The words that at least 20 captions have."""
    counts = Counter(word for photo in photos for word in words_of(photo.caption))
    return sorted(word for word, count in counts.items() if count >= 20)


class Mixture:
    """Draws batches of the pretraining tasks."""

    def __init__(
        self,
        reviews: list[Review],
        photos: list[Photo],
        trades: Sequence[str],
        words: Sequence[str],
        tokenizer: Any,
        seed: int,
    ) -> None:
        self.reviews, self.photos, self.trades, self.words = reviews, photos, trades, words
        self.tokenizer = tokenizer
        self.rng, self.pixel_rng = random.Random(seed), np.random.default_rng(seed)
        self.sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(SENTINELS)])
        self.eos = tokenizer.eos_token_id
        self.captions: dict[str, list[str]] = {}
        for photo in photos:
            self.captions.setdefault(photo.business, []).append(photo.caption)
        self.shown = {
            business: np.mean([self.has(caption) for caption in captions], 0)
            for business, captions in self.captions.items()
        }
        self.visits: dict[str, list[Review]] = {}
        for review in reviews:
            if len(self.captions.get(review.business, ())) > 1:
                self.visits.setdefault(review.business, []).append(review)
        self.visited = sorted(self.visits)

    def ids(self, text: str) -> list[int]:
        """Token ids without end-of-sequence."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def has(self, caption: str) -> list[float]:
        """Which of the words a caption has, 0 or 1."""
        found = words_of(caption)
        return [float(word in found) for word in self.words]

    def corrupt(self, pieces: list[list[int]]) -> tuple[list[list[int]], list[int]]:
        """:func:`corrupt_spans` of all pieces of a text, with one target."""
        sources: list[list[int]] = []
        target: list[int] = []
        used = 0
        for piece in pieces:
            source, spans = corrupt_spans(piece, self.sentinels[used:], self.rng)
            sources.append(source)
            target = target[:-1] + spans  # what ends a piece's spans begins those of the next
            used += sum(token in self.sentinels for token in source)
        return sources, target

    def text(self, size: int) -> TextBatch:
        """The tasks on text, by ``TASKS``, of ``size`` reviews, one to three at a time.

        In half of the batches the pieces of a source, its reviews and its captions, are encoded apart and read together.
        """
        sources, targets, groups = [], [], []
        count = self.rng.choice((1, 1, 1, 2, 3))  # the same throughout a batch: little padding
        apart = self.rng.random() < 0.5
        for i in range(size // count):
            task = TASKS[i % len(TASKS)]
            drawn = self.rng.sample(self.reviews, count)
            if task in ("trades", "other photo"):
                visits = self.visits[self.rng.choice(self.visited)]
                drawn = self.rng.sample(visits, min(count, len(visits)))
            pieces = [f"review: {review.text}" for review in drawn]
            if task in ("spans", "stars") and self.rng.random() < 0.5:
                of = [captions for review in drawn if (captions := self.captions.get(review.business))]
                pieces += [" ".join(f"photo: {self.rng.choice(captions)}" for captions in of)] if of else []
            if task == "stars":
                stars = sorted((review.stars for review in drawn), reverse=True)
                target = self.ids(", ".join(map(str, stars)))
            elif task != "spans":
                other, *seen = self.rng.sample(captions := self.captions[drawn[0].business], min(3, len(captions)))
                photos = [" ".join(f"photo: {caption}" for caption in seen)]
                pieces = self.rng.choice((pieces, photos, pieces + photos, pieces + photos))
                target = self.ids(other if task == "other photo" else ", ".join(drawn[0].trades) or "none")
            source = [self.ids(piece) for piece in pieces]
            if task == "spans":
                source, target = self.corrupt(source)
            head = self.ids(f"{task}:") if task != "spans" else []
            whole = source if apart else [[*chain(*source)]]
            sources.append([[*head, *ids, self.eos] for ids in whole])
            targets.append([*target, self.eos])
            groups.append(drawn)
        stars = [[np.mean([review.stars == n for review in group]) for n in range(1, 6)] for group in groups]
        trades = [[np.mean([name in review.trades for review in group]) for name in self.trades] for group in groups]
        unknown = np.full(len(self.words), np.nan)
        shown = [[self.shown[r.business] for r in group if r.business in self.shown] for group in groups]
        heads = (stars, trades, [np.mean(shares or [unknown], 0) for shares in shown])
        texts = pad([ids for source in sources for ids in source], 0)
        width, numbers = texts.shape[1], count_from()
        rows = [
            [number * width + place for ids, number in zip(source, numbers, strict=False) for place in range(len(ids))]
            for source in sources
        ]
        return TextBatch(
            texts, pad(rows, -1), pad(targets, IGNORE), *(torch.from_numpy(np.stack(h)).float() for h in heads)
        )

    def images(self, size: int, augment: bool = True) -> PhotoBatch:
        """Photos and what they show; ``augment``: mirrored, partly masked."""
        drawn = self.rng.sample(self.photos, min(size, len(self.photos)))
        pixels = [photo.pixels for photo in drawn]
        if augment:
            pixels = [p[:, :, ::-1].copy() if self.rng.random() < 0.5 else p for p in pixels]
            pixels = [mask_pixels(p, 0.3, self.pixel_rng) if self.rng.random() < 0.25 else p for p in pixels]
        named = [f"trade: {', '.join(photo.trades) or 'none'}" for photo in drawn]
        texts = [p.caption if self.rng.random() < 0.75 else name for p, name in zip(drawn, named, strict=True)]
        target = pad([[*self.ids(text), self.eos] for text in texts], IGNORE)
        return PhotoBatch(
            torch.from_numpy(np.stack(pixels)), target, torch.tensor([self.has(p.caption) for p in drawn])
        )


class Pair:
    """The two backbones, and the losses of the tasks."""

    def __init__(self, tokenizer: Any, trades: int, words: int) -> None:
        config = T5Config(
            vocab_size=VOCABULARY, feed_forward_proj="relu", dropout_rate=0.0, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
            relative_attention_max_distance=64, **TEXT,
        )  # fmt: skip
        config._attn_implementation = "eager"  # with T5's position bias a third faster than sdpa on a CPU
        self.t5 = T5ForConditionalGeneration(config)
        self.vit = timm.create_model(ARCHITECTURE, pretrained=False, **VISION)
        self.text_heads = nn.ModuleList([nn.Linear(TEXT["d_model"], size) for size in (5, trades, words)])
        self.photo_head = nn.Linear(VISION["embed_dim"], words)

    def text_loss(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the target tokens, and the loss of the heads on the encoder's mean state."""
        encoded = self.t5.get_encoder()(input_ids=batch.texts, attention_mask=batch.texts != 0).last_hidden_state
        mask = batch.row_tokens >= 0
        states = encoded.flatten(0, 1).index_select(0, batch.row_tokens.clamp_min(0).flatten()).unflatten(0, mask.shape)
        loss = self.t5(encoder_outputs=BaseModelOutput(states), attention_mask=mask, labels=batch.target).loss
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        stars, trades, words = (head(mean) for head in self.text_heads)
        known = ~batch.words.isnan().any(1)
        heads = F.cross_entropy(stars, batch.stars) + 0.5 * named(trades, batch.trades)
        return loss, heads + 0.2 * named(words[known], batch.words[known])

    def image_loss(self, batch: PhotoBatch, only_cls: bool) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of captions read from the class state, or from all states, and the loss of the head."""
        states = self.vit.forward_features((batch.pixels.float() / 255 - 0.5) / 0.5)
        read = states[:, :1] if only_cls else states
        logits = self.t5(
            encoder_outputs=BaseModelOutput(read),
            decoder_input_ids=self.t5.prepare_decoder_input_ids_from_labels(labels=batch.target),
        ).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), ignore_index=IGNORE)
        return loss, 0.2 * named(self.photo_head(states[:, 0]), batch.words)


def named(logits: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy of names (rows, names) that hold or not, each with its share; summed over names, mean of rows."""
    return F.binary_cross_entropy_with_logits(logits, share, reduction="sum") / max(len(logits), 1)


def train(pair: Pair, mixture: Mixture, held_out: Mixture, minutes: float, lr: float) -> dict[str, float]:
    """Trains for a time; the learning rate follows the clock (warm-up 3 %, cosine). Returns held-out losses.

    T5's embeddings start ten times as large as its other weights and learn with five times the rate.
    """
    embedding = pair.t5.get_input_embeddings().weight
    parts = (pair.t5, pair.vit, pair.text_heads, pair.photo_head)
    rest = [p for part in parts for p in part.parameters() if p is not embedding]
    adam = torch.optim.AdamW(
        [{"params": [embedding], "factor": 5.0}, {"params": rest, "factor": 1.0}], weight_decay=0.01
    )
    start, step, mean = time.perf_counter(), 0, dict.fromkeys(("text", "heads", "photo", "photo head"), 0.0)
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        rate = lr * min(1.0, done / 0.03, 0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        for group in adam.param_groups:
            group["lr"] = rate * group["factor"]
        text, heads = pair.text_loss(mixture.text(48))
        losses = {"text": text, "heads": heads}
        if step % PHOTO_EVERY == 0:
            photo, head = pair.image_loss(mixture.images(48), only_cls=step // PHOTO_EVERY % 4 != 3)
            losses |= {"photo": photo, "photo head": head}
        adam.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_([embedding, *rest], 1.0)
        adam.step()
        for name, loss in losses.items():
            mean[name] += (loss.item() - mean[name]) / min(step // (PHOTO_EVERY if "photo" in name else 1) + 1, 100)
        step += 1
        if step % 100 == 0:
            figures = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            print(f"{step:>6} steps  {60 * minutes * done:6.0f} s  {figures}", flush=True)
    with torch.no_grad():
        texts = torch.tensor([[loss.item() for loss in pair.text_loss(held_out.text(64))] for _ in range(10)]).mean(0)
        photos = torch.tensor(
            [
                [loss.item() for loss in pair.image_loss(held_out.images(64, augment=False), only_cls=True)]
                for _ in range(10)
            ]
        ).mean(0)
    names = ("text_loss", "heads_loss", "photo_loss", "photo_head_loss")
    return {"steps": step} | dict(zip(names, [*texts.tolist(), *photos.tolist()], strict=True))


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
    parser.add_argument("--start", type=Path, default=None, help="folder written before, to go on from")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # gradients below 1e-38 make a step on a CPU almost twice as long
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    with tempfile.TemporaryDirectory() as temporary:
        cities = args.cities or Path(temporary)
        trades = schema["Favorite Category"].values
        reviews, photos = read_cities(cities, args.users, SEEDS, trades)
    print(f"{len(reviews)} reviews, {len(photos)} photos of cities {SEEDS}", flush=True)
    start = time.perf_counter()
    tokenizer = train_tokenizer([r.text for r in reviews[::20]] + [p.caption for p in photos], schema)
    print(f"tokenizer trained in {time.perf_counter() - start:.0f} s", flush=True)
    words = frequent_words(photos)
    kept, held = split_held_out(reviews, photos)
    mixture, held_out = (Mixture(*part, trades, words, tokenizer, seed) for seed, part in enumerate((kept, held), 1))
    pair = Pair(tokenizer, len(trades), len(words))
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in (("text", pair.t5), ("vision", pair.vit))}
    print(f"parameters {count}", flush=True)
    if args.start:
        pair.t5.load_state_dict(T5ForConditionalGeneration.from_pretrained(args.start / "text").state_dict())
        pair.vit.load_state_dict(load_file(args.start / "vision" / "model.safetensors"))
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
