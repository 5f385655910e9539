"""Pretrain the tiny models that the package carries (``mmprofile/assets/tiny``), from nothing, one family at a time.

    python scripts/pretrain_tiny.py tokenizer --cities cities
    OMP_NUM_THREADS=1 python scripts/pretrain_tiny.py t5 --cities cities --compile
    python scripts/pretrain_tiny.py t5 --cities cities --device cuda

``tokenizer`` makes the tokenizer of all text models. ``t5``, ``bart``, ``llama``, ``glm4`` and ``bert`` are text models of 1.3 to
1.7 million parameters. They read the same batches of the same tasks in the same number of steps.
``vit`` is the vision model. It learns the words of captions and the trades of photos, as published ones learn classes.

T5 and BART learn targets from sources. Causal models read source and target in one piece and learn the target and, at half
the weight, the source; in half of the rows what is asked stands behind the texts, since they cannot look back. BERT learns
15 % of the source's tokens, which are hidden. Linear heads, which are not saved, learn sentiments, trades and the words of
captions from the mean state of what is read: they learn sooner than a decoder learns where to look.

T5 does not divide its attention scores by sqrt(d_kv). Its authors kept queries small by Adafactor's relative steps. Under Adam
their rate is multiplied by d_kv^-0.5, which is the same as scaled scores. With one rate for all weights, the scores grow
until each query reads a single token. A model whose scores spread by more than ``--spread`` (standard deviation
over what a query can read) is not saved.

Dimension letters as in :mod:`mmprofile.model`.
"""

import argparse
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pretraining_cities import HELD_OUT, SEEDS, frequent_words, read_cities
from pretraining_models import FIRST, KEY, MASK, PhotoLearner, TextLearner
from pretraining_tasks import SENTINELS, Mixture, PhotoBatch, TextBatch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.files import write_json
from mmprofile.inputs.batch import IGNORE
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile.schema import Schema

PIECES = 3072  # of the tokenizer, beside bytes, sentinels and special tokens
WEIGHTS = {"text": 1.0, "source": 0.5, "heads": 1.0, "photo": 1.0}  # of the losses
RATES = {"t5": 1e-3, "bart": 6e-4, "bert": 4e-4, "llama": 1.5e-3, "glm4": 1.5e-3, "vit": 1.5e-3}
"""Peak learning rates. At 1.5e-3 the loss of BART's heads stays high: its norms stand behind its layers, as in BERT."""
CAUSAL = ("llama", "glm4")


