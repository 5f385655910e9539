"""Pretrain the tiny text models of the compared systems (``mmprofile/assets/tiny/{bart,llama,glm4,bert}``): 1 M parameters each.

    python scripts/pretrain_text.py llama --minutes 45

They share the T5's tokenizer, cities and tasks on text (``scripts/pretraining_tasks.py``); only the architectures differ.
BART learns sources and targets as the T5 does. Causal models read source and target in one piece and learn the target and,
at half the weight, the source. BERT learns 15 % of the source's tokens, which are hidden, and the linear heads.

Dimension letters as in :mod:`mmprofile.model`.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pretraining_tasks import SEEDS, Mixture, TextBatch, frequent_words, mixtures, name_loss, read_cities
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.files import write_json
from mmprofile.inputs.batch import IGNORE
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile.schema import Schema

WIDTH, HEADS = 128, 4
HIDDEN = 0.15  # share of BERT's tokens
WEIGHTS = {"text": 1.0, "source": 0.5, "heads": 1.0}  # of the losses
SAMPLED = 512  # tokens of the source from which a causal model learns in a step
RATES = {"bart": 6e-4, "bert": 6e-4, "llama": 1.5e-3, "glm4": 1.5e-3}
"""Peak learning rates. At 1.5e-3 the loss of BART's heads stays at 9.6: its norms stand behind its layers, as in BERT."""
MASK, FIRST = "<extra_id_0>", "<extra_id_38>"  # BERT's mask and first token


