"""The models of pretraining and the losses that they learn by; the linear heads on them are not saved.

Dimension letters as in :mod:`mmprofile.model`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from pretraining_cities import CROP, INPUT
from pretraining_tasks import SENTIMENTS, SENTINELS, Mixture, PhotoBatch, TextBatch, name_loss
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.files import write_json
from mmprofile.inputs.batch import IGNORE

WIDTH, HEADS, KEY = 128, 4, 32
PADDED = 128  # the vocabulary of a model is a multiple of it, as T5's is
HIDDEN = 0.15  # share of BERT's tokens
SAMPLED = 512  # tokens of the source from which a causal model learns in a step
MASK, FIRST = "<extra_id_0>", "<extra_id_98>"  # BERT's mask and first token
VISION = {"img_size": 96, "embed_dim": WIDTH, "depth": 4, "num_heads": HEADS, "mlp_ratio": 2.0, "num_classes": 0}
ARCHITECTURE = "vit_tiny_patch16_224"


def build(family: str, tokenizer: Any) -> PreTrainedModel:
    """Return a new text model of a family. It has its family's dropout, which pretraining leaves off, as T5's does."""
    ids = {"vocab_size": -(-len(tokenizer) // PADDED) * PADDED, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    shape = {"hidden_size": WIDTH, "num_attention_heads": HEADS}
    if family == "t5":
        config = T5Config(
            vocab_size=ids["vocab_size"], feed_forward_proj="gated-gelu", tie_word_embeddings=False, dropout_rate=0.1,
            d_model=WIDTH, d_kv=KEY, d_ff=320, num_layers=2, num_decoder_layers=2, num_heads=HEADS,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
        # transformers ties a new T5's output weights to its embeddings, whatever its config says
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * WIDTH**-0.5)
        return model
    if family == "bart":
        parts = {
            f"{part}_{key}": value
            for part in ("encoder", "decoder")
            for key, value in (("layers", 2), ("attention_heads", HEADS), ("ffn_dim", 480))
        }
        config = BartConfig(**ids, **parts, d_model=WIDTH, decoder_start_token_id=1, forced_eos_token_id=None)
        return BartForConditionalGeneration(config)
    if family == "llama":
        return LlamaForCausalLM(
            LlamaConfig(**ids, **shape, intermediate_size=320, num_hidden_layers=4, max_position_embeddings=2048,
                        tie_word_embeddings=False)
        )  # fmt: skip
    if family == "glm4":
        return Glm4ForCausalLM(
            Glm4Config(**ids, **shape, intermediate_size=320, num_hidden_layers=4, num_key_value_heads=2, head_dim=KEY,
                       max_position_embeddings=2048, tie_word_embeddings=False, attention_dropout=0.0)
        )  # fmt: skip
    return BertForMaskedLM(
        BertConfig(**ids, **shape, intermediate_size=512, num_hidden_layers=4, max_position_embeddings=512)
    )


class TextLearner(nn.Module):
    """A text model with the linear heads of the tasks, which are not saved."""

    def __init__(self, family: str, tokenizer: Any, trades: int, words: int, query_factor: float) -> None:
        super().__init__()
        self.family, self.mask, self.query_factor = family, tokenizer.convert_tokens_to_ids(MASK), query_factor
        self.first = tokenizer.convert_tokens_to_ids(FIRST)
        self.words_end = tokenizer.convert_tokens_to_ids(f"<extra_id_{SENTINELS - 1}>")  # words are ids from 3 to here
        self.model = build(family, tokenizer)
        self.model.set_attn_implementation("eager")  # the fastest on a CPU
        self.heads = nn.ModuleList([nn.Linear(WIDTH, size) for size in (len(SENTIMENTS), trades, words)])
        self.eval()  # no dropout

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters with the factors of their rates: T5's queries, its large embeddings, and the rest."""
        queries = [p for name, p in self.named_parameters() if self.family == "t5" and name.endswith(".q.weight")]
        tables = [self.model.get_input_embeddings().weight] if self.family == "t5" else []
        apart = {id(p) for p in (*queries, *tables)}
        rest = [p for p in self.parameters() if id(p) not in apart]
        groups = [(queries, self.query_factor), (tables, 5.0), (rest, 1.0)]
        return [{"params": parameters, "factor": factor} for parameters, factor in groups if parameters]

    def draw(self, mixture: Mixture, size: int) -> TextBatch:
        """Draw a batch."""
        return mixture.text(size)

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """Return mean cross-entropies.

        They are those of the target, ``text``, each row counting the same; of a causal model's ``source``; and of the
        ``heads`` on the mean state of what is read.
        """
        ids, mask = source_of(batch)
        losses, states = self._reader(batch, ids, mask)
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        sentiments, trades, words = (head(mean) for head in self.heads)
        known = ~batch.words.isnan().any(1)
        single = (batch.sentiments != IGNORE).sum().clamp_min(1)
        heads = F.cross_entropy(sentiments, batch.sentiments, ignore_index=IGNORE, reduction="sum") / single
        heads = heads + 0.5 * name_loss(trades, batch.trades)
        return losses | {"heads": heads + 0.2 * name_loss(words[known], batch.words[known])}

    @property
    def _reader(self) -> Callable[[TextBatch, Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]:
        """Return what reads ids (R, N) and mask (R, N): losses, and the states (R, N, d) of what is read."""
        return {"t5": self._seq2seq, "bart": self._seq2seq, "bert": self._bert}.get(self.family, self._causal)

    def _seq2seq(self, batch: TextBatch, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See :attr:`_reader`."""
        encoded = self.model.get_encoder()(input_ids=batch.texts, attention_mask=batch.texts != 0).last_hidden_state
        states = encoded.flatten(0, 1).index_select(0, batch.row_tokens.clamp_min(0).flatten()).unflatten(0, mask.shape)
        logits = self.model(
            encoder_outputs=BaseModelOutput(states),
            attention_mask=mask,
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels=batch.target),
        ).logits
        return {"text": row_loss(logits, batch.target)}, states

    def _causal(self, batch: TextBatch, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See :attr:`_reader`."""
        read, seen = self.read(batch)
        position = (seen.cumsum(1) - 1).clamp_min(0)
        states = self.model.get_decoder()(
            input_ids=read, attention_mask=seen.long(), position_ids=position
        ).last_hidden_state
        sources, width = mask.sum(1), batch.target.shape[1]
        # the first token of a target is written behind the last one of its source
        behind = torch.arange(width, device=ids.device)[None] + ids.shape[1] - 1
        behind = torch.where(behind < ids.shape[1], sources[:, None] - 1, behind)
        written = states.gather(1, behind[..., None].expand(-1, -1, WIDTH))
        target = row_loss(self.model.lm_head(written), batch.target)
        places = mask[:, 1:].flatten().nonzero().squeeze(1)
        drawn = torch.randperm(len(places), device=ids.device)[:SAMPLED]
        places = places[drawn]  # the logits of all would take most of a step
        source = F.cross_entropy(
            self.model.lm_head(states[:, : ids.shape[1] - 1].flatten(0, 1)[places]).float(),
            ids[:, 1:].flatten()[places],
        )
        return {"text": target, "source": source}, states[:, : ids.shape[1]]

    def _bert(self, batch: TextBatch, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See :attr:`_reader`."""
        hide = (torch.rand(ids.shape, device=ids.device) < HIDDEN) & (ids > 2) & (ids < self.words_end)
        hide[:, 0] = False
        kind = torch.rand(ids.shape, device=ids.device)
        read = ids.masked_fill(hide & (kind < 0.8), self.mask)
        read = torch.where(hide & (kind > 0.9), torch.randint_like(ids, 3, self.words_end), read)
        read[:, 0] = self.first
        states = self.model.bert(input_ids=read, attention_mask=mask.long()).last_hidden_state
        return {"text": F.cross_entropy(self.model.cls(states[hide]).float(), ids[hide])}, states

    def read(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Return the ids (R, M) that a model without decoder reads in one piece, and their mask: a causal model's target, too."""
        ids, mask = source_of(batch)
        if self.family == "bert":
            return ids, mask
        return torch.cat([ids, batch.target.clamp_min(0)], 1), torch.cat([mask, batch.target != IGNORE], 1)

    def save(self, out: Path, tokenizer: Any) -> None:
        """Write the model in the hub's layout, weights in float16."""
        self.model.half().save_pretrained(out)
        tokenizer.save_pretrained(out)
        if self.family == "t5":  # transformers writes that the output weights are tied
            config = json.loads((out / "config.json").read_text())
            write_json(out / "config.json", config | {"tie_word_embeddings": False})


def source_of(batch: TextBatch) -> tuple[Tensor, Tensor]:
    """Return the ids (R, N) of what each row reads, and their mask."""
    mask = batch.row_tokens >= 0
    return batch.texts.flatten()[batch.row_tokens.clamp_min(0)].masked_fill(~mask, 0), mask


def row_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over rows of the mean cross-entropy of a row's tokens: short answers count as much as long ones.

    Args:
        logits: (R, L, vocabulary).
        target: (R, L) ids.
    """
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none")
    return (loss.view_as(target).sum(1) / (target != IGNORE).sum(1)).mean()


class PhotoLearner(nn.Module):
    """A Vision Transformer with linear heads, which are not saved, on its class state and on the mean of its patches."""

    def __init__(self, trades: int, words: int) -> None:
        super().__init__()
        self.model = timm.create_model(ARCHITECTURE, pretrained=False, **VISION)
        self.heads = nn.ModuleList([nn.Linear(WIDTH, words + trades) for _ in range(2)])

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters: one group."""
        return [{"params": list(self.parameters()), "factor": 1.0}]

    def draw(self, mixture: Mixture, size: int) -> PhotoBatch:
        """Draw a batch."""
        return mixture.images(size, augment=self.training)

    def forward(self, batch: PhotoBatch) -> dict[str, Tensor]:
        """Return the cross-entropy of words and trades, the mean of the two heads'."""
        states = self.model.forward_features((batch.pixels.float() / 255 - 0.5) / 0.5)
        share = torch.cat([batch.words, batch.trades], 1)
        read = (states[:, 0], states[:, 1:].mean(1))
        losses = [name_loss(head(state).float(), share) for head, state in zip(self.heads, read, strict=True)]
        return {"photo": torch.stack(losses).mean()}

    def save(self, out: Path, tokenizer: Any) -> None:
        """Write the model in timm's layout, weights in float16."""
        out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.model.state_dict().items()}, out / "model.safetensors")
        config = {
            "architecture": ARCHITECTURE,
            "num_classes": 0,
            "num_features": WIDTH,
            "model_args": VISION,
            "pretrained_cfg": {
                **INPUT,
                **CROP,
                "num_classes": 0,
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
        }
        write_json(out / "config.json", config)
