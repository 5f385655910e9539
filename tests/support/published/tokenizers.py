"""Small tokenizers of the published kinds, trained on texts of our own.

A family keeps what decides how text becomes tokens (model, normalizer, pre-tokenizer, post-processor, order of the special
tokens) and shrinks the vocabulary only.
"""

import io
import itertools
import random
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from datamodules.demo.language import write_review
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.published.checkpoint import write_json

PIECES = 300  # learned tokens, beside bytes and special tokens: few enough that most values take several
NOT_IN_T5 = "{}<~^`\\"  # signs that T5 reads as <unk>
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


class Trained(NamedTuple):
    """A tokenizer, and the sentencepiece model that it was made of where the kind has one."""

    tokenizer: Tokenizer
    pieces: bytes = b""


def default_texts() -> tuple[str, ...]:
    """Reviews as the demo city has them, and the names and values of the Yelp schema."""
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    reviews = [write_review({}, (), random.Random(i)) for i in range(60)]
    return (*reviews, *(f"{a.name}: {v}, {v}; Unknown" for a in schema.attributes for v in a.values))


def specials(tokens: Iterable[str], special: bool = True, **options: Any) -> list[AddedToken]:
    return [AddedToken(token, normalized=False, special=special, **options) for token in tokens]


def pieces_of(texts: tuple[str, ...], reserved: int, unknown: str = "", **options: Any) -> ModelProto:
    """Return what sentencepiece learns: ``PIECES`` pieces beside ``reserved`` ones, every ASCII sign but the ``unknown``."""
    file = io.BytesIO()
    signs = " ".join(sign for sign in string.printable.strip() if sign not in unknown)
    SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, signs]),
        model_writer=file,
        vocab_size=reserved + PIECES,
        character_coverage=1.0,
        hard_vocab_limit=False,  # few texts have fewer pieces
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return ModelProto.FromString(file.getvalue())


