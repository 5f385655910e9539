"""The model: a batch -> the loss of its profiles, or the profiles; :mod:`encoder` reads and :mod:`decoder` writes.

Dimension letters as in :mod:`mmprofile.model`.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_model
from torch import Tensor, nn

from mmprofile.errors import UserError
from mmprofile.files import write_json
from mmprofile.inputs.batch import IGNORE, Batch, Collator
from mmprofile.inputs.evidence import EvidenceSelector
from mmprofile.inputs.views import InputSettings, Masking
from mmprofile.model.auxiliary import Auxiliary
from mmprofile.model.backbones import attention_queries, build_prompt
from mmprofile.model.confidence import Confidence
from mmprofile.model.decoder import ProfileDecoder
from mmprofile.model.decoding import SEARCH_WIDTH, Decoded, ProfileSearch, merged
from mmprofile.model.encoder import alike
from mmprofile.model.fusion import Fused, Fusion, TextGuidedAttention
from mmprofile.model.heads import AttributeHead, Votes
from mmprofile.model.kernels import speed_up
from mmprofile.model.losses import (
    Output,
    ViewCounts,
    attribute_weights,
    count_by_view,
    full_loss,
    gate_sums,
    schema_loss,
    sums_by_view,
)
from mmprofile.model.trees import decoder_states
from mmprofile.model.vision import LlavaVision, VisionEncoder
from mmprofile.profile.grammar import Grammar
from mmprofile.profile.schema import Profile, Schema

FORMAT = 2
VOCABULARIES = ("schema", "full")
LEAST_ROOM = 32  # tokens of texts
LIKE_ROWS = 0.7
"""Rows of at least this share of the longest among them are padded to it and decoded together."""


class ModelSettings(TypedDict):
    """Plain data that are needed to use a model again; ``config.json`` of an exported model holds them.

    Attributes:
        text, vision, fusion, head: arguments of :func:`mmprofile.model.build.build_model`.
        inputs: how inputs are made.
        vocabulary: what a target token competes with, one of :data:`VOCABULARIES`.
        target: what a row writes, one of :data:`mmprofile.inputs.texts.TARGETS`.
        auxiliary: the weight of classifiers beside the decoder.
        source: the checkpoints that text and vision model came from.
        purpose: for which a model of sensitive attributes was trained.
    """

    text: dict[str, Any]
    vision: dict[str, Any] | None
    fusion: dict[str, Any]
    inputs: InputSettings
    vocabulary: str
    target: str
    head: dict[str, Any]
    auxiliary: float
    source: dict[str, str]
    purpose: NotRequired[str]


class ProfileModel(ProfileDecoder):
    """Text model + vision encoder + fusion.

    A causal model has no encoder: it reads the embeddings of its prompt, photos among them, and the profile is written
    behind it. With an ``early`` fusion an encoder, too, reads embeddings with photos among them, row by row.

    Args:
        text: an encoder-decoder or a causal language model of transformers.
        tokenizer: its tokenizer.
        vision: photo encoder; None for a model that never sees photos.
        fusion: from :func:`mmprofile.model.fusion.build_fusion`.
        schema: the profile it writes.
        settings: needed to use the model again.
        head: classifiers of the attributes instead of the text model's decoder, which is removed then.
        auxiliary: classifiers of the attributes from the mean of what the decoder reads. They show encoder and fusion what
            to look for sooner than the decoder does, and predictions mix theirs and the decoder's.
        adapter: the peft model around ``text``; None where it is not adapted.

    ``settings["vocabulary"]`` is what a target token competes with, in the loss and in the scores of beams: ``full``, all
    tokens, as in the paper; ``schema``, the tokens that the schema's grammar allows at that place. With ``schema`` the
    format of a profile needs no learning, and the likeliest profile is the likeliest by the probabilities trained.
    """

    def __init__(
        self,
        *,
        text: Any,
        tokenizer: Any,
        vision: VisionEncoder | LlavaVision | None,
        fusion: Fusion,
        schema: Schema,
        settings: ModelSettings,
        head: AttributeHead | None = None,
        auxiliary: Auxiliary | None = None,
        adapter: Any = None,
    ) -> None:
        prompt = None
        if not text.config.is_encoder_decoder:
            prompt = build_prompt(tokenizer, settings["text"]["instruction"], settings["text"]["answer"])
        super().__init__(text=text, tokenizer=tokenizer, vision=vision, fusion=fusion, prompt=prompt)
        self.head, self.auxiliary = head, auxiliary
        self.schema, self.settings = schema, settings
        self.grammar = Grammar(schema, tokenizer)
        self.confidence: Confidence | None = None  # fitted after training
        self.selector: EvidenceSelector | None = None  # of the data that it was trained on
        self.adapter: list[Any] = [] if adapter is None else [adapter]  # in a list, so it is not a submodule
        speed_up(self)

    @property
    def transform(self) -> Callable[[Image.Image], np.ndarray] | None:
        """RGB image -> uint8 (3, height, width) as the vision model takes it; None without one."""
        return self.vision.transform if self.vision is not None else None

    def collator(
        self,
        inputs: InputSettings,
        load_photo: Callable[[str], np.ndarray] | None,
        masking: Masking,
        seed: int,
    ) -> Collator:
        """Return what makes batches for this model.

        Args:
            inputs: ``max_tokens``, ``encoding``, ``reviews`` and ``photos_per_review``.
            load_photo, masking, seed: see :class:`mmprofile.inputs.batch.Collator`.

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

    def _room(self, inputs: InputSettings) -> int | None:
        """Return how many tokens of texts the model can read beside photos, prompt and answer; None: any number."""
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
        """Return the parameters that no checkpoint brought: those of the fusion and the classifiers."""
        parts = [part for part in (self.fusion, self.head, self.auxiliary) if part is not None]
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def pretrained_parts(self) -> list[nn.Parameter]:
        """Return the trainable parameters of text and vision model, which a checkpoint brought."""
        new = {id(p) for p in self.new_parts()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in new]

    def slow_parts(self) -> list[nn.Parameter]:
        """Return the queries of a T5 and the queries and keys of the fusion, which may learn more slowly than the rest."""
        slow = attention_queries(self.text)
        for part in self.fusion.modules():
            if isinstance(part, TextGuidedAttention):
                slow += [*part.query.parameters(), *part.key.parameters()]
        return slow

    def _head_votes(self, batch: Batch) -> Votes:
        """Return the votes of the head on each row."""
        assert self.head is not None
        rows = torch.arange(len(batch.row_view), device=batch.row_view.device)
        read = self._read(batch)
        hidden, mask = self._texts(batch, read, rows)
        if read.photos is None:
            width = self.vision.width if self.vision is not None else 0
            visual, visual_mask = torch.zeros(len(rows), 0, width, device=rows.device), mask[:, :0]
        else:
            visual, visual_mask = self._photos(batch, read.photos, rows)
        votes: Votes = self.head(hidden, mask, visual, visual_mask)
        return votes

    def forward(self, batch: Batch, gates: bool = False) -> Output:
        """Return the loss of each view and, if asked, its gates; :meth:`encode` gives the states of each row.

        Args:
            batch: with labels.
            gates: whether to return ``view_gates``.
        """
        assert batch.labels is not None, "forward needs targets; use generate to predict"
        if self.head is not None:
            loss, known = self.head.losses(self._head_votes(batch), self._gold(batch, self.head))
            sums = sums_by_view(batch, loss, known, attribute_weights(batch))
            return Output(view_totals=sums.totals, view_tokens=sums.counts, logits=None)
        texts, inputs = self._embed(batch.text_ids, self._shifted(batch.labels))
        read = self._read(batch, texts)
        state_parts, orders, votes, gate_parts = [], [], [], []
        for rows, _ in alike((batch.row_tokens >= 0).sum(1), LIKE_ROWS):
            fused = self._fuse(batch, read, rows)
            state_parts.append(self._decoded(fused, inputs[rows]))
            orders.append(rows)
            if gates and fused.gate is not None:
                gate_parts.append(gate_sums(batch, rows, fused))
            if self.auxiliary is not None:
                votes.append(self.auxiliary.votes(fused.hidden, fused.mask))
        back = torch.cat(orders).argsort()
        states = torch.cat(state_parts)[back]
        logits = None
        if self.settings["vocabulary"] == "schema":
            loss = schema_loss(batch, states, self.token_logits)
        else:
            logits = self.token_logits(states)
            loss = full_loss(batch, logits)
        sums = sums_by_view(batch, loss, batch.labels != IGNORE, batch.label_weights)
        total = torch.stack(gate_parts).sum(0) if gate_parts else None
        return Output(
            view_totals=sums.totals,
            view_tokens=sums.counts,
            logits=logits,
            view_auxiliary=self._auxiliary_loss(batch, Votes.concatenated(votes).of(back)) if votes else None,
            view_gates=None if total is None else total[:, :-1] / total[:, -1:],
        )

    def view_counts(self, batch: Batch) -> ViewCounts:
        """Return what the losses of a batch's views will be means over, before they are computed."""
        assert batch.labels is not None
        weights = attribute_weights(batch)
        heads = [None if head is None else head.known(self._gold(batch, head)) for head in (self.head, self.auxiliary)]
        if heads[0] is None:
            tokens = count_by_view(batch, batch.labels != IGNORE, batch.label_weights)
        else:
            tokens = count_by_view(batch, heads[0], weights)
        nothing = torch.zeros_like(tokens)
        return ViewCounts(tokens, nothing if heads[1] is None else count_by_view(batch, heads[1], weights))

    def _auxiliary_loss(self, batch: Batch, votes: Votes) -> Tensor:
        """Return the weighted mean loss of the auxiliary classifiers in each view, (views,)."""
        assert self.auxiliary is not None
        loss, known = self.auxiliary.losses(votes, self._gold(batch, self.auxiliary))
        sums = sums_by_view(batch, loss, known, attribute_weights(batch))
        return self.auxiliary.weight * sums.totals / sums.counts.clamp_min(1)

    @staticmethod
    def _gold(batch: Batch, head: AttributeHead) -> Tensor:
        """Return a head's targets (R, C)."""
        assert batch.profiles is not None
        return head.targets(batch.profiles, batch.row_user.device)[batch.row_user]

    @torch.no_grad()
    def fit_validation(self, batches: Iterable[Batch]) -> None:
        """Fit how opinions are mixed, which gradients do not train, to the validation split.

        Args:
            batches: in the view that prediction uses, with profiles.
        """
        self.eval()
        if self.auxiliary is not None:
            written: list[Decoded] = []
            classified: list[Decoded] = []
            profiles: list[Profile] = []
            for batch in batches:
                opinions = self.opinions(batch)
                written += opinions[0]
                classified += opinions[1]
                profiles += batch.profiles or []
            self.auxiliary.fit_share(written, classified, profiles)
        if self.head is None:
            return
        votes, targets = [], []
        for batch in batches:
            votes.append(self._head_votes(batch))
            targets.append(self._gold(batch, self.head))
        self.head.fit_mix(Votes.concatenated(votes), torch.cat(targets))

    @torch.no_grad()
    def decode(
        self,
        batch: Batch,
        known: Sequence[Profile] | None = None,
        width: int = SEARCH_WIDTH,
        exact: bool = False,
    ) -> list[Decoded]:
        """Return the likeliest profile of each user and the posterior of each attribute.

        Args:
            batch: users to predict, in one view.
            known: per user, attributes whose values are given; the rest is completed.
            width, exact: partial profiles to keep at a time, and whether to go on until no other profile can be likelier;
                see :class:`mmprofile.model.decoding.ProfileSearch`.

        Raises:
            UserError: ``known`` has an attribute or value that is not in the schema.
        """
        if self.head is not None:
            return self._classify(self.head, self._head_votes(batch), known)
        if self.auxiliary is not None:
            written, classified = self.opinions(batch, known, width, exact)
            return self.auxiliary.join(written, classified)
        return self._search(batch, self.encode(batch), known, width, exact)

    @torch.no_grad()
    def opinions(
        self,
        batch: Batch,
        known: Sequence[Profile] | None = None,
        width: int = SEARCH_WIDTH,
        exact: bool = False,
    ) -> tuple[list[Decoded], list[Decoded]]:
        """Return the profiles by the decoder alone and those by the auxiliary classifiers alone, as :meth:`decode`."""
        assert self.auxiliary is not None
        fused = self.encode(batch)
        votes = self.auxiliary.votes(fused.hidden, fused.mask)
        return self._search(batch, fused, known, width, exact), self._classify(self.auxiliary, votes, known)

    def _classify(self, head: AttributeHead, votes: Votes, known: Sequence[Profile] | None) -> list[Decoded]:
        """Return the profiles by classifiers."""
        given = known or [{}] * len(votes.logits)
        values = [Grammar(self.schema, self.tokenizer, profile).known if profile else {} for profile in given]
        return head.decode(votes, values)

    def _search(
        self, batch: Batch, fused: Fused, known: Sequence[Profile] | None, width: int, exact: bool
    ) -> list[Decoded]:
        """Return the profiles by the decoder."""
        parts = []
        for grammar, rows in self._parts(batch):
            possible = [grammar] * len(rows)
            if known is not None:
                names = grammar.schema.names
                given = [{n: values for n, values in profile.items() if n in names} for profile in known]
                possible = [Grammar(grammar.schema, self.tokenizer, p) if p else grammar for p in given]
            search = ProfileSearch(
                grammar=grammar,
                start=self.start,
                logits=self.token_logits,
                vocabulary=self.settings["vocabulary"],
                width=width,
                exact=exact,
            )
            parts.append(search(decoder_states(self.text, fused.hidden[rows], fused.mask[rows]), possible))
        return [merged(self.schema, user_parts) for user_parts in zip(*parts, strict=True)]

    def _parts(self, batch: Batch) -> list[tuple[Grammar, Tensor]]:
        """Return the grammars that write rows, and the rows (U,) that each writes, one for each user."""
        if self.settings["target"] != "attributes":
            return [(self.grammar, torch.arange(len(batch.row_user), device=batch.row_user.device))]
        return [(part, (batch.row_attribute == a).nonzero().squeeze(1)) for a, part in enumerate(self.grammar.parts)]

    @torch.no_grad()
    def generate(self, batch: Batch, beams: int | None = None) -> list[str]:
        """Return one profile text per user: the likeliest; or, with ``beams``, that of transformers' beam search.

        A head finds the likeliest without search. Beams use the decoder alone, without auxiliary classifiers.
        """
        if beams is None or self.head is not None:
            return [decoded.text for decoded in self.decode(batch)]
        fused = self.encode(batch)
        renormalize = self.settings["vocabulary"] == "schema"
        parts = [
            self._beams(fused.hidden[rows], fused.mask[rows], grammar, beams, renormalize)
            for grammar, rows in self._parts(batch)
        ]
        return ["; ".join(texts) for texts in zip(*parts, strict=True)]

    def save_pretrained(self, folder: Path) -> None:
        """Write config, schema, tokenizer and safetensors weights: all that ``load_pretrained`` needs.

        Args:
            folder: to write; see :func:`mmprofile.model.exports.load_pretrained`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for part in (self.text.config, self.tokenizer):
            part.save_pretrained(folder / "text")
        if isinstance(self.vision, LlavaVision):
            self.vision.processor.save_pretrained(folder / "text")
        for adapter in self.adapter:
            # In peft's layout, for model.text.adapter. By default peft would ask the hub about the embeddings.
            adapter.save_pretrained(folder / "adapter", save_embedding_layers=False)
        write_json(folder / "config.json", {"format": FORMAT, "schema": self.schema.to_dict(), **self.settings})
        save_model(self, str(folder / "model.safetensors"))
        if self.confidence is not None:
            self.confidence.save(folder)
        if self.selector is not None:
            self.selector.save(folder)
