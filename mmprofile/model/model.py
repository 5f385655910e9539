"""The model: what :mod:`mmprofile.model.encoder` has read of each row -> the loss of its profile, or the profile itself.

Dimension letters as in :mod:`mmprofile.inputs.batch` and :mod:`mmprofile.model.fusion`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.errors import UserError
from mmprofile.inputs.batch import IGNORE, Batch, Collator
from mmprofile.inputs.views import Masking
from mmprofile.model.backbones import build_prompt
from mmprofile.model.decoding import WIDTH, Decoded, Search, merged
from mmprofile.model.encoder import UserEncoder, alike
from mmprofile.model.fusion import Fused, Fusion, compact, row_gates
from mmprofile.model.heads import AttributeHead, Auxiliary, Votes
from mmprofile.model.kernels import speed_up
from mmprofile.model.trees import decoder_states
from mmprofile.model.vision import LlavaVision, VisionEncoder
from mmprofile.profile.grammar import Grammar
from mmprofile.profile.schema import Profile, Schema

FORMAT = 1
VOCABULARIES = ("schema", "full")
LEAST_ROOM = 32  # tokens of texts
LIKE_ROWS = 0.7
"""Rows of at least this share of the longest among them are padded to it and decoded together."""


class Output(NamedTuple):
    """What :meth:`ProfileModel.forward` returns.

    Attributes:
        view_totals: (views,) cross-entropy summed over the target tokens of each view's rows.
        view_tokens: (views,) the number of those tokens, 0 where a view has no row. With a head of classifiers: of the
            attributes whose value is known. Where they have weights (see :class:`mmprofile.inputs.batch.Batch`), both are weighted
            sums.
        logits: (R, L, vocabulary); None where the loss is over the schema's tokens, which needs no more than a few of them,
            and with a head.
        view_auxiliary: (views,) mean loss of the auxiliary classifiers over attributes and rows of each view, times their
            weight; None without any.
        view_gates: (views, 4) means over each view's rows with photos, the fields of :class:`mmprofile.model.fusion.Gates`, NaN
            where it has none; None where nobody asked, or without a gate or photos.
    """

    view_totals: Tensor
    view_tokens: Tensor
    logits: Tensor | None
    view_auxiliary: Tensor | None = None
    view_gates: Tensor | None = None

    @property
    def view_losses(self) -> Tensor:
        """(views,) mean cross-entropy of a target token in each view, as transformers computes it; 0 without rows."""
        return self.view_totals / self.view_tokens.clamp_min(1)


class ProfileModel(UserEncoder):
    """Text model + vision encoder + fusion.

    A causal model has no encoder: what it reads are the embeddings of its prompt, photos among them, and the profile is
    written behind it. With an ``early`` fusion an encoder, too, reads embeddings with photos among them, row by row.

    Args:
        text: an encoder-decoder or a causal language model of transformers.
        tokenizer: its tokenizer.
        vision: photo encoder; None for a model that never sees photos.
        fusion: from :func:`mmprofile.model.fusion.build_fusion`.
        schema: the profile it writes.
        settings: plain data needed to use the model again: text, fusion, vision, vocabulary, target, head, and how inputs
            are made.
        head: classifiers of the attributes in the place of the text model's decoder, which is not there then.
        auxiliary: classifiers of the attributes from the mean of what the decoder reads. They tell encoder and fusion what
            to look for sooner than the decoder does, and predictions are mixed of theirs and the decoder's.

    ``settings["vocabulary"]`` is what a target token competes with, in the loss and in the scores of beams: ``full``, all
    tokens, as in the paper; ``schema``, the tokens that the schema's grammar allows at that place. The format of a
    profile then needs no learning, and what is generated is the likeliest profile by the probabilities trained.
    """

    def __init__(
        self,
        text: Any,
        tokenizer: Any,
        vision: VisionEncoder | LlavaVision | None,
        fusion: Fusion,
        schema: Schema,
        settings: Mapping[str, Any],
        head: AttributeHead | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        super().__init__(text, vision, fusion)
        self.head, self.auxiliary = head, auxiliary
        self.tokenizer: Any = tokenizer
        self.schema, self.settings = schema, dict(settings)
        self.adapter: list[Any] = []  # what peft has around the text model; in a list: not a part of this module
        self.grammar = Grammar(schema, tokenizer)
        words = [settings["text"][key] for key in ("instruction", "answer")] if self.causal else []
        self.prompt = build_prompt(tokenizer, *words) if self.causal else None
        self.start = int(self.prompt.start if self.prompt else text.config.decoder_start_token_id)
        speed_up(self)

    @property
    def transform(self) -> Callable[[Image.Image], np.ndarray] | None:
        """RGB image -> uint8 (3, H, W) as the vision model wants it; None without one."""
        return self.vision.transform if self.vision is not None else None

    def collator(
        self,
        inputs: Mapping[str, Any],
        load_photo: Callable[[str], np.ndarray] | None,
        masking: Masking,
        seed: int,
    ) -> Collator:
        """What makes batches for this model; see :class:`mmprofile.inputs.batch.Collator`.

        Raises:
            UserError: the photos leave no room for texts.
        """
        return Collator(
            tokenizer=self.tokenizer,
            grammar=self.grammar,
            load_photo=load_photo,
            masking=masking,
            max_tokens=inputs["max_tokens"],
            seed=seed,
            encoding=inputs["encoding"],
            target=self.settings["target"],
            prompt=self.prompt,
            room=self._room(inputs),
            parser=self.fusion.parser,
        )

    def _room(self, inputs: Mapping[str, Any]) -> int | None:
        """Tokens of texts that a model of limited length can read beside photos, prompt and answer; None: any number."""
        config = self.text.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None)
        if longest is None or not (self.causal or self.fusion.early):
            return None
        photos = inputs["reviews"] * inputs["photos_per_review"] * (self.vision.count if self.vision is not None else 0)
        prompt = len(self.prompt.before) + len(self.prompt.after) + 1 if self.prompt is not None else 0
        room = int(longest) - photos - prompt - (self.grammar.max_tokens if self.causal else 0)
        if room < LEAST_ROOM:
            raise UserError(
                f"the text model reads {longest} tokens, of which the photos of a user take up to {photos} and "
                f"prompt and answer {int(longest) - photos - room}: pool the photos (model.vision.tokens=grid "
                f"model.vision.grid=...) or show fewer"
            )
        return room

    def new_parts(self) -> list[nn.Parameter]:
        """Parameters that no checkpoint brought: the fusion's and the classifiers'."""
        parts = [part for part in (self.fusion, self.head, self.auxiliary) if part is not None]
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def pretrained_parts(self) -> list[nn.Parameter]:
        """Trainable parameters that came with weights: the text model's and, unless frozen, the vision model's."""
        new = {id(p) for p in self.new_parts()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in new]

    def _votes(self, batch: Batch) -> Votes:
        """What the head says of each row."""
        assert self.head is not None
        rows = torch.arange(len(batch.row_view), device=batch.row_view.device)
        read = self._read(batch)
        hidden, mask = self._texts(batch, read, rows)
        width = self.vision.width if self.vision is not None else 0
        nothing = torch.zeros(len(rows), 0, width, device=rows.device), mask[:, :0]
        return self.head(hidden, mask, *(nothing if read.photos is None else self._photos(batch, read.photos, rows)))

    def forward(self, batch: Batch, gates: bool = False) -> Output:
        """The loss of each view and, if asked, its ``gates``. ``batch.labels`` must be there; :meth:`encode` gives all inside."""
        assert batch.labels is not None, "forward needs targets; use generate to predict"
        if self.head is not None:
            loss, known = self.head.losses(self._votes(batch), self._gold(batch, self.head))
            return Output(*self._by_view(batch, loss, known, self._attribute_weights(batch)), None)
        texts, inputs = self._embed(batch.text_ids, self._shifted(batch.labels))
        read = self._read(batch, texts)
        parts, order, votes, seen = [], [], [], []
        for rows, _ in alike((batch.row_tokens >= 0).sum(1), LIKE_ROWS):
            fused = self._fuse(batch, read, rows)
            parts.append(self._decoded(fused, inputs[rows]))
            order.append(rows)
            if gates and fused.gate is not None:
                seen.append(self._gate_sums(batch, rows, fused))
            if self.auxiliary is not None:
                votes.append(self.auxiliary.votes(fused.hidden, fused.mask))
        again = torch.cat(order).argsort()
        states = torch.cat(parts)[again]
        logits = None
        if self.settings["vocabulary"] == "schema":
            loss = self._schema_loss(batch, states)
        else:
            logits = self.token_logits(states)
            flat = F.cross_entropy(
                logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE, reduction="none"
            )
            loss = flat.view_as(batch.labels)
        found = self._by_view(batch, loss, batch.labels != IGNORE, batch.label_weights)
        sums = torch.stack(seen).sum(0) if seen else None
        view_gates = None if sums is None else sums[:, :-1] / sums[:, -1:]
        if self.auxiliary is None:
            return Output(*found, logits, None, view_gates)
        said = Votes(*(torch.cat(part)[again] for part in zip(*votes, strict=True)))
        losses = self.auxiliary.losses(said, self._gold(batch, self.auxiliary))
        total, count = self._by_view(batch, *losses, self._attribute_weights(batch))
        return Output(*found, logits, self.auxiliary.weight * total / count.clamp_min(1), view_gates)

    @staticmethod
    def _gate_sums(batch: Batch, rows: Tensor, fused: Fused) -> Tensor:
        """(views, 5) what some rows let in, summed over those of each view, and how many of them have photos."""
        there = batch.row_photo_mask[rows]
        values = torch.cat([row_gates(fused, there), there.any(1, keepdim=True)], 1)
        return values.new_zeros(len(batch.views), values.shape[1]).index_add(0, batch.row_view[rows], values)

    @staticmethod
    def _by_view(batch: Batch, loss: Tensor, counted: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Losses (R, L), which of them count (R, L) and how much (R, L) -> their sums and numbers in each view."""
        if weights is not None:
            loss, counted = loss * weights, counted * weights
        zeros = loss.new_zeros(len(batch.views))
        total = zeros.index_add(0, batch.row_view, loss.sum(1))
        return total, zeros.index_add(0, batch.row_view, counted.sum(1).to(loss.dtype))

    @staticmethod
    def _attribute_weights(batch: Batch) -> Tensor | None:
        """(R, A) what each attribute of a row weighs."""
        return None if batch.weights is None else batch.weights[batch.row_user]

    @staticmethod
    def _gold(batch: Batch, head: AttributeHead) -> Tensor:
        """A head's targets, a row each."""
        assert batch.profiles is not None
        return head.targets(batch.profiles, batch.row_user.device)[batch.row_user]

    @torch.no_grad()
    def fit_dev(self, batches: Iterable[Batch]) -> None:
        """Fits what is not trained by gradients, how opinions are mixed, to the dev split in the view that prediction uses."""
        self.eval()
        if self.auxiliary is not None:
            pairs = [(*self._opinions(batch, None, WIDTH, False), batch.profiles or []) for batch in batches]
            self.auxiliary.fit_share(*(list(chain(*some)) for some in zip(*pairs, strict=True)))
        if self.head is None:
            return
        found = [(self._votes(batch), self._gold(batch, self.head)) for batch in batches]
        votes = Votes(*(torch.cat(parts) for parts in zip(*(some for some, _ in found), strict=True)))
        self.head.fit_mix(votes, torch.cat([gold for _, gold in found]))

    def _shifted(self, labels: Tensor) -> Tensor:
        """(R, L) what is read when each label is to be written: the start token, then the labels before it."""
        start = labels.new_full((len(labels), 1), self.start)
        return torch.cat(
            [start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, self.tokenizer.pad_token_id or 0)], 1
        )

    def _decoded(self, fused: Fused, inputs: Tensor) -> Tensor:
        """(R, L, d) states behind the inputs (R, L, d), which a causal model reads right behind its prompt."""
        decoder = self.text.get_decoder()
        if not self.causal:
            return decoder(
                inputs_embeds=inputs,
                encoder_hidden_states=_as_autocast(fused.hidden),
                encoder_attention_mask=fused.mask,
                use_cache=False,
            ).last_hidden_state
        mask = torch.cat([fused.mask, fused.mask.new_ones(inputs.shape[:2])], 1)
        states = decoder(
            inputs_embeds=torch.cat([fused.hidden, inputs], 1),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            use_cache=False,
        ).last_hidden_state
        return states[:, -inputs.shape[1] :]

    def _embed(self, texts: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the texts (T, S, d) and of the decoder's inputs (R, L, d).

        In one look-up where encoder and decoder share the table: each has a gradient as large as the whole table.
        """
        encoder, decoder = self._embeddings(), self.text.get_decoder().get_input_embeddings()
        if encoder.weight is not decoder.weight:
            return encoder(texts), decoder(inputs)
        both = encoder(torch.cat([texts.flatten(), inputs.flatten()]))
        return both[: texts.numel()].unflatten(0, texts.shape), both[texts.numel() :].unflatten(0, inputs.shape)

    def _schema_loss(self, batch: Batch, states: Tensor) -> Tensor:
        """(R, L) loss over the tokens that the grammar allows: 0 where there is no choice, so only choices get logits."""
        assert batch.labels is not None
        assert batch.legal is not None
        row, place, token = batch.legal
        labels = batch.labels.flatten()
        position = row * batch.labels.shape[1] + place
        count = position.bincount(minlength=len(labels))
        choices = (count > 1).nonzero().squeeze(1)
        several = count[position] > 1
        rivals, number = token[several].unique(return_inverse=True)
        logits = self.token_logits(states.flatten(0, 1)[choices], rivals).float()
        illegal = torch.ones_like(logits, dtype=torch.bool)
        illegal[torch.searchsorted(choices, position[several]), number] = False
        target = torch.searchsorted(rivals, labels[choices])
        loss = F.cross_entropy(logits.masked_fill(illegal, -torch.inf), target, reduction="none")
        return loss.new_zeros(len(labels)).index_copy(0, choices, loss).view_as(batch.labels)

    def token_logits(self, states: Tensor, ids: Tensor | None = None) -> Tensor:
        """Decoder states (..., d) -> logits of the tokens ``ids`` (k,), or of all."""
        if getattr(self.text.config, "scale_decoder_outputs", False):
            states = states * states.shape[-1] ** -0.5
        head, bias = self.text.get_output_embeddings(), getattr(self.text, "final_logits_bias", None)
        logits = head(states) if ids is None else F.linear(states, head.weight[ids])
        if bias is not None:  # BART's
            logits = logits + (bias if ids is None else bias[..., ids])
        return logits

    @torch.no_grad()
    def decode(
        self,
        batch: Batch,
        known: Sequence[Profile] | None = None,
        width: int = WIDTH,
        exact: bool = False,
    ) -> list[Decoded]:
        """The likeliest profile of each user and the posterior of each attribute.

        Args:
            batch: users to predict, in one view.
            known: per user, attributes whose values are given; the rest is completed.
            width, exact: partial profiles to keep at a time, and whether to go on until no other profile can be likelier;
                see :class:`mmprofile.model.decoding.Search`.

        Raises:
            UserError: ``known`` has an attribute or value that the schema has not.
        """
        if self.head is not None:
            return self._classified(self.head, self._votes(batch), known)
        if self.auxiliary is not None:
            return self.auxiliary.join(*self._opinions(batch, known, width, exact))
        return self._written(batch, self.encode(batch), known, width, exact)

    def _opinions(
        self, batch: Batch, known: Sequence[Profile] | None, width: int, exact: bool
    ) -> tuple[list[Decoded], list[Decoded]]:
        """What the decoder finds, and what the auxiliary classifiers find."""
        assert self.auxiliary is not None
        fused = self.encode(batch)
        votes = self.auxiliary.votes(fused.hidden, fused.mask)
        return self._written(batch, fused, known, width, exact), self._classified(self.auxiliary, votes, known)

    def _classified(self, head: AttributeHead, votes: Votes, known: Sequence[Profile] | None) -> list[Decoded]:
        """What classifiers find."""
        given = known or [{}] * len(votes.logits)
        return head.decode(votes, [Grammar(self.schema, self.tokenizer, one).known if one else {} for one in given])

    def _written(
        self, batch: Batch, fused: Fused, known: Sequence[Profile] | None, width: int, exact: bool
    ) -> list[Decoded]:
        """What the decoder finds."""
        found = []
        for grammar, rows in self._parts(batch):
            states = decoder_states(self.text, fused.hidden[rows], fused.mask[rows])
            how = self.start, self.token_logits, self.settings["vocabulary"], width
            possible = [grammar] * len(rows)
            if known is not None:
                given = [{n: v for n, v in one.items() if n in grammar.schema.names} for one in known]
                possible = [Grammar(grammar.schema, self.tokenizer, one) if one else grammar for one in given]
            found.append(Search(grammar, *how, exact=exact)(states, possible))
        return [merged(self.schema, some) for some in zip(*found, strict=True)]

    def _parts(self, batch: Batch) -> list[tuple[Grammar, Tensor]]:
        """What writes the rows, and which rows it writes, one for each user."""
        if self.settings["target"] != "attributes":
            return [(self.grammar, torch.arange(len(batch.row_user), device=batch.row_user.device))]
        return [(part, (batch.row_attribute == a).nonzero().squeeze(1)) for a, part in enumerate(self.grammar.parts)]

    @torch.no_grad()
    def generate(self, batch: Batch, beams: int | None = None) -> list[str]:
        """One profile text per user: the likeliest; or, with ``beams``, by transformers' beam search over the schema.

        A head finds the likeliest without search. Beams are the decoder's alone, without auxiliary classifiers.
        """
        if beams is None or self.head is not None:
            return [found.text for found in self.decode(batch)]
        fused = self.encode(batch)
        parts = [self._beams(fused.hidden[rows], fused.mask[rows], part, beams) for part, rows in self._parts(batch)]
        return ["; ".join(some) for some in zip(*parts, strict=True)]

    def _beams(self, hidden: Tensor, mask: Tensor, grammar: Grammar, beams: int) -> list[str]:
        """transformers' beam search; a causal model's prompts are padded on the left for it."""
        if self.causal:
            start = self._embeddings()(torch.full_like(mask[:, :1], self.start, dtype=torch.long))
            hidden, mask = compact(torch.cat([hidden, start], 1), torch.cat([mask, mask.new_ones(len(mask), 1)], 1))
            shift = (torch.arange(mask.shape[1], device=mask.device) - (~mask).sum(1, keepdim=True)) % mask.shape[1]
            hidden, mask = hidden.gather(1, shift[..., None].expand_as(hidden)), mask.gather(1, shift)
            read: dict[str, Any] = {"inputs_embeds": hidden}
        else:
            read = {"encoder_outputs": BaseModelOutput(hidden.float())}
        ids = self.text.generate(
            **read,
            attention_mask=mask.long(),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=grammar.max_tokens,
            prefix_allowed_tokens_fn=grammar.constraint(0 if self.causal else 1),
            renormalize_logits=self.settings["vocabulary"] == "schema",
            pad_token_id=self.tokenizer.pad_token_id or grammar.eos,
            eos_token_id=grammar.eos,
        )
        return [grammar.decode(row) for row in ids.tolist()]

    def save_pretrained(self, folder: Path) -> None:
        """Writes config, schema, tokenizer and safetensors weights; :func:`mmprofile.model.build.load_pretrained` needs nothing else."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in (self.text.config, self.text.generation_config, self.tokenizer):
            part.save_pretrained(folder / "text")
        if isinstance(self.vision, LlavaVision):
            self.vision.processor.save_pretrained(folder / "text")
        for adapter in self.adapter:
            adapter.save_pretrained(folder / "adapter")  # in peft's layout, for model.text.adapter
        data = {"format": FORMAT, "schema": self.schema.to_dict(), **self.settings}
        (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))


def _as_autocast(states: Tensor) -> Tensor:
    """States in the dtype that autocast would give every linear map that reads them: once instead of twice a layer."""
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states
