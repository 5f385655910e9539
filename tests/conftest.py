"""Small random stand-ins, saved as a hub would, and users to look at: what most tests of the model need."""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import settings
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import Masking, User
from mmprofile.model.build import build_model
from mmprofile.model.model import ProfileModel
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Profile, Schema

torch.set_num_threads(1)  # what is computed here is too small to share: threads would only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")  # nor in the commands that tests start, which run beside other tests
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")

WORDS = (
    "review : photo : profile : Unknown the a soup was warm bread good so we stayed long dinner cheap car wash nice "
    "plate of noodles on wooden table red sign above door two people attribute : attributes"
)
SIZE = 32  # pixels on a photo's side
PHOTOS = ("sign", "plate", "car", "door")
CAPTIONS = {"sign": "red sign above door", "plate": "plate of noodles", "car": "two people", "door": None}


def tokenizer_for(texts: Sequence[str], **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of ``texts`` and nothing else, with T5's blanks, end token and sentinels."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    words = dict.fromkeys(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    names = ["<pad>", "</s>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.Metaspace(prepend_scheme="always")
    sentinels = [f"<extra_id_{i}>" for i in range(8)]
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=sentinels, **named)


def words_of(schema: Schema) -> list[str]:
    """Texts with every name and value of a schema in it, before every mark that may follow."""
    words = [f"{a.name}: {v}, {v}; Unknown" for a in schema.attributes for v in a.values]
    return [*words, *(word for a in schema.attributes for word in a.empty)]


def all_profiles(schema: Schema) -> list[Profile]:
    """Every legal profile of a small schema."""
    choices: list[list[tuple[str, ...]]] = []
    for attribute in schema.attributes:
        pick = itertools.permutations if attribute.kind == "ordered" else itertools.combinations
        sizes = range(max(1, attribute.least), attribute.size + 1)
        chosen = [values for size in sizes for values in pick(attribute.values, size)]
        choices.append([*chosen, *([attribute.empty] if attribute.empty else []), *([()] if attribute.unknown else [])])
    return [dict(zip(schema.names, chosen, strict=True)) for chosen in itertools.product(*choices)]


def save_t5(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Path:
    """A random T5 for ``tokenizer`` in the hub's layout."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of the tests reaches the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPROFILE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """Commands that a test runs in this process flush them to zero, for all tests after it."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return tokenizer_for


@pytest.fixture(scope="session")
def legal_profiles() -> Callable[[Schema], list[Profile]]:
    return all_profiles


@pytest.fixture(scope="session")
def schema_tokenizer() -> Callable[[Schema], PreTrainedTokenizerFast]:
    """A tokenizer that knows a schema's words and those of the users' reviews and captions."""
    return lambda schema: tokenizer_for([*words_of(schema), WORDS])


@pytest.fixture(scope="session")
def t5_folder(schema: Schema, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("t5"), tokenizer_for([*words_of(schema), WORDS]))


@pytest.fixture(scope="session")
def t5_folder_of(
    schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Schema], str]:
    """A random T5 that can write a schema."""
    return lambda schema: str(save_t5(tmp_path_factory.mktemp("t5"), schema_tokenizer(schema)))


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT of 4 x 4 patches of 8 x 8 pixels in timm's hub layout; mean and std .5, as ViT-B/16 has them."""
    folder = tmp_path_factory.mktemp("vit")
    arguments = {"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **arguments)
    crop = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash", "num_classes": 0}
    seen = {"input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3, "first_conv": "patch_embed.proj"}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "num_features": 24,
        "model_args": arguments,
        "pretrained_cfg": {**crop, **seen, "classifier": "head"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(vit.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_model(
    t5_folder: Path,
    vit_folder: Path,
    schema: Schema,
    schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., ProfileModel]:
    """``tiny_model(fusion, tokens, schema, vocabulary, **fusion_options)`` -> a new random model, same each time."""
    shipped = schema

    def make(
        fusion: str = "xattn",
        tokens: str = "cls",
        schema: Schema | None = None,
        vocabulary: str = "full",
        **options: Any,
    ) -> ProfileModel:
        folder = t5_folder
        if schema is not None:
            folder = save_t5(tmp_path_factory.mktemp("t5"), schema_tokenizer(schema))
        vision = {"name": f"local-dir:{vit_folder}", "tokens": tokens, "grid": 2, "trainable": True}
        inputs = {"modality": "both", "reviews": 3, "photos_per_review": 1, "max_tokens": 64, "sample_seed": 0}
        torch.manual_seed(1)
        text = {"name": str(folder), "dropout": None}
        return build_model(
            text=text,
            vision=vision,
            fusion={"kind": fusion, **options},
            schema=schema or shipped,
            inputs=inputs,
            vocabulary=vocabulary,
        ).eval()

    return make


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Photo key -> random pixels, none of them black."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(1, 256, (3, SIZE, SIZE), dtype=np.uint8) for name in PHOTOS}


@pytest.fixture(scope="session")
def users(schema: Schema) -> list[User]:
    """Four users: three photos, none, one, two; two of them share a photo, one photo has no caption."""
    shown = [("sign", "plate", "door"), (), ("car",), ("sign", "car")]
    reviews = [
        ("the soup was warm", "bread was good so we stayed so long"),
        ("dinner was cheap",),
        ("the car wash was nice", "good", "a long dinner so good"),
        ("we stayed",),
    ]
    rng = np.random.default_rng(1)
    found = []
    for i, (texts, keys) in enumerate(zip(reviews, shown, strict=True)):
        values = {a.name: a.canonical(rng.choice(a.values, a.size, replace=False).tolist()) for a in schema.attributes}
        found.append(User(f"user-{i}", texts, keys, tuple(CAPTIONS[key] for key in keys), values))
    return found


@pytest.fixture(scope="session")
def make_collator(photos: dict[str, np.ndarray]) -> Callable[..., Collator]:
    """``make_collator(model, **probabilities)``; ``max_tokens``, ``seed``, ``encoding`` and ``target`` may be given too."""

    def make(
        model: ProfileModel,
        max_tokens: int = 64,
        seed: int = 0,
        encoding: str = "joint",
        target: str = "profile",
        **masking: float,
    ) -> Collator:
        return Collator(
            tokenizer=model.tokenizer,
            grammar=model.grammar,
            load_photo=photos.__getitem__,
            masking=Masking(**masking),
            max_tokens=max_tokens,
            seed=seed,
            encoding=encoding,
            target=target,
        )

    return make
