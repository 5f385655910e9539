"""Times a joint training step against what people run: ``python benchmarks/train_step.py``.

A step is forward, backward and Adam for 4 users with 3 reviews and 3 photos of 224 px each. The model has random weights and
dropout, and the shape of flan-t5-small with vit_tiny; with `--base` there is also one step of flan-t5-base with vit_base (the
first, *literal* of `multi`, also allocates Adam's moments). Here transformers ties the output weights to the embeddings, on all
sides; flan-t5 has separate output weights: 16 M, base 25 M. Reviews have the lengths of those of the demo city, scaled to 58.7
words on average. Three sides alternate in one process:

- *literal*: every view of every user is a sample of its own, padded to 600 tokens, float32, stock transformers T5 and timm;
- *good*: the code of a careful engineer with Hugging Face today: a batch per view, padded to its longest text, bf16 by autocast as
  in ours, one backward pass for the mean of the views' losses, and T5's faster attention on a CPU (eager);
- *ours*: the step of mmprofile, with the loss over the schema's tokens; `joint` encodes all that a view shows as one text, as in
  the paper; `segments` encodes each review, the captions and the masked profile apart.

Peak memory is the largest resident size of a process that makes three steps of one side. Before the timing, the losses of
the three sides are compared (joint, all tokens, no dropout).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import alternate, machine, parser, ratio, report, spread, table
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from datamodules.prepare import prepare
from datamodules.prepared import open_prepared
from datamodules.profiles import PhotoPixels
from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.views import VIEWS, Masking, User, paradigm_views, sample_reviews
from mmprofile.model.fusion import build_fusion
from mmprofile.model.kernels import ATTENTION, speed_up
from mmprofile.model.model import ProfileModel
from mmprofile.model.vision import VisionEncoder
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile.schema import Profile, Schema
from mmprofile.train.module import joint_loss

USERS, REVIEWS, WORDS, TOKENS = 4, 3, 58.7, 600
GROWTH_REPEATS = 3


@dataclass(frozen=True)
class Size:
    """Shapes of a model: those of T5's configuration, and a timm ViT."""

    text: dict[str, Any]
    vision: str
    vision_args: dict[str, Any] = field(default_factory=dict)


SIZES = {
    "small": Size(
        {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6},
        "vit_tiny_patch16_224",
    ),
    "base": Size(
        {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12},
        "vit_base_patch16_224",
    ),
    "toy": Size(
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
        "vit_tiny_patch16_224",
        {"patch_size": 56, "embed_dim": 24, "depth": 2, "num_heads": 2},
    ),
}


def build(size: Size, dropout: float = 0.1) -> ProfileModel:
    """Return a random model of that size with flan-t5's vocabulary, in training mode."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        dropout_rate=dropout,
        **size.text,
    )
    text = T5ForConditionalGeneration(config)
    text.set_attn_implementation(ATTENTION)
    vision = VisionEncoder(size.vision, pretrained=False, model_args=size.vision_args)
    fusion = build_fusion("xattn", config.d_model, vision.width)
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    settings: Any = {"vocabulary": "full"}
    model = ProfileModel(text=text, tokenizer=tokenizer, vision=vision, fusion=fusion, schema=schema, settings=settings)
    return model.train()


class Town:
    """Users of a small demo city with reviews of the paper's length."""

    def __init__(self, model: ProfileModel) -> None:
        self.model = model
        folder = prepare({"kind": "demo", "users": 60, "seed": 0}, schema=model.schema, progress=False)
        self.prepared = open_prepared(folder)
        captions = self.prepared.captions or {}
        photos = self.prepared.photos
        pairs = zip(photos["photo_id"], photos["sha256"], strict=True)
        self.captions = {photo: captions[sha] for photo, sha in pairs if sha in captions}
        assert model.transform is not None
        self.pixels = PhotoPixels(self.prepared, model.transform, cache_mb=512)
        rows = list(self.prepared.datasets["train"])
        lengths = [len(review["text"].split()) for row in rows for review in row["reviews"]]
        self.stretch = WORDS / float(np.mean(lengths))
        self.rows = [row for row in rows if len({p for r in row["reviews"] for p in r["photo_ids"]}) >= 3]

    def users(self, count: int, reviews: int = REVIEWS, photos: int = REVIEWS) -> list[User]:
        """Return users with so many reviews and photos; other words of the user lengthen the reviews."""
        people = []
        for i in range(count):
            row = self.rows[i % len(self.rows)]
            words = list(chain.from_iterable(review["text"].split() for review in row["reviews"]))
            _, user = sample_reviews(row["user_id"], row["reviews"], self.captions, reviews, 1, seed=i)
            texts, start = [], 0
            for text in user.reviews:
                length = round(self.stretch * len(text.split()))
                texts.append(" ".join((words[start:] + words)[:length]))
                start = (start + length) % len(words)
            ids = list(dict.fromkeys(p for review in row["reviews"] for p in review["photo_ids"]))[:photos]
            profile: Profile = {name: tuple(values) for name, values in row["profile"].items()}
            captions = tuple(self.captions.get(photo) for photo in ids)
            people.append(
                User(f"{row['user_id']}-{i}", tuple(texts), photos=tuple(ids), captions=captions, profile=profile)
            )
        return people

    def collator(self, encoding: str) -> Collator:
        """Return what makes batches as in training, without cutting texts."""
        return Collator(
            tokenizer=self.model.tokenizer,
            grammar=self.model.grammar,
            load_photo=self.pixels,
            masking=Masking(),
            max_tokens=TOKENS,
            seed=0,
            encoding=encoding,
        )


