"""Small tokenizers of the published kinds, trained on texts of our own.

A family keeps what decides how text becomes tokens (model, normalizer, pre-tokenizer, post-processor, order of the special
tokens) and shrinks the vocabulary only.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from datamodules.demo.language import write_review
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

PIECES = 300  # learned tokens, beside bytes and special tokens: few enough that most values take several
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SENTINELS = [f"<extra_id_{i}>" for i in reversed(range(100))]
# How Llama 3, Qwen and GLM-4 split text before the merges; they differ in the digits that go together.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", *[f"<|reserved_special_token_{i}|>" for i in range(3, 8)],
]  # fmt: skip
QWEN = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
QWEN_PLAIN = [  # added, but not special: decoding keeps them
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip
GLM = [
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
]  # fmt: skip


def default_texts() -> tuple[str, ...]:
    """Reviews as the demo city has them, and the names and values of the Yelp schema."""
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    reviews = [write_review({}, (), random.Random(i)) for i in range(60)]
    return (*reviews, *(f"{a.name}: {v}, {v}; Unknown" for a in schema.attributes for v in a.values))


def specials(tokens: Iterable[str], special: bool = True, **options: Any) -> list[AddedToken]:
    return [AddedToken(token, normalized=False, special=special, **options) for token in tokens]


def learned(tokenizer: Tokenizer, trainer: trainers.Trainer, texts: Iterable[str]) -> dict[str, Any]:
    """Train ``tokenizer`` and return its model as ``tokenizer.json`` has it."""
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]


def unigram(texts: tuple[str, ...], front: list[str], back: list[str]) -> Tokenizer:
    """T5's kind: words that begin with "▁", no byte fallback, ``</s>`` after each text."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFKC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    size = len(front) + PIECES
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=front, unk_token="<unk>", show_progress=False)
    pieces = [tuple(piece) for piece in learned(trained, trainer, texts)["vocab"]]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((name, 0.0) for name in back)], unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(specials([*front[:3], *(name for name in back if name in SENTINELS)]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def sentencepiece_bpe(texts: tuple[str, ...], added: list[str]) -> Tokenizer:
    """Llama's kind: merges over characters with "▁" for blanks, bytes for what is unknown, ``<s>`` before each text."""
    front = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first = [*front, *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=len(first) + PIECES, special_tokens=first, show_progress=False)
    model = learned(trained, trainer, texts)
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, dropout=None)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(specials([*front, *added]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def byte_level(
    texts: tuple[str, ...],
    front: list[str] = [],  # noqa: B006  (read only)
    back: list[AddedToken] = [],  # noqa: B006
    digits: str | None = None,
    prefix_space: bool = False,
    normalizer: normalizers.Normalizer | None = None,
    before: str = "",
) -> Tokenizer:
    """Merges over bytes: GPT-2's splitting, or with ``digits`` that of Llama 3, Qwen and GLM-4.

    Args:
        texts: what it is trained on.
        front: the first tokens of the vocabulary.
        back: tokens after the learned ones.
        digits: how many digits stay together, as a regular expression's quantifier; None splits as GPT-2 does.
        prefix_space: whether a blank is put before each text.
        normalizer: what is done to a text first.
        before: special tokens that precede each text.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=before == "<|begin_of_text|>"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=digits is None)
    if digits is None:
        tokenizer.pre_tokenizer = level
    else:
        split = pre_tokenizers.Split(Regex(SPLIT.format(digits=digits)), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(front) + 256 + PIECES, special_tokens=front, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    for token in back:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    names = before.split()
    plain = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = plain
    if names:
        template = processors.TemplateProcessing(
            single=[*names, "$A"],
            pair=[*names, "$A", "$B"],
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
        )
        tokenizer.post_processor = processors.Sequence([plain, template])
    return tokenizer


def roberta(texts: tuple[str, ...], prefix_space: bool) -> Tokenizer:
    """BART's kind, or RoBERTa's with a blank before each text."""
    front = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = byte_level(texts, front, specials(["<mask>"], lstrip=True), prefix_space=prefix_space)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, prefix_space)
    return tokenizer


def wordpiece(texts: tuple[str, ...]) -> Tokenizer:
    """BERT's kind, lowercased."""
    front = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=len(front) + 2 * PIECES, special_tokens=front, show_progress=False, limit_alphabet=200
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return tokenizer


@dataclass(frozen=True)
class Family:
    """A kind of tokenizer.

    Attributes:
        train: texts -> the tokenizer.
        size: how many tokens the published tokenizer has.
        ids: published id -> token, of those that configurations name and that are elsewhere in a small vocabulary.
    """

    train: Callable[[tuple[str, ...]], Tokenizer]
    size: int
    ids: dict[int, str] = field(default_factory=dict)


def numbered(first: int, tokens: Iterable[str]) -> dict[int, str]:
    return dict(zip(itertools.count(first), tokens, strict=False))


T5 = ["<pad>", "</s>", "<unk>"]
FAMILIES = {
    "t5": Family(lambda texts: unigram(texts, T5, SENTINELS), 32100),
    "mt5": Family(lambda texts: unigram(texts, [*T5, *BYTES], [f"▁{name}" for name in SENTINELS]), 250100),
    "bart": Family(lambda texts: roberta(texts, False), 50265, {50264: "<mask>"}),
    "roberta": Family(lambda texts: roberta(texts, True), 50265, {50264: "<mask>"}),
    "llama": Family(lambda texts: sentencepiece_bpe(texts, []), 32000),
    "llava": Family(
        lambda texts: sentencepiece_bpe(texts, ["<image>", "<pad>"]), 32002, {32000: "<image>", 32001: "<pad>"}
    ),
    "llama3": Family(
        lambda texts: byte_level(texts, back=specials(LLAMA3), digits="{1,3}", before="<|begin_of_text|>"),
        128256,
        numbered(128000, LLAMA3),
    ),
    "qwen": Family(
        lambda texts: byte_level(
            texts, back=[*specials(QWEN), *specials(QWEN_PLAIN, False)], digits="", normalizer=normalizers.NFC()
        ),
        151669,
        numbered(151643, [*QWEN, *QWEN_PLAIN]),
    ),
    "glm": Family(
        lambda texts: byte_level(texts, back=specials(GLM), digits="{1,3}", before="[gMASK] <sop>"),
        151343,
        numbered(151329, GLM),
    ),
    "bert": Family(wordpiece, 30522),
}


@cache
def train(family: str, texts: tuple[str, ...]) -> Tokenizer:
    """Return the family's tokenizer for ``texts``; the same object each time."""
    return FAMILIES[family].train(texts)
