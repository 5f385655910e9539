"""LAVIS's own BLIP-2 classes with random weights of a few thousand parameters; imported in LAVIS's environment only."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from lavis.models.blip2_models.blip2 import LayerNorm
from lavis.models.blip2_models.blip2_opt import Blip2OPT
from lavis.models.blip2_models.blip2_t5 import Blip2T5
from lavis.models.blip2_models.modeling_opt import OPTForCausalLM
from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel
from lavis.models.eva_vit import VisionTransformer
from lavis.processors.blip_processors import BlipImageEvalProcessor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Tokenizer, OPTConfig, T5Config, T5ForConditionalGeneration, T5TokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

SIZE = 28
WORDS = "a photo of soup on wooden table red sign above door two people with plate noodles car in front house"


class Small:
    """Small stand-ins for what LAVIS's base class would download; mixed in before it."""

    @classmethod
    def init_tokenizer(cls) -> None:
        """Skip BERT's tokenizer, which captioning does not use."""

    @classmethod
    def init_vision_encoder(cls, *_: Any) -> tuple[Any, Any]:
        """Return LAVIS's EVA ViT with 2 x 2 patches, and its norm."""
        encoder = VisionTransformer(SIZE, 14, embed_dim=16, depth=2, num_heads=2, qkv_bias=True, use_mean_pooling=False)
        return encoder, LayerNorm(encoder.num_features)

    @classmethod
    def init_Qformer(cls, queries: int, width: int, cross_attention_freq: int = 2) -> tuple[Any, Any]:
        """Return LAVIS's Q-Former with two layers, and its queries (1, Q, 16)."""
        config = BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=8
        )
        config.encoder_width, config.add_cross_attention = width, True
        config.cross_attention_freq, config.query_length = cross_attention_freq, queries
        return BertLMHeadModel(config), torch.nn.Parameter(torch.randn(1, queries, 16))


class SmallOPT(Small, Blip2OPT):
    """BLIP-2 over OPT."""


class SmallT5(Small, Blip2T5):
    """BLIP-2 over Flan-T5."""


def save_opt(folder: Path) -> None:
    """Save an OPT whose tokens are bytes."""
    names = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values()]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **special).save_pretrained(folder)
    config = OPTConfig(
        vocab_size=len(names), hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16,
        max_position_embeddings=128, dropout=0.0, pad_token_id=1, bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)


def save_t5(folder: Path) -> None:
    """Save a T5 that knows a few words."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS.split())]
    tokenizer = Tokenizer(models.Unigram(scores, 2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0).save_pretrained(folder)
    config = T5Config(
        vocab_size=len(scores), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)


def load(kind: str, device: str) -> tuple[Any, Any]:
    """Return model and image processor, as LAVIS loads its own."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        (save_opt if kind == "opt" else save_t5)(Path(name))
        model = (
            SmallOPT(opt_model=name, num_query_token=4) if kind == "opt" else SmallT5(t5_model=name, num_query_token=4)
        )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5)
    return model.float().eval().to(device), BlipImageEvalProcessor(image_size=SIZE)