def separate_losses(model: ProfileModel, batches: Sequence[Batch], length: int | None = None) -> Iterator[Tensor]:
    """Yield the loss of each view by a pass through stock T5 and timm, each text and photo as often as it is shown.

    Args:
        model: whose parts are used.
        batches: one per view, of one row per user.
        length: tokens that texts are padded to; None: the longest in the batch.
    """
    for batch in batches:
        mask = batch.row_tokens >= 0
        ids = batch.text_ids.flatten()[batch.row_tokens.clamp_min(0)] * mask
        if length is not None:
            spare = (0, length - ids.shape[1])
            ids, mask = F.pad(ids, spare), F.pad(mask, spare)
        hidden = model.text.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        if batch.row_photo_mask.any():
            assert model.vision is not None
            states = model.vision(batch.photos[batch.row_photos.flatten()])
            visual = states.unflatten(0, batch.row_photos.shape).flatten(1, 2)
            hidden = model.fusion(hidden, mask, visual, batch.row_photo_mask).hidden
        outputs = BaseModelOutput(hidden)
        yield model.text(encoder_outputs=outputs, attention_mask=mask.long(), labels=batch.labels).loss


@dataclass(frozen=True)
class Side:
    """A way of making a step.

    Args:
        losses: what the step goes through, one backward pass each; their mean is the joint loss.
        dtype: of autocast; float32: none.
        vocabulary: of our loss.
        stock: without :mod:`mmprofile.model.kernels`.
        attention: of T5.
    """

    losses: Callable[[], Iterable[Tensor]]
    dtype: torch.dtype = torch.bfloat16
    vocabulary: str = "schema"
    stock: bool = False
    attention: str = ATTENTION


def make_sides(
    town: Town, modality: str, users: int = USERS, reviews: int = REVIEWS, photos: int = REVIEWS
) -> dict[str, Side]:
    """Return all sides, on the same users with the same masks."""
    model, views = town.model, paradigm_views(modality, VIEWS)
    people = town.users(users, reviews, photos)
    apart = [town.collator("joint")(people, views, drawn=[v] * users) for v in range(len(views))]
    joint, segments = (town.collator(encoding)(people, views) for encoding in ("joint", "segments"))
    weights = torch.ones(len(views))
    return {
        "literal": Side(lambda: separate_losses(model, apart, TOKENS), torch.float32, stock=True, attention="sdpa"),
        "good": Side(lambda: [torch.stack(list(separate_losses(model, apart))).mean()], stock=True, attention="eager"),
        "joint": Side(lambda: [joint_loss(model(joint), weights)]),
        "segments": Side(lambda: [joint_loss(model(segments), weights)]),
        "joint, full": Side(lambda: [joint_loss(model(joint), weights)], vocabulary="full"),
    }


class Stepper:
    """Makes the steps of all sides on one model."""

    def __init__(self, model: ProfileModel) -> None:
        self.model = model
        self.device = next(model.parameters()).device.type
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
        self.side: Side | None = None

    def set(self, side: Side) -> None:
        """Prepare the model for a side, unless it is prepared already."""
        if side is self.side:
            return
        self.side = side
        self.model.settings["vocabulary"] = side.vocabulary
        self.model.text.set_attn_implementation(side.attention)
        speed_up(self.model, not side.stock)

    def step(self, side: Side) -> None:
        """Do forward, backward and Adam."""
        self.set(side)
        self.optimizer.zero_grad()
        with autocast(side.dtype, self.device):
            for loss in side.losses():
                loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def loss(self, side: Side, dtype: torch.dtype) -> float:
        """Return the joint loss without dropout."""
        self.set(replace(side, vocabulary="full"))
        self.model.eval()
        with autocast(dtype, self.device):
            value = float(torch.stack(list(side.losses())).mean())
        self.model.train()
        return value


def autocast(dtype: torch.dtype, device: str) -> AbstractContextManager[Any]:
    """Return autocast to ``dtype`` on a type of device; nothing for float32."""
    return torch.autocast(device, dtype) if dtype != torch.float32 else nullcontext()


