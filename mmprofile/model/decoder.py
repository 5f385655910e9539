"""The writing half of the model: what :mod:`mmprofile.model.encoder` has read of each row -> states, logits and texts.

Dimension letters as in :mod:`mmprofile.model`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.inputs.batch import IGNORE
from mmprofile.inputs.texts import Prompt
from mmprofile.model.encoder import UserEncoder
from mmprofile.model.fusion import Fused, Fusion, compact
from mmprofile.model.vision import LlavaVision, VisionEncoder
from mmprofile.profile.grammar import Grammar


class ProfileDecoder(UserEncoder):
    """The writing half of :class:`mmprofile.model.model.ProfileModel`: what the decoder reads -> states, logits and texts.

    Args:
        text: an encoder-decoder or a causal language model of transformers.
        tokenizer: its tokenizer.
        vision: photo encoder; None for a model that never sees photos.
        fusion: from :func:`mmprofile.model.fusion.build_fusion`.
        prompt: what a causal model reads around the texts; None for an encoder-decoder.

    Attributes:
        start: the token behind which a profile is written.
    """

    def __init__(
        self,
        *,
        text: Any,
        tokenizer: Any,
        vision: VisionEncoder | LlavaVision | None,
        fusion: Fusion,
        prompt: Prompt | None,
    ) -> None:
        super().__init__(text, vision, fusion)
        self.tokenizer: Any = tokenizer
        self.prompt = prompt
        self.start = int(prompt.start if prompt else text.config.decoder_start_token_id)
        # How its authors liked to generate is not how profiles are written: BART's would repeat no three tokens.
        text.generation_config = GenerationConfig()

    def token_logits(self, states: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return the logits of decoder states.

        Args:
            states: (..., d).
            ids: (n,) of the tokens; None: all.

        Returns:
            (..., n or vocabulary).
        """
        if getattr(self.text.config, "scale_decoder_outputs", False):
            states = states * states.shape[-1] ** -0.5
        head, bias = self.text.get_output_embeddings(), getattr(self.text, "final_logits_bias", None)
        logits = head(states) if ids is None else F.linear(states, head.weight[ids])
        if bias is not None:  # BART's
            logits = logits + (bias if ids is None else bias[..., ids])
        return logits

    def _shifted(self, labels: Tensor) -> Tensor:
        """Return what is read when each label is to be written: the start token, then the labels before it. (R, L) both."""
        start = labels.new_full((len(labels), 1), self.start)
        return torch.cat(
            [start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, self.tokenizer.pad_token_id or 0)], 1
        )

    def _decoded(self, fused: Fused, inputs: Tensor) -> Tensor:
        """Return the decoder's states (R, L, d) of inputs (R, L, d), which a causal model reads right behind its prompt."""
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
        """Return the embeddings of texts (T, S) and of the decoder's inputs (R, L): (T, S, d) and (R, L, d).

        Encoder and decoder share one look-up where they share the table: the gradient of each is as large as the table.
        """
        encoder, decoder = self._embeddings(), self.text.get_decoder().get_input_embeddings()
        if encoder.weight is not decoder.weight:
            return encoder(texts), decoder(inputs)
        both = encoder(torch.cat([texts.flatten(), inputs.flatten()]))
        return both[: texts.numel()].unflatten(0, texts.shape), both[texts.numel() :].unflatten(0, inputs.shape)

    def _beams(self, hidden: Tensor, mask: Tensor, grammar: Grammar, beams: int, renormalize: bool) -> list[str]:
        """Return the texts of transformers' beam search; a causal model's prompts are padded on the left for it.

        Args:
            hidden, mask: what the decoder reads, (U, N', d) and (U, N').
            grammar: what is legal.
            beams: to keep.
            renormalize: whether a token competes with the legal tokens only.
        """
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
            renormalize_logits=renormalize,
            pad_token_id=self.tokenizer.pad_token_id or grammar.eos,
            eos_token_id=grammar.eos,
            decoder_start_token_id=None if self.causal else self.start,
        )
        return [grammar.decode(row) for row in ids.tolist()]


def _as_autocast(states: Tensor) -> Tensor:
    """Return states of any shape in the dtype of autocast, which all linear maps read: cast once, not twice a layer."""
    kind = "cpu" if states.is_meta else states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states
