"""Pretrain the tiny backbone that the package carries (``mmprofile/assets/tiny``): a T5 and a ViT of 2 M parameters.

    python scripts/pretrain_tiny.py --out mmprofile/assets/tiny --minutes 25

The data are generated cities whose seeds are not the demo's, so no user, business, review or photo of the demo is seen. The
tasks are those of the backbones that it stands in for, and none of them shows a profile:

- span corruption of reviews and captions (T5);
- the stars of reviews and the trades of the reviewed businesses, since Flan's mixture has rating and topic tasks;
- from reviews and captions of a business its trades, and the caption of another of its photos;
- captions and trades of photos from the ViT's class state (or all its states), which the T5 decoder reads directly.

Linear heads, which are not saved, learn stars, trades and the words of captions from the text encoder's mean state, and the
words of a caption from its photo's class state. They learn sooner than the decoder learns where to look.

Dimension letters as in :mod:`mmprofile.model`.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from pretraining_tasks import (
    CROP,
    INPUT,
    SEEDS,
    SENTINELS,
    Mixture,
    PhotoBatch,
    TextBatch,
    frequent_words,
    mixtures,
    name_loss,
    read_cities,
)
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.files import write_json
from mmprofile.inputs.batch import IGNORE
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

VOCABULARY = 3072
TEXT = {"d_model": 128, "d_kv": 32, "d_ff": 384, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
VISION = {"img_size": 96, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 0}
ARCHITECTURE = "vit_tiny_patch16_224"
PHOTO_EVERY = 3  # photos need fewer steps than texts


def train_tokenizer(texts: list[str], schema: Schema) -> PreTrainedTokenizerFast:
    """Return a BPE tokenizer with T5's special tokens and sentinels; the schema's words are frequent, so they stay whole."""
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


class Pair:
    """The two backbones, and the losses of the tasks."""

    def __init__(self, tokenizer: Any, trades: int, words: int) -> None:
        config = T5Config(
            vocab_size=VOCABULARY, feed_forward_proj="relu", dropout_rate=0.0, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
            relative_attention_max_distance=64, **TEXT,
        )  # fmt: skip
        self.t5 = T5ForConditionalGeneration(config)
        self.t5.set_attn_implementation("eager")  # with T5's position bias a third faster than sdpa on a CPU
        self.vit = timm.create_model(ARCHITECTURE, pretrained=False, **VISION)
        self.text_heads = nn.ModuleList([nn.Linear(TEXT["d_model"], size) for size in (5, trades, words)])
        self.photo_head = nn.Linear(VISION["embed_dim"], words)

    def text_loss(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of the target tokens, and the loss of the heads on the encoder's mean state."""
        encoded = self.t5.get_encoder()(input_ids=batch.texts, attention_mask=batch.texts != 0).last_hidden_state
        mask = batch.row_tokens >= 0
        states = encoded.flatten(0, 1).index_select(0, batch.row_tokens.clamp_min(0).flatten()).unflatten(0, mask.shape)
        loss = self.t5(encoder_outputs=BaseModelOutput(states), attention_mask=mask, labels=batch.target).loss
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        stars, trades, words = (head(mean) for head in self.text_heads)
        known = ~batch.words.isnan().any(1)
        heads = F.cross_entropy(stars, batch.stars) + 0.5 * name_loss(trades, batch.trades)
        return loss, heads + 0.2 * name_loss(words[known], batch.words[known])

    def image_loss(self, batch: PhotoBatch, only_cls: bool) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of captions read from the class state, or from all states, and the loss of the head."""
        states = self.vit.forward_features((batch.pixels.float() / 255 - 0.5) / 0.5)
        read = states[:, :1] if only_cls else states
        logits = self.t5(
            encoder_outputs=BaseModelOutput(read),
            decoder_input_ids=self.t5.prepare_decoder_input_ids_from_labels(labels=batch.target),
        ).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), ignore_index=IGNORE)
        return loss, 0.2 * name_loss(self.photo_head(states[:, 0]), batch.words)


def train(pair: Pair, mixture: Mixture, held_out: Mixture, minutes: float, lr: float) -> dict[str, float]:
    """Train for a time and return held-out losses; the learning rate follows the clock (warm-up 3 %, cosine).

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
    """Write both halves in the hub's layout, weights in float16: ``text/`` for transformers, ``vision/`` for timm."""
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
    write_json(vision / "config.json", config)


def main() -> None:
    """Run the command line."""
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
    mixture, held_out = mixtures(reviews, photos, trades=trades, words=words, tokenizer=tokenizer)
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
    write_json(args.out / "pretraining.json", {**facts, **figures})
    print(figures)


if __name__ == "__main__":
    main()