def check_losses(stepper: Stepper, sides: dict[str, Side]) -> dict[str, float]:
    """Return the relative difference of the joint losses of *literal*, *good* and *joint*, in both dtypes.

    Raises:
        SystemExit: the difference is more than rounding.
    """
    differences = {}
    for name, dtype, allowed in (("fp32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 1e-2)):
        losses = {side: stepper.loss(sides[side], dtype) for side in ("literal", "good", "joint")}
        differences[name] = max(abs(losses[side] / losses["good"] - 1) for side in losses)
        if not differences[name] < allowed:
            raise SystemExit(f"the sides do not compute the same loss in {name}: {losses}")
    return differences


def peak_mb(arguments: argparse.Namespace, modality: str, side: str) -> float:
    """Return the peak memory of a process that makes three steps of one side, in MiB."""
    command = [sys.executable, __file__, "--size", arguments.size, "--only", f"{modality}:{side}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def only(size: str, modality: str, side: str) -> None:
    """Make three steps of one side, and print the peak resident size in MiB."""
    model = build(SIZES[size])
    stepper, chosen = Stepper(model), make_sides(Town(model), modality)[side]
    for _ in range(3):
        stepper.step(chosen)
    # Not getrusage, which includes memory of the parent process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.partition("VmHWM:")[2].split()[0]) / 2**10)


def compare(arguments: argparse.Namespace, figures: dict[str, Any]) -> str:
    """Time all sides in both modalities; fill the figures, return a table."""
    model = build(SIZES[arguments.size])
    stepper, town = Stepper(model), Town(model)
    rows = []
    for modality in ("multi", "both"):
        sides = make_sides(town, modality)
        figures.setdefault("loss_difference", {})[modality] = check_losses(stepper, sides)
        seconds = alternate({name: partial(stepper.step, side) for name, side in sides.items()}, arguments.repeats)
        memory = {name: peak_mb(arguments, modality, name) for name in sides}
        for name in sides:
            against = [ratio(seconds, peer, name) for peer in ("literal", "good")]
            share = memory[name] / memory["good"]
            cells = [f"{value:.2f}" for value in against] + [f"{memory[name]:,.0f}", f"{share:.2f}"]
            rows.append([f"{modality}, {name}", spread(seconds[name]), *cells])
            key = {"joint": modality, "segments": f"{modality}_segments", "joint, full": f"{modality}_full"}.get(name)
            if key:
                values = dict(zip(("vs_literal", "vs_good", "peak_mb_ratio"), [*against, share], strict=True))
                figures[key] = {label: round(value, 3) for label, value in values.items()}
    return table(["paradigm, side", "step, s", "times as fast as literal", "as good", "peak, MB", "of good's"], rows)


def growth(arguments: argparse.Namespace, figures: dict[str, Any]) -> str:
    """Time our step by users, reviews and photos; fill the figures, return a table."""
    model = build(SIZES[arguments.size])
    stepper, town = Stepper(model), Town(model)
    cases = {"users": (2, 4, 8), "reviews": (1, 2, 3, 6), "photos": (0, 1, 3, 6)}
    rows = []
    for number, values in cases.items():
        for encoding in ("joint", "segments"):
            sides = {str(n): make_sides(town, "both", **{number: n})[encoding] for n in values}
            repeats = min(arguments.repeats, GROWTH_REPEATS)
            seconds = alternate({name: partial(stepper.step, side) for name, side in sides.items()}, repeats)
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            figures.setdefault("growth", {})[f"{number}, {encoding}"] = {n: round(m, 3) for n, m in medians.items()}
            rows.append([f"{number}, {encoding}", ", ".join(f"{n}: {m:.2f}" for n, m in medians.items())])
    return table([f"of `both`, ours, medians of {repeats}", "seconds a step"], rows)


def base(figures: dict[str, Any]) -> str:
    """Time one step of each side at the shapes of flan-t5-base and vit_base, without warm-up; return a table."""
    model = build(SIZES["base"])
    stepper, town = Stepper(model), Town(model)
    rows = []
    for modality in ("multi", "both"):
        seconds = {}
        for name, side in make_sides(town, modality).items():
            start = time.perf_counter()
            stepper.step(side)
            seconds[name] = time.perf_counter() - start
        figures.setdefault("base", {})[modality] = {name: round(value, 2) for name, value in seconds.items()}
        rows.append([modality, *(f"{value:.1f}" for value in seconds.values())])
    return table(["base, seconds of one step", *make_sides(town, "multi")], rows)


def main() -> None:
    """Run the command line."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--size", choices=list(SIZES), default="small")
    made.add_argument("--base", action="store_true", help="also one step at the shapes of flan-t5-base and vit_base")
    made.add_argument("--only", default=None, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    torch.set_flush_denormal(True)  # as mmprofile.train does, for every side
    if arguments.only:
        only(arguments.size, *arguments.only.split(":"))
        return
    figures: dict[str, Any] = {}
    parts = [compare(arguments, figures), growth(arguments, figures)]
    if arguments.base:
        parts.append(base(figures))
    text = f"## Training step\n\n`python benchmarks/train_step.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{machine()}, {torch.get_num_threads()} threads; median (least to most) of {arguments.repeats}.\n\n"
    differences = figures["loss_difference"]
    worst = {dtype: max(modality[dtype] for modality in differences.values()) for dtype in ("fp32", "bf16")}
    text += "\n\n".join(parts)
    text += (
        f"\n\nLosses of the sides differ by {worst['fp32']:.0e} of their value in float32, {worst['bf16']:.0e} in bf16."
    )
    report("train_step", text, figures, arguments)


if __name__ == "__main__":
    main()