def unigram(texts: tuple[str, ...], byte_fallback: bool) -> Trained:
    """T5's kind: words that begin with "▁", ``</s>`` after each text, sentinels at the end; mT5's has pieces for bytes.

    transformers uses mT5's without its byte pieces, as T5's.
    """
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    reserved = 3 + 256 * byte_fallback
    unknown = "" if byte_fallback else NOT_IN_T5
    proto = pieces_of(texts, reserved, unknown, model_type="unigram", byte_fallback=byte_fallback, **ids)
    if byte_fallback:  # mT5 has its sentinels in the file
        for name in SENTINELS:
            proto.pieces.add(piece=f"▁{name}", score=-20.0)
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary += [] if byte_fallback else [(name, 0.0) for name in SENTINELS]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(specials(["<pad>", "</s>", "<unk>", *([] if byte_fallback else SENTINELS)]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return Trained(tokenizer, proto.SerializeToString())


def sentencepiece_bpe(texts: tuple[str, ...], added: Sequence[str] = ()) -> Trained:
    """Llama's kind: merges over characters with "▁" for blanks, bytes for what is unknown, ``<s>`` before each text."""
    options = {"split_digits": True, "allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False}
    proto = pieces_of(
        texts, 3 + 256, model_type="bpe", byte_fallback=True, normalization_rule_name="identity", **options
    )
    vocabulary = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    normal = [piece.piece for piece in proto.pieces if piece.type == ModelProto.SentencePiece.NORMAL]
    pairs = ((piece, piece[:i], piece[i:]) for piece in normal for i in range(1, len(piece)))
    ranked = sorted(tuple(vocabulary[part] for part in pair) for pair in pairs if vocabulary.keys() >= set(pair))
    names = [*vocabulary]
    merges = [(names[left], names[right]) for _, left, right in ranked]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(specials(["<unk>", "<s>", "</s>", *added]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return Trained(tokenizer, proto.SerializeToString())


def byte_level(
    texts: tuple[str, ...],
    front: Sequence[str] = (),
    back: Sequence[AddedToken] = (),
    digits: str | None = None,
    prefix_space: bool = False,
    normalizer: normalizers.Normalizer | None = None,
    before: Sequence[str] = (),
    whole: bool = False,
) -> Trained:
    """Merges over bytes: GPT-2's splitting, or with ``digits`` that of Llama 3, Qwen and GLM-4.

    Args:
        texts: what it is trained on.
        front: the first tokens of the vocabulary.
        back: tokens after the learned ones.
        digits: how many digits stay together, as a regular expression's quantifier; None splits as GPT-2 does.
        prefix_space: whether a blank is put before each text.
        normalizer: what is done to a text first.
        before: special tokens that precede each text.
        whole: whether a word that is a token is taken whole, whatever the merges.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
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
        vocab_size=len(front) + 256 + PIECES, special_tokens=[*front], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    for token in back:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    plain = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = plain
    if before:
        template = processors.TemplateProcessing(
            single=[*before, "$A"],
            pair=[*before, "$A", "$B"],
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in before],
        )
        tokenizer.post_processor = processors.Sequence([plain, template])
    return Trained(tokenizer)


def roberta(texts: tuple[str, ...], prefix_space: bool) -> Trained:
    """BART's kind, or RoBERTa's with a blank before each text."""
    front = ["<s>", "<pad>", "</s>", "<unk>"]
    trained = byte_level(texts, front, specials(["<mask>"], lstrip=True), prefix_space=prefix_space)
    trained.tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, prefix_space)
    return trained


def wordpiece(texts: tuple[str, ...]) -> Trained:
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
    return Trained(tokenizer)


@dataclass(frozen=True)
class Family:
    """A kind of tokenizer.

    Attributes:
        train: texts -> the tokenizer.
        size: how many tokens the published tokenizer has.
        files: which of its files are published.
        ids: published id -> token, of those that configurations name and that are elsewhere in a small vocabulary.
        settings: of ``tokenizer_config.json``, where it is not the checkpoint that has them.
    """

    train: Callable[[tuple[str, ...]], Trained]
    size: int
    files: tuple[str, ...]
    ids: dict[int, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def numbered(first: int, tokens: Iterable[str]) -> dict[int, str]:
    return dict(zip(itertools.count(first), tokens, strict=False))


def llama3(texts: tuple[str, ...]) -> Trained:
    return byte_level(texts, back=specials(LLAMA3), digits="{1,3}", before=["<|begin_of_text|>"], whole=True)


def qwen(texts: tuple[str, ...]) -> Trained:
    added = [*specials(QWEN), *specials(QWEN_PLAIN, special=False)]
    return byte_level(texts, back=added, digits="", normalizer=normalizers.NFC())


def glm(texts: tuple[str, ...]) -> Trained:
    return byte_level(texts, back=specials(GLM), digits="{1,3}", before=["[gMASK]", "<sop>"])


JSON = "tokenizer.json"
GPT2_FILES = (JSON, "vocab.json", "merges.txt")
LLAVA = {32000: "<image>", 32001: "<pad>"}
FAMILIES = {
    "t5": Family(partial(unigram, byte_fallback=False), 32100, (JSON, "spiece.model")),
    "mt5": Family(partial(unigram, byte_fallback=True), 250100, ("spiece.model",)),
    "bart": Family(partial(roberta, prefix_space=False), 50265, GPT2_FILES),
    "roberta": Family(partial(roberta, prefix_space=True), 50265, GPT2_FILES, settings={"add_prefix_space": True}),
    "llama": Family(sentencepiece_bpe, 32000, (JSON, "tokenizer.model")),
    "llava": Family(partial(sentencepiece_bpe, added=[*LLAVA.values()]), 32002, (JSON, "tokenizer.model"), LLAVA),
    "llama3": Family(llama3, 128256, (JSON,), numbered(128000, LLAMA3)),
    "qwen": Family(qwen, 151669, GPT2_FILES, numbered(151643, [*QWEN, *QWEN_PLAIN])),
    "glm": Family(glm, 151343, (JSON,), numbered(151329, GLM)),
    "bert": Family(wordpiece, 30522, (JSON, "vocab.txt")),
}


@cache
def train(family: str, texts: tuple[str, ...]) -> Trained:
    """Return the family's tokenizer for ``texts``; the same object each time."""
    return FAMILIES[family].train(texts)


def save_tokenizer(family: str, trained: Trained, folder: Path) -> None:
    """Write the files that the family publishes."""
    if FAMILIES[family].settings:
        write_json(folder / "tokenizer_config.json", FAMILIES[family].settings)
    for name in FAMILIES[family].files:
        if name == JSON:
            trained.tokenizer.save(str(folder / name))
        elif name.endswith(".model"):
            (folder / name).write_bytes(trained.pieces)
        else:
            trained.tokenizer.model.save(str(folder))
