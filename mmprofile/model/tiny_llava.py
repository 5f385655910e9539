"""The tiny LLaVA of this package, assembled from its Llama and its ViT, so their weights are shipped only once."""

import json
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

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
    ViTModel,
)

from mmprofile.paths import ASSETS, cache_dir

TEXT, VISION = ASSETS / "tiny" / "llama", ASSETS / "tiny" / "vision"
IMAGE_TOKEN = "<extra_id_99>"  # the last sentinel: no text has it
SPREAD = 5.6
"""Standard deviation of a patch's state in front of the ViT's last norm, where a LLaVA takes it, for generated photos."""
GELU_POWER = 0.425  # mean square of GELU of a standard normal variable
LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def tiny_llava() -> Path:
    """Return the checkpoint's folder in the cache; it is assembled at the first call, and when its parts have changed."""
    sources = [Path(__file__), *sorted(TEXT.iterdir()), *sorted(VISION.iterdir())]
    digest = sha256(b"".join(sha256(path.read_bytes()).digest() for path in sources)).hexdigest()
    folder = cache_dir() / "models" / f"tiny-llava-{digest[:12]}"
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


def assemble_llava(folder: Path, text: Path = TEXT, vision: Path = VISION) -> None:
    """Write a LLaVA in the hub's layout, float16: a Llama, a ViT of timm, and a new projector between them.

    As in LLaVA-1.5, a photo's visual tokens come from its patches' states in front of the last norm. The projector's
    random weights give them about the size of the Llama's embeddings.

    Args:
        folder: to write.
        text: a Llama in the hub's layout.
        vision: a ViT of timm in the hub's layout.
    """
    tokenizer = AutoTokenizer.from_pretrained(text)
    llama: Any = AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32)
    tower, processor = vision_tower(vision)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=llama.config,
        image_token_index=tokenizer.get_vocab()[IMAGE_TOKEN],
        image_seq_length=tower.embeddings.patch_embeddings.num_patches,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # without the class state
    )
    llava: Any = LlavaForConditionalGeneration(config)
    llava.model.vision_tower = tower
    llava.model.language_model.load_state_dict(llama.model.state_dict())
    llava.lm_head.load_state_dict(llama.lm_head.state_dict())
    llava.generation_config = llama.generation_config
    first, second = llava.model.multi_modal_projector.linear_1, llava.model.multi_modal_projector.linear_2
    size, random = llama.get_input_embeddings().weight.std().item(), torch.Generator().manual_seed(0)
    for layer, power in ((first, SPREAD**2), (second, GELU_POWER / size**2)):
        nn.init.normal_(layer.weight, std=(layer.in_features * power) ** -0.5, generator=random)
        nn.init.zeros_(layer.bias)
    llava.half().save_pretrained(folder)
    LlavaProcessor(
        processor,
        tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def vision_tower(folder: Path) -> tuple[ViTModel, ViTImageProcessor]:
    """Return the transformers model of a timm ViT in the hub's layout, and the processor of its photos."""
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape, photos = facts["model_args"], facts["pretrained_cfg"]
    config = ViTConfig(
        image_size=shape["img_size"],
        patch_size=shape.get("patch_size", 16),
        hidden_size=shape["embed_dim"],
        intermediate_size=int(shape["embed_dim"] * shape["mlp_ratio"]),
        num_hidden_layers=shape["depth"],
        num_attention_heads=shape["num_heads"],
        layer_norm_eps=1e-6,  # timm's
    )
    tower = ViTModel(config).eval()
    for weight in tower.pooler.parameters():  # timm has none, and a LLaVA does not look at it
        nn.init.zeros_(weight)
    pooler = {f"pooler.{name}": weight for name, weight in tower.pooler.state_dict().items()}
    tower.load_state_dict(pooler | _renamed(load_file(folder / "model.safetensors")))
    height, width = photos["input_size"][1:]
    processor = ViTImageProcessor(
        size={"height": height, "width": width},
        resample=Image.Resampling[photos["interpolation"].upper()],
        image_mean=photos["mean"],
        image_std=photos["std"],
    )
    return tower, processor


def _renamed(states: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a timm ViT by their names in transformers, in float32."""
    renamed = {}
    for name, weight in states.items():
        head, _, rest = name.partition(".")
        if head == "blocks":
            number, _, rest = rest.partition(".")
            layer, _, kind = rest.rpartition(".")
            news = [f"attention.{part}_proj" for part in "qkv"] if layer == "attn.qkv" else [LAYERS[layer]]
            for new, part in zip(news, weight.chunk(len(news)), strict=True):
                renamed[f"layers.{number}.{new}.{kind}"] = part.float()
        else:
            new = {
                "cls_token": "embeddings.cls_token",
                "pos_embed": "embeddings.position_embeddings",
                "patch_embed": f"embeddings.patch_embeddings.projection.{rest.removeprefix('proj.')}",
                "norm": f"layernorm.{rest}",
            }[head]
            renamed[new] = weight.float()
    return renamed