def train_tokenizer(texts: list[str], schema: Schema) -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer with bytes for unknown characters, T5's special tokens, and its sentinels at the end.

    The schema's words are frequent, so they stay whole. The trainer makes pieces only of what different words share. In so
    small a language most words would be cut up. So each frequent word gets invented relatives in -ing and -ly, and stays
    whole. The trainer's order of pieces and the last digits of their scores differ from run to run: they are sorted and rounded.
    """
    words = [f"{a.name}: {v}; {v}, {v}" for a in schema.attributes for v in a.values]
    words += ["Unknown review: photo: profile: attributes:", " ".join(str(number) for number in range(10))]
    texts = texts + words * 200
    forms = Counter(chain(*(re.findall("[A-Za-z]+", text) for text in texts)))
    relatives = [form + ending for form, count in forms.items() if count > 4 for ending in ("ing", "ly")]
    space = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([space, pre_tokenizers.Punctuation()])
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=PIECES + len(special), special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts + relatives, trainer)
    trained = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = sorted((piece, round(score, 2)) for piece, score in trained if piece not in special)
    lowest = min(score for _, score in pieces)
    known = {piece for piece, _ in pieces}
    signs = [chr(i) for i in range(33, 127) if chr(i) not in known]  # ASCII that these texts lack
    bytes_of = [(f"<0x{byte:02X}>", lowest - 10) for byte in range(256)]
    vocabulary = [(piece, 0.0) for piece in special] + bytes_of + pieces + [(sign, lowest - 5) for sign in signs]
    tokenizer.model = models.Unigram(vocabulary, unk_id=2, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[f"<extra_id_{i}>" for i in reversed(range(SENTINELS))],
        model_max_length=4096,
    )


class Draws(IterableDataset[TextBatch | PhotoBatch]):
    """Batches of a mixture without end."""

    def __init__(self, learner: TextLearner | PhotoLearner, mixture: Mixture, size: int) -> None:
        self.learner, self.mixture, self.size = learner, mixture, size

    def __iter__(self) -> Iterator[TextBatch | PhotoBatch]:
        while True:
            yield self.learner.draw(self.mixture, self.size)


def train(
    learner: TextLearner | PhotoLearner,
    batches: Iterator[TextBatch | PhotoBatch],
    steps: int,
    lr: float,
    compiled: bool,
) -> None:
    """Train for some steps; warm-up 3 % (BART and BERT need 10 %), then cosine."""
    device = next(learner.parameters()).device
    loss_of = torch.compile(learner, dynamic=True) if compiled else learner
    adam = torch.optim.AdamW(learner.groups(), weight_decay=0.01, fused=True)
    warm = 0.1 if isinstance(learner, TextLearner) and learner.family in ("bart", "bert") else 0.03
    start, mean = time.perf_counter(), dict[str, Any].fromkeys(WEIGHTS, 0.0)
    for step in range(steps):
        done = step / steps
        for group in adam.param_groups:
            rate = min(1.0, (step + 1) / (warm * steps), 0.5 * (1 + math.cos(math.pi * done)) + 0.01)
            group["lr"] = lr * rate * group["factor"]
        batch = next(batches)
        with torch.autocast(device.type, torch.bfloat16):
            losses = loss_of(type(batch)(*(part.to(device) for part in batch)))
        adam.zero_grad()
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        adam.step()
        mean = {name: mean[name] + (loss.detach() - mean[name]) / min(step + 1, 100) for name, loss in losses.items()}
        if (step + 1) % 100 == 0 or step + 1 == steps:
            figures = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            print(f"{step + 1:>6} steps  {time.perf_counter() - start:6.0f} s  {figures}", flush=True)


@torch.no_grad()
def held_out_losses(learner: TextLearner | PhotoLearner, mixture: Mixture) -> dict[str, float]:
    """Return the mean losses of ten batches."""
    learner.eval()
    losses = [learner(learner.draw(mixture, 64)) for _ in range(10)]
    return {f"{name}_loss": torch.stack([batch[name] for batch in losses]).mean().item() for name in losses[0]}


@torch.no_grad()
def attention_spreads(learner: TextLearner, mixture: Mixture) -> dict[str, list[float]]:
    """Return the standard deviation of attention scores over what a query can read, its mean over queries, by layer.

    A score is the logarithm of a weight, but for a constant of the query. Weights below 1e-45 count as 1e-45.
    """
    batch, model = mixture.text(48), learner.model
    if learner.family in ("t5", "bart"):
        mask, read, written = batch.texts != 0, batch.row_tokens >= 0, batch.target != IGNORE
        encoder = model.get_encoder()(input_ids=batch.texts, attention_mask=mask, output_attentions=True)
        states = encoder.last_hidden_state.flatten(0, 1)[batch.row_tokens.clamp_min(0)]
        decoder = model(
            encoder_outputs=BaseModelOutput(states),
            attention_mask=read,
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels=batch.target),
            output_attentions=True,
            use_cache=False,
        )
        kinds = {
            "encoder": (encoder.attentions, mask, mask[:, None]),
            "decoder": (decoder.decoder_attentions, written, _backwards(written)),
            "cross": (decoder.cross_attentions, written, read[:, None]),
        }
    else:
        ids, mask = learner.read(batch)
        places = (mask.cumsum(1) - 1).clamp_min(0)
        part = model.bert if learner.family == "bert" else model.get_decoder()
        attentions = part(ids, attention_mask=mask.long(), position_ids=places, output_attentions=True).attentions
        kinds = {"self": (attentions, mask, mask[:, None] if learner.family == "bert" else _backwards(mask))}
    return {
        kind: [_spread(layer, queries, keys) for layer in layers] for kind, (layers, queries, keys) in kinds.items()
    }


def _backwards(mask: Tensor) -> Tensor:
    """Return (B, Q, Q) which keys a query can read that reads no later ones, of the mask (B, Q)."""
    return mask[:, None] & torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool).tril()


def _spread(weights: Tensor, queries: Tensor, keys: Tensor) -> float:
    """Return the mean standard deviation, over keys, of the logarithms of attention weights.

    Args:
        weights: (B, H, Q, K).
        queries: bool (B, Q), those that count, if they can read more than one key.
        keys: bool (B, 1 or Q, K), those that can be read.
    """
    readable = keys[:, None].expand_as(weights)
    scores = weights.double().clamp_min(1e-45).log()
    count = readable.sum(-1).clamp_min(1)
    mean = (scores * readable).sum(-1) / count
    std = (((scores - mean[..., None]) ** 2 * readable).sum(-1) / count).sqrt()
    return std[queries[:, None] & (count > 1)].mean().item()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=["tokenizer", *RATES])
    parser.add_argument("--out", type=Path, default=None, help="default: its folder in mmprofile/assets/tiny")
    parser.add_argument("--cities", type=Path, default=None, help="folder to keep the generated cities in")
    parser.add_argument("--users", type=int, default=1500, help="users of each city")
    parser.add_argument("--tokenizer", type=Path, default=ASSETS / "tiny" / "text", help="folder of the text models'")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=48, help="reviews, or photos, of a step")
    parser.add_argument("--lr", type=float, default=None, help="the peak; default: that of the family")
    parser.add_argument("--compile", action="store_true", help="by torch.compile: a step takes 0.6 of the time")
    parser.add_argument("--device", default="cpu", help="cuda: the batches are drawn in a process of their own")
    parser.add_argument("--query-factor", type=float, default=KEY**-0.5, help="of the rate of T5's queries")
    parser.add_argument("--spread", type=float, default=10.0, help="the largest spread of attention scores to save")
    args = parser.parse_args()
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")
    if args.family not in ("tokenizer", "vit") and not (args.tokenizer / "tokenizer.json").is_file():
        parser.error(f"--tokenizer {args.tokenizer}: there is no tokenizer.json (`{parser.prog} tokenizer` makes it)")
    folder = {"tokenizer": "text", "t5": "text", "vit": "vision"}.get(args.family, args.family)
    out = args.out or Path("mmprofile/assets/tiny") / folder
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # gradients below 1e-38 make a step on a CPU almost twice as long
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    trades = schema["Favorite Category"].values
    pixels = args.family == "vit"
    with tempfile.TemporaryDirectory() as temporary:
        cities = args.cities or Path(temporary)
        learned = read_cities(cities, args.users, SEEDS, trades, pixels)
        held_out = read_cities(cities, min(args.users, 300), (HELD_OUT,), trades, pixels)
    print(f"{len(learned.reviews)} reviews, {len(learned.photos)} photos of cities {SEEDS}", flush=True)
    if args.family == "tokenizer":
        texts = [review.text for review in learned.reviews[::30]] + [photo.caption for photo in learned.photos[::2]]
        train_tokenizer(texts, schema).save_pretrained(out)
        return
    words = frequent_words(learned.photos)
    learner, tokenizer = new_learner(args, len(trades), len(words))
    behind = args.family in CAUSAL
    mixtures = [
        Mixture(city, trades, words, tokenizer, seed, behind) for seed, city in enumerate((learned, held_out), 1)
    ]
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "steps": args.steps,
        "batch": args.batch,
        "lr": RATES[args.family] if args.lr is None else args.lr,
        "seeds": SEEDS,
        "reviews": len(learned.reviews),
        "photos": len(learned.photos),
    }
    print(f"{args.family}: {facts['parameters']} parameters", flush=True)
    apart: dict[str, Any] = {"generator": torch.Generator()}  # the learner's random numbers are its own
    if args.device != "cpu":
        apart |= {"num_workers": 1, "prefetch_factor": 8, "multiprocessing_context": "fork"}
    batches = iter(DataLoader(Draws(learner, mixtures[0], args.batch), batch_size=None, **apart))
    train(learner.to(args.device), batches, args.steps, facts["lr"], args.compile)
    learner.cpu()
    facts |= held_out_losses(learner, mixtures[1])
    if isinstance(learner, TextLearner):
        facts["attention_spread"] = spreads = attention_spreads(learner, mixtures[1])
        if not (worst := max(chain(*spreads.values()))) <= args.spread:
            learner.save(refused := out.with_name(f"{out.name}-refused"), tokenizer)
            raise SystemExit(
                f"attention scores spread by {worst:.1f}, more than {args.spread}: kept in {refused} ({spreads})"
            )
    learner.save(out, tokenizer)
    write_json(out / "pretraining.json", facts)
    print(facts)


def new_learner(args: argparse.Namespace, trades: int, words: int) -> tuple[TextLearner | PhotoLearner, Any]:
    """Return a new model with its heads, and the tokenizer of a text model."""
    if args.family == "vit":
        return PhotoLearner(trades, words), None
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    if args.family == "bert":
        tokenizer.add_special_tokens({"mask_token": MASK, "cls_token": FIRST, "sep_token": "</s>"})
    return TextLearner(args.family, tokenizer, trades, words, args.query_factor), tokenizer


if __name__ == "__main__":
    main()
