"""The tiny LLaVA of this package, made of its Llama and its ViT: their weights are not shipped a second time."""

import json
import tempfile
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from mmprofile.paths import ASSETS, cache_dir

LANGUAGE, VISION = ASSETS / "tiny" / "llama", ASSETS / "tiny" / "vision"
IMAGE_TOKEN = "<extra_id_39>"  # the last sentinel: no text has it
SPREAD = 9.2
"""Standard deviation of a patch's state in front of the ViT's last norm, which is where a LLaVA takes it; of demo photos."""
GELU_POWER = 0.425  # mean square of GELU of a standard normal variable


def llava_folder() -> Path:
    """The checkpoint's folder in the cache, assembled when first asked for and when what it is made of has changed."""
    made_of = [Path(__file__), *sorted(LANGUAGE.iterdir()), *sorted(VISION.iterdir())]
    digest = sha256(b"".join(sha256(path.read_bytes()).digest() for path in made_of)).hexdigest()
    folder = cache_dir() / "tiny" / f"llava-{digest[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / folder.name
            assemble_llava(made)
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def assemble_llava(folder: Path, language: Path = LANGUAGE, vision: Path = VISION) -> None:
    """Writes a LLaVA in the hub's layout, float16: a Llama, a ViT of timm, and a new projector between them.

    A photo is its patches' states in front of the last norm, as in LLaVA-1.5; the projector's random weights make tokens
    of the size of the Llama's own from them.

    Args:
        folder: to write.
        language: a Llama in the hub's layout.
        vision: a ViT of timm in the hub's layout.
    """
    tokenizer = AutoTokenizer.from_pretrained(language)
    llama = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    facts = json.loads((vision / "config.json").read_text(encoding="utf-8"))
    tower = vit_config(facts["model_args"])
    config = LlavaConfig(
        vision_config=tower,
        text_config=llama.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # without the class state
        pad_token_id=llama.config.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        llava = LlavaForConditionalGeneration(config)
        parts, width = llava.model, llama.config.hidden_size
        first, second = parts.multi_modal_projector.linear_1, parts.multi_modal_projector.linear_2
        size = llama.get_input_embeddings().weight.std().item()
        for layer, deviation in (
            (first, 1 / SPREAD / tower.hidden_size**0.5),
            (second, size / (GELU_POWER * width) ** 0.5),
        ):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
    states = vit_states(load_file(vision / "model.safetensors"))
    parts.vision_tower.load_state_dict(parts.vision_tower.pooler.state_dict(prefix="pooler.") | states)
    parts.language_model.load_state_dict(llama.model.state_dict())
    llava.lm_head.load_state_dict(llama.lm_head.state_dict())
    llava.generation_config = llama.generation_config
    llava.half().save_pretrained(folder)
    given = facts["pretrained_cfg"]
    height, breadth = given["input_size"][1:]
    images = ViTImageProcessor(
        size={"height": height, "width": breadth},
        resample=Image.Resampling[given["interpolation"].upper()],
        image_mean=given["mean"],
        image_std=given["std"],
    )
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=tower.patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def vit_config(model_args: dict) -> ViTConfig:
    """transformers' configuration of a ViT that timm makes with ``model_args``."""
    width = model_args["embed_dim"]
    return ViTConfig(
        image_size=model_args["img_size"],
        patch_size=model_args.get("patch_size", 16),
        hidden_size=width,
        intermediate_size=int(width * model_args.get("mlp_ratio", 4)),
        num_hidden_layers=model_args["depth"],
        num_attention_heads=model_args["num_heads"],
        layer_norm_eps=1e-6,
    )


NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def vit_states(timm_states: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ViT of timm by their names in transformers' ``ViTModel``; float32."""
    found = {}
    for name, weight in timm_states.items():
        head, _, rest = name.partition(".")
        if head == "blocks":
            number, _, rest = rest.partition(".")
            layer, _, kind = rest.rpartition(".")
            names = [f"attention.{part}_proj" for part in "qkv"] if layer == "attn.qkv" else [NAMES[layer]]
            for new, part in zip(names, weight.chunk(len(names)), strict=True):
                found[f"layers.{number}.{new}.{kind}"] = part.float()
        else:
            new = {
                "cls_token": "embeddings.cls_token",
                "pos_embed": "embeddings.position_embeddings",
                "patch_embed": "embeddings.patch_embeddings.projection" + rest.removeprefix("proj"),
                "norm": f"layernorm.{rest}",
            }[head]
            found[new] = weight.float()
    return found