def build(family: str, size: int) -> PreTrainedModel:
    """Return a new model of a family, with a vocabulary of ``size``."""
    ids = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    shape = {"hidden_size": WIDTH, "num_attention_heads": HEADS}
    if family == "bart":
        parts = {
            f"{part}_{key}": value
            for part in ("encoder", "decoder")
            for key, value in (("layers", 2), ("attention_heads", HEADS), ("ffn_dim", 384))
        }
        config = BartConfig(
            **ids, **parts, d_model=WIDTH, dropout=0.0, decoder_start_token_id=1, forced_eos_token_id=None
        )
        return BartForConditionalGeneration(config)
    if family == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                **ids,
                **shape,
                intermediate_size=320,
                num_hidden_layers=4,
                max_position_embeddings=2048,
                tie_word_embeddings=True,
            )
        )
    if family == "glm4":
        return Glm4ForCausalLM(
            Glm4Config(**ids, **shape, intermediate_size=320, num_hidden_layers=4, num_key_value_heads=2, head_dim=32,
                       max_position_embeddings=2048, tie_word_embeddings=True, attention_dropout=0.0)
        )  # fmt: skip
    return BertForMaskedLM(
        BertConfig(**ids, **shape, intermediate_size=384, num_hidden_layers=4, max_position_embeddings=512,
                   hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )  # fmt: skip


class Learner(nn.Module):
    """A model with the linear heads of the tasks, which are not saved."""

    def __init__(self, family: str, tokenizer: Any, trades: int, words: int) -> None:
        super().__init__()
        self.family, self.mask = family, tokenizer.convert_tokens_to_ids(MASK)
        self.first = tokenizer.convert_tokens_to_ids(FIRST)
        self.model = build(family, len(tokenizer))
        self.model.set_attn_implementation("eager")  # the fastest on a CPU with 16 bits
        self.heads = nn.ModuleList([nn.Linear(WIDTH, size) for size in (5, trades, words)])

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """Return mean cross-entropies.

        They are those of the target, ``text``; of a causal model's ``source``; and of the ``heads`` on the mean state of
        what is read.
        """
        mask = batch.row_tokens >= 0
        ids = batch.texts.flatten()[batch.row_tokens.clamp_min(0)].masked_fill(~mask, 0)
        read = getattr(self, f"_{'causal' if self.family in ('llama', 'glm4') else self.family}")
        losses, states = read(batch, ids, mask)
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        stars, trades, words = (head(mean) for head in self.heads)
        known = ~batch.words.isnan().any(1)
        heads = F.cross_entropy(stars, batch.stars) + 0.5 * name_loss(trades, batch.trades)
        return losses | {"heads": heads + 0.2 * name_loss(words[known], batch.words[known])}

    def _bart(self, batch: TextBatch, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses, and the states (R, N, d) of what is read: ids (R, N) and mask (R, N)."""
        encoded = self.model.get_encoder()(input_ids=batch.texts, attention_mask=batch.texts != 0).last_hidden_state
        states = encoded.flatten(0, 1)[batch.row_tokens.clamp_min(0)]
        loss = self.model(encoder_outputs=BaseModelOutput(states), attention_mask=mask, labels=batch.target).loss
        return {"text": loss}, states

    def _causal(self, batch: TextBatch, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See :meth:`_bart`."""
        seen = torch.cat([mask, batch.target != IGNORE], 1)
        read = torch.cat([ids, batch.target.clamp_min(0)], 1)
        position = (seen.cumsum(1) - 1).clamp_min(0)
        states = self.model.get_decoder()(
            input_ids=read, attention_mask=seen.long(), position_ids=position
        ).last_hidden_state
        sources, width = mask.sum(1), batch.target.shape[1]
        # the first token of a target is written behind the last one of its source
        behind = torch.arange(width)[None] + ids.shape[1] - 1
        behind = torch.where(behind < ids.shape[1], sources[:, None] - 1, behind)
        written = states.gather(1, behind[..., None].expand(-1, -1, WIDTH))
        target = F.cross_entropy(self.model.lm_head(written).flatten(0, 1), batch.target.flatten(), ignore_index=IGNORE)
        places = mask[:, 1:].flatten().nonzero().squeeze(1)
        places = places[torch.randperm(len(places))[:SAMPLED]]  # the logits of all would take most of a step
        source = F.cross_entropy(
            self.model.lm_head(states[:, : ids.shape[1] - 1].flatten(0, 1)[places]), ids[:, 1:].flatten()[places]
        )
        return {"text": target, "source": source}, states[:, : ids.shape[1]]

    def _bert(self, batch: TextBatch, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See :meth:`_bart`."""
        hide = (torch.rand(ids.shape) < HIDDEN) & mask
        kind = torch.rand(ids.shape)
        read = ids.masked_fill(hide & (kind < 0.8), self.mask)
        read = torch.where(hide & (kind > 0.9), torch.randint_like(ids, 3, self.model.config.vocab_size), read)
        read[:, 0] = self.first
        states = self.model.bert(input_ids=read, attention_mask=mask.long()).last_hidden_state
        return {"text": F.cross_entropy(self.model.cls(states[hide]), ids[hide])}, states


def train(learner: Learner, mixture: Mixture, held_out: Mixture, minutes: float, lr: float) -> dict[str, float]:
    """Train for a time and return held-out losses; the learning rate follows the clock (warm-up 10 %, cosine)."""
    adam = torch.optim.AdamW(learner.parameters(), weight_decay=0.01, fused=True)
    start, step, mean = time.perf_counter(), 0, dict.fromkeys(WEIGHTS, 0.0)
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, done / 0.1, 0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        with torch.autocast("cpu", torch.bfloat16):  # a step takes two thirds of the time of one in 32 bits
            losses = learner(mixture.text(48))
        adam.zero_grad()
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        adam.step()
        step += 1
        mean = {name: mean[name] + (loss.item() - mean[name]) / min(step, 100) for name, loss in losses.items()}
        if step % 100 == 0:
            figures = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            print(f"{step:>6} steps  {60 * minutes * done:6.0f} s  {figures}", flush=True)
    with torch.no_grad():
        losses = [learner(held_out.text(64)) for _ in range(10)]
    means = {f"{name}_loss": torch.stack([batch[name] for batch in losses]).mean().item() for name in mean}
    return {"steps": step} | means


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=("bart", "llama", "glm4", "bert"))
    parser.add_argument("--out", type=Path, default=None, help="default: mmprofile/assets/tiny/FAMILY")
    parser.add_argument("--cities", type=Path, default=None, help="folder to keep the generated cities in")
    parser.add_argument("--users", type=int, default=1500, help="users of each city")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--lr", type=float, default=None, help="the peak; default: that of the family")
    parser.add_argument("--start", action="store_true", help="go on from the weights in --out")
    args = parser.parse_args()
    out = args.out or Path("mmprofile/assets/tiny") / args.family
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # gradients below 1e-38 make a step on a CPU almost twice as long
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    if args.family == "bert":
        tokenizer.add_special_tokens({"mask_token": MASK, "cls_token": FIRST, "sep_token": "</s>"})
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    trades = schema["Favorite Category"].values
    with tempfile.TemporaryDirectory() as temporary:
        reviews, photos = read_cities(args.cities or Path(temporary), args.users, SEEDS, trades)
    words = frequent_words(photos)
    mixture, held_out = mixtures(reviews, photos, trades=trades, words=words, tokenizer=tokenizer)
    learner = Learner(args.family, tokenizer, len(trades), len(words))
    if args.start:
        learner.model.load_state_dict(type(learner.model).from_pretrained(out).state_dict())
    count = sum(p.numel() for p in learner.model.parameters())
    print(f"{args.family}: {count} parameters, {len(reviews)} reviews of cities {SEEDS}", flush=True)
    lr = RATES[args.family] if args.lr is None else args.lr
    figures = train(learner, mixture, held_out, args.minutes, lr)
    learner.model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {"parameters": count, "minutes": args.minutes, "lr": lr, "seeds": SEEDS, "reviews": len(reviews)}
    write_json(out / "pretraining.json", {**facts, **figures})
    print(figures)


if __name__ == "__main__":
    main()
