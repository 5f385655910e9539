"""The model: encode each distinct text and photo once -> fuse per row -> decode all rows as one batch.

Dimension letters as in :mod:`mmprofile.batch` and :mod:`mmprofile.fusion`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging as transformers_logging

from mmprofile.batch import IGNORE, Batch
from mmprofile.decoding import WIDTH, Decoded, Search
from mmprofile.errors import UserError
from mmprofile.fusion import Fused, build_fusion
from mmprofile.grammar import Grammar
from mmprofile.kernels import ATTENTION, speed_up
from mmprofile.paths import ASSETS
from mmprofile.profile import Profile, Schema
from mmprofile.trees import decoder_states
from mmprofile.vision import VisionEncoder, photo_transform

FORMAT = 1
VOCABULARIES = ("schema", "full")
LIKE_TEXTS, LIKE_ROWS = 0.85, 0.7
"""Texts at least this share of the longest among them are padded to it and encoded together; rows, decoded together."""
transformers_logging.disable_progress_bar()  # a bar for every file it opens


class Output(NamedTuple):
    """What :meth:`ProfileModel.forward` returns.

    Attributes:
        view_totals: (views,) cross-entropy summed over the target tokens of each view's rows.
        view_tokens: (views,) the number of those tokens, 0 where a view has no row.
        logits: (R, L, vocabulary); None where the loss is over the schema's tokens, which needs no more than a few of them.
    """

    view_totals: Tensor
    view_tokens: Tensor
    logits: Tensor | None

    @property
    def view_losses(self) -> Tensor:
        """(views,) mean cross-entropy of a target token in each view, as transformers computes it; 0 without rows."""
        return self.view_totals / self.view_tokens.clamp_min(1)


class _Read(NamedTuple):
    """Every text and photo of a batch, encoded once.

    Attributes:
        texts: (tokens, d) states of the texts' tokens, in some order.
        place: (T * S,) where in ``texts`` the state of a token is, as ``Batch.row_tokens`` counts them.
        photos: (P, M, dv), None where no row shows one or the model sees none.
    """

    texts: Tensor
    place: Tensor
    photos: Tensor | None


def alike(lengths: Tensor, share: float) -> Iterator[tuple[Tensor, int]]:
    """Groups of like length, and the longest of each: padding all to the longest would be a good part of a step.

    Args:
        lengths: (n,) long.
        share: of the longest in its group that the shortest has at least.
    """
    order = lengths.argsort(descending=True, stable=True)
    sorted_lengths: list[int] = lengths[order].tolist()
    first = 0
    while first < len(order):
        longest = sorted_lengths[first]
        last = next((i for i in range(first, len(order)) if sorted_lengths[i] < share * longest), len(order))
        yield order[first:last], longest
        first = last


class ProfileModel(nn.Module):
    """Text encoder-decoder + vision encoder + fusion.

    Args:
        text: a transformers encoder-decoder.
        tokenizer: its tokenizer.
        vision: photo encoder; None for a model that never sees photos.
        fusion: from :func:`mmprofile.fusion.build_fusion`.
        schema: the profile it writes.
        settings: plain data needed to use the model again: fusion, vision, vocabulary, and how inputs are made.

    ``settings["vocabulary"]`` is what a target token competes with, in the loss and in the scores of beams: ``full``, all
    tokens, as in the paper; ``schema``, the tokens that the schema's grammar allows at that place. The format of a
    profile then needs no learning, and what is generated is the likeliest profile by the probabilities trained.
    """

    def __init__(
        self,
        text: nn.Module,
        tokenizer: Any,
        vision: VisionEncoder | None,
        fusion: nn.Module,
        schema: Schema,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.text: Any = text
        self.vision, self.fusion = vision, fusion
        self.tokenizer: Any = tokenizer
        self.schema, self.settings = schema, dict(settings)
        self.grammar = Grammar(schema, tokenizer)
        speed_up(self)

    @property
    def transform(self) -> Callable[[Image.Image], np.ndarray] | None:
        """RGB image -> uint8 (3, H, W) as the vision model wants it; None without one."""
        return photo_transform(self.vision.data_config) if self.vision is not None else None

    def new_parts(self) -> list[nn.Parameter]:
        """Parameters that no checkpoint brought: the fusion's."""
        return [p for p in self.fusion.parameters() if p.requires_grad]

    def pretrained_parts(self) -> list[nn.Parameter]:
        """Trainable parameters that came with weights: the text model's and, unless frozen, the vision model's."""
        new = {id(p) for p in self.fusion.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in new]

    def encode(self, batch: Batch) -> Fused:
        """Texts and photos -> what the decoder reads, per row (equations 1, 2 and 3 or 6 to 8)."""
        return self._fuse(batch, self._read(batch), torch.arange(len(batch.row_view), device=batch.row_view.device))

    def _read(self, batch: Batch, embedded: Tensor | None = None) -> _Read:
        """Every text and photo of a batch, once; ``embedded`` (T, S, d) where the texts' embeddings are there already."""
        if embedded is None:
            embedded = self.text.get_encoder().get_input_embeddings()(batch.text_ids)
        lengths = batch.text_mask.sum(1)
        place = torch.full_like(batch.text_ids, -1)
        parts, first = [], 0
        for texts, width in alike(lengths, LIKE_TEXTS):
            mask = batch.text_mask[texts, :width]
            states = self.text.get_encoder()(inputs_embeds=embedded[texts, :width], attention_mask=mask)
            parts.append(states.last_hidden_state.flatten(0, 1))
            place[texts, :width] = torch.arange(first, first + mask.numel(), device=place.device).view(mask.shape)
            first += mask.numel()
        seen = self.vision is not None and len(batch.photos) > 0
        photos = self.vision(batch.photos, batch.photo_keys) if seen else None  # type: ignore[misc]
        return _Read(torch.cat(parts), place.flatten(), photos)

    def _fuse(self, batch: Batch, read: _Read, rows: Tensor) -> Fused:
        """What the decoder reads of some rows; those without a photo are not touched by the fusion at all."""
        tokens = batch.row_tokens[rows]
        tokens = tokens[:, : int((tokens >= 0).sum(1).max())]
        mask = tokens >= 0
        hidden = read.texts.index_select(0, read.place[tokens.clamp_min(0).flatten()]).unflatten(0, mask.shape)
        there = batch.row_photo_mask[rows]
        some = there.any(1).nonzero().squeeze(1)
        if read.photos is None or not len(some):
            return Fused(hidden, mask)
        visual = read.photos[batch.row_photos[rows[some]]].flatten(1, 2)
        visual_mask = there[some].repeat_interleave(read.photos.shape[1], 1)
        if len(some) == len(rows):
            return self.fusion(hidden, mask, visual, visual_mask)
        fused: Fused = self.fusion(hidden[some], mask[some], visual, visual_mask)
        return Fused(
            _spread(fused.hidden, hidden, some, len(rows)),
            _spread(fused.mask, mask, some, len(rows)),
            *(None if part is None else _spread(part, None, some, len(rows)) for part in fused[2:]),
        )

    def forward(self, batch: Batch) -> Output:
        """The loss of each view. ``batch.labels`` must be there; :meth:`encode` gives what to look at inside."""
        assert batch.labels is not None, "forward needs targets; use generate to predict"
        texts, inputs = self._embed(batch.text_ids, self.text.prepare_decoder_input_ids_from_labels(batch.labels))
        read = self._read(batch, texts)
        parts, order = [], []
        for rows, _ in alike((batch.row_tokens >= 0).sum(1), LIKE_ROWS):
            fused = self._fuse(batch, read, rows)
            decoded = self.text.get_decoder()(
                inputs_embeds=inputs[rows],
                encoder_hidden_states=_as_autocast(fused.hidden),
                encoder_attention_mask=fused.mask,
                use_cache=False,
            )
            parts.append(decoded.last_hidden_state)
            order.append(rows)
        states = torch.cat(parts)[torch.cat(order).argsort()]
        logits = None
        if self.settings["vocabulary"] == "schema":
            loss = self._schema_loss(batch, states)
        else:
            logits = self.token_logits(states)
            flat = F.cross_entropy(
                logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE, reduction="none"
            )
            loss = flat.view_as(batch.labels)
        views = len(batch.views)
        zeros = loss.new_zeros(views)
        total = zeros.index_add(0, batch.row_view, loss.sum(1))
        count = zeros.index_add(0, batch.row_view, (batch.labels != IGNORE).sum(1).to(loss.dtype))
        return Output(total, count, logits)

    def _embed(self, texts: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the texts (T, S, d) and of the decoder's inputs (R, L, d).

        In one look-up where encoder and decoder share the table: each has a gradient as large as the whole table.
        """
        encoder, decoder = (part.get_input_embeddings() for part in (self.text.get_encoder(), self.text.get_decoder()))
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
        """The likeliest profile of each row and the posterior of each attribute.

        Args:
            batch: rows to predict.
            known: per row, attributes whose values are given; the rest is completed.
            width, exact: partial profiles to keep at a time, and whether to go on until no other profile can be likelier;
                see :class:`mmprofile.decoding.Search`.

        Raises:
            UserError: ``known`` has an attribute or value that the schema has not.
        """
        fused = self.encode(batch)
        states = decoder_states(self.text, *fused[:2])
        search = Search(
            self.grammar,
            self.text.config.decoder_start_token_id,
            self.token_logits,
            self.settings["vocabulary"],
            width,
            exact=exact,
        )
        possible = [self.grammar] * len(fused.mask)
        if known is not None:
            possible = [Grammar(self.schema, self.tokenizer, one) if one else self.grammar for one in known]
        return search(states, possible)

    @torch.no_grad()
    def generate(self, batch: Batch, beams: int | None = None) -> list[str]:
        """One profile text per row: the likeliest; or, with ``beams``, by transformers' beam search over the schema."""
        if beams is None:
            return [found.text for found in self.decode(batch)]
        fused = self.encode(batch)
        ids = self.text.generate(
            encoder_outputs=BaseModelOutput(fused.hidden.float()),
            attention_mask=fused.mask.long(),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=self.grammar.max_tokens,
            prefix_allowed_tokens_fn=self.grammar.prefix_allowed_tokens_fn,
            renormalize_logits=self.settings["vocabulary"] == "schema",
        )
        return [self.grammar.decode(row) for row in ids.tolist()]

    def save_pretrained(self, folder: Path) -> None:
        """Writes config, schema, tokenizer and safetensors weights; :meth:`from_pretrained` needs nothing else."""
        folder.mkdir(parents=True, exist_ok=True)
        self.text.config.save_pretrained(folder / "text")
        self.text.generation_config.save_pretrained(folder / "text")
        self.tokenizer.save_pretrained(folder / "text")
        data = {"format": FORMAT, "schema": self.schema.to_dict(), **self.settings}
        (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, folder: Path) -> "ProfileModel":
        """The model that :meth:`save_pretrained` wrote.

        Raises:
            UserError: no such model, or one of another format.
        """
        try:
            data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: no exported model there ({error}); expected config.json and model.safetensors"
            ) from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise UserError(f"{folder}: model format {found!r}, this version reads {FORMAT}")
        missing = {"schema", "text", "vision", "fusion", "inputs", "vocabulary"} - data.keys()
        if missing:
            raise UserError(f"{folder / 'config.json'}: {min(missing)!r} is missing; export the model again")
        settings = {key: value for key, value in data.items() if key not in ("format", "schema")}
        model = build_model(
            settings["text"] | {"name": str(folder / "text")},
            settings["vision"],
            settings["fusion"],
            Schema.from_dict(data["schema"]),
            settings["inputs"],
            settings["vocabulary"],
            pretrained=False,
        )
        model.settings = settings
        try:
            load_model(model, str(folder / "model.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder / 'model.safetensors'}: damaged or missing ({error}); export the model again"
            ) from error
        return model.eval()


def _as_autocast(states: Tensor) -> Tensor:
    """States in the dtype that autocast would give every linear map that reads them: once instead of twice a layer."""
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def _spread(part: Tensor, base: Tensor | None, rows: Tensor, count: int) -> Tensor:
    """Puts the fused rows (r, ...) back among all ``count``; the others keep ``base``, or zeros where there is none."""
    full = part.new_zeros(count, *part.shape[1:])
    if base is not None:
        full[:, : base.shape[1]] = base.to(part.dtype)
    return full.index_copy(0, rows, part)


def build_model(
    text: Mapping[str, Any],
    vision: Mapping[str, Any] | None,
    fusion: Mapping[str, Any],
    schema: Schema,
    inputs: Mapping[str, Any],
    vocabulary: str = "full",
    pretrained: bool = True,
) -> ProfileModel:
    """Builds a model from the ``model`` part of the configuration.

    Args:
        text: ``name`` (T5-family hub id, local folder, or ``mmprofile:tiny/text``), ``dropout`` or None.
        vision: arguments of :class:`VisionEncoder`; None for a model that never sees photos.
        fusion: arguments of :func:`mmprofile.fusion.build_fusion` but the widths.
        inputs: how inputs are made (paradigm's modality, reviews, photos, tokens): kept with the model.
        vocabulary: one of :data:`VOCABULARIES`, see :class:`ProfileModel`.
        pretrained: False builds the architecture without weights.

    Raises:
        UserError: something cannot be loaded or does not fit.
    """
    if vocabulary not in VOCABULARIES:
        raise UserError(f"decoder.vocabulary={vocabulary!r} is not one of {', '.join(VOCABULARIES)}")
    name = local_name(str(text["name"]))
    backbone, tokenizer = _load_text(name, pretrained, text.get("dropout"))
    if vision is None or fusion["kind"] == "none":
        tower, visual_width = None, 1
    else:
        arguments = {**vision, "name": local_name(str(vision["name"]), "local-dir:")}
        tower = VisionEncoder(**arguments, pretrained=pretrained)
        visual_width = tower.width
    width = int(backbone.get_input_embeddings().embedding_dim)
    kind = "none" if tower is None else str(fusion["kind"])
    joint = build_fusion(**{**fusion, "kind": kind}, width=width, visual_width=visual_width)
    settings = {
        "text": {"dropout": text.get("dropout")},
        "vision": None if tower is None else tower.rebuild_arguments(),
        "fusion": {**fusion, "kind": kind},
        "inputs": dict(inputs),
        "vocabulary": vocabulary,
    }
    return ProfileModel(backbone, tokenizer, tower, joint, schema, settings)


def local_name(name: str, scheme: str = "") -> str:
    """``mmprofile:tiny/text`` -> the folder inside this package; any other name as it is."""
    return f"{scheme}{ASSETS / name.removeprefix('mmprofile:')}" if name.startswith("mmprofile:") else name


def _load_text(name: str, pretrained: bool, dropout: float | None) -> tuple[Any, Any]:
    try:
        config = AutoConfig.from_pretrained(name)
        if not config.is_encoder_decoder:
            raise UserError(f"model.text.name={name!r} is a {config.model_type} model, not an encoder-decoder like T5")
        if dropout is not None:
            config.dropout_rate = dropout
        tokenizer = AutoTokenizer.from_pretrained(name)
        attention = None if ATTENTION == "sdpa" else ATTENTION  # transformers knows which models have no sdpa
        if pretrained:
            backbone = AutoModelForSeq2SeqLM.from_pretrained(
                name, config=config, dtype=torch.float32, attn_implementation=attention
            )
        else:
            backbone = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"model.text.name={name!r} cannot be loaded ({type(error).__name__}: {str(error)[:160]}). It must be a hub id "
            f"or a local folder. Offline? Fetch it on a machine with network (`hf download {name}`), copy the "
            f"folder here and set model.text.name=/path/to/folder"
        ) from error
    return backbone, tokenizer
