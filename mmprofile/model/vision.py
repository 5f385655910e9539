"""Photo encoders: a timm ViT, or a LLaVA's own tower.

Dimension letters as in :mod:`mmprofile.model`.
"""

import difflib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoImageProcessor

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json
from mmprofile.model.checkpoints import LOCAL, Checkpoint, check_weights, loading, weight_files
from mmprofile.model.hub import fetch

KEY = "model.vision.name"
LARGEST = 100_000  # of a model's sizes
VISUAL_TOKENS = ("cls", "patch", "grid")
WRITES = "_version"  # private in torch: how often a tensor was written to
REMEMBERED_MB = 512
"""Memory for the states of a frozen tower: for 170,000 photos with ViT-B's class states, for 900 with all its patches."""


def photo_transform(data_config: Mapping[str, Any]) -> Callable[[Image.Image], np.ndarray]:
    """Return timm's evaluation transform (size, crop, interpolation) without normalisation.

    The model normalises (:class:`VisionEncoder`), so a photo travels as uint8 and a masked pixel is black, that is 0,
    whatever the mean of the model.

    Returns:
        A function from an RGB image to uint8 (3, height, width).
    """
    return partial(_bytes, timm.data.create_transform(**data_config, is_training=False, use_prefetcher=True))


def _bytes(transform: Callable[[Image.Image], Any], image: Image.Image) -> np.ndarray:
    """Return uint8 (3, height, width)."""
    return np.asarray(transform(image))  # timm gives an array or a tensor, by version


class VisionEncoder(nn.Module):
    """ViT states of photos.

    Args:
        name: any timm ViT: a name, ``hf-hub:<id>`` (or ``hf-hub:<id>@<revision>``) or ``local-dir:<folder>``; a hub id or
            path with a slash needs no scheme.
        tokens: ``cls``: the class state (mean of the patches where a model has none), M = 1; ``patch``: every state,
            M = 1 + patches; ``grid``: class state and patches pooled to ``grid`` x ``grid``.
        grid: see ``tokens``.
        pretrained: load weights; False builds the architecture only.
        trainable: False freezes the tower.
        model_args: overrides of timm's model arguments (to rebuild a saved model).
        data_config: of :func:`photo_transform`; None: timm's for the model.
        revision: branch, tag or commit of the weights' repository on the hub; None: its main branch.

    Raises:
        UserError: the name is unknown or no ViT, or the weights cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        tokens: str = "cls",
        grid: int = 7,
        pretrained: bool = True,
        trainable: bool = True,
        model_args: Mapping[str, Any] | None = None,
        data_config: Mapping[str, Any] | None = None,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        if tokens not in VISUAL_TOKENS:
            raise UserError(f"model.vision.tokens={tokens!r} is not one of {', '.join(VISUAL_TOKENS)}")
        self.tokens, self.grid, self.trainable = tokens, grid, trainable
        name = with_scheme(name)
        source, weights = _locate(name, revision) if pretrained or ":" in name else (name, {})
        self.name, self.model_args = _architecture(name, source, dict(model_args or {}))
        self.vit: Any = _create(name, source, pretrained, {**weights, **(model_args or {})})
        patches = getattr(self.vit, "patch_embed", None)
        if not hasattr(patches, "grid_size") or not hasattr(self.vit, "num_prefix_tokens"):
            raise UserError(
                f"model.vision.name={name!r} is no Vision Transformer of timm (see timm.list_models('vit*'))"
            )
        self.model_args = {**_checkpoint_args(self.vit.pretrained_cfg), **self.model_args}
        self.data_config = dict(data_config or timm.data.resolve_model_data_config(self.vit))
        self.mean: Tensor
        self.std: Tensor
        for key in ("mean", "std"):
            value = torch.tensor(self.data_config[key], dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(key, value, persistent=False)
        self.vit.requires_grad_(trainable)
        self.forget()

    def rebuild_arguments(self) -> dict[str, Any]:
        """Return arguments that build the same encoder without its source: plain data."""
        data_config = {key: list(v) if isinstance(v, tuple) else v for key, v in self.data_config.items()}
        return {
            "name": self.name,
            "tokens": self.tokens,
            "grid": self.grid,
            "trainable": self.trainable,
            "model_args": self.model_args,
            "data_config": data_config,
        }

    @property
    def transform(self) -> Callable[[Image.Image], np.ndarray]:
        """See :func:`photo_transform`."""
        return photo_transform(self.data_config)

    @property
    def count(self) -> int:
        """M, the visual tokens of a photo."""
        if self.tokens == "cls":
            return 1
        rows, columns = self.vit.patch_embed.grid_size
        return 1 + (rows * columns if self.tokens == "patch" else min(self.grid, rows) * min(self.grid, columns))

    @property
    def width(self) -> int:
        """dv, the size of one visual token."""
        return int(self.vit.num_features)

    def train(self, mode: bool = True) -> "VisionEncoder":
        """Set the mode; a frozen tower stays in evaluation mode, without dropout."""
        super().train(mode and self.trainable)
        return self

    def forget(self) -> None:
        """Forget the remembered states of photos, since the tower's weights have changed."""
        self._remembered: dict[Hashable, Tensor] = {}
        self._left = REMEMBERED_MB << 20
        self._weights = self._versions()

    def _versions(self) -> list[tuple[int, int]] | None:
        """Return where each weight lies and how often it was written to, which tells whether weights have changed.

        torch counts writes in a private attribute; None where it is gone.
        """
        weights = [*self.vit.parameters(), *self.vit.buffers()]
        versions: list[Any] = [getattr(weight, WRITES, None) for weight in weights]
        if None in versions:
            return None
        return [(weight.data_ptr(), int(version)) for weight, version in zip(weights, versions, strict=True)]

    def forward(self, photos: Tensor, keys: Sequence[bytes | None] | None = None) -> Tensor:
        """Return the visual tokens of photos; a frozen tower remembers them, up to :data:`REMEMBERED_MB`.

        Args:
            photos: uint8 (P, 3, height, width).
            keys: one per photo, by which it is remembered; None for a photo that will not come again.

        Returns:
            (P, M, dv).
        """
        if self.trainable or keys is None or self._weights is None:
            return self._tokens(photos)
        if self._weights != self._versions():
            self.forget()
        kind = photos.device.type
        precision = self.mean.dtype, torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        names = [None if key is None else (key, photos.device, *precision) for key in keys]
        tokens = {i: self._remembered[name] for i, name in enumerate(names) if name in self._remembered}
        new = [i for i in range(len(names)) if i not in tokens]
        if new:
            tokens |= zip(new, self._tokens(photos[new]), strict=True)
        for i in new:
            if names[i] is not None and self._left > 0:
                self._remembered[names[i]] = tokens[i].clone()
                self._left -= tokens[i].nbytes
        return torch.stack([tokens[i] for i in range(len(names))])

    def _tokens(self, photos: Tensor) -> Tensor:
        """Return the visual tokens (P, M, dv) of photos, uint8 (P, 3, height, width)."""
        pixels = photos.to(self.mean.dtype, copy=True).div_(255).sub_(self.mean).div_(self.std)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            states = self.vit.forward_features(pixels)
        prefix = self.vit.num_prefix_tokens
        patches = states[:, prefix:]
        cls = states[:, :1] if prefix else patches.mean(1, keepdim=True)
        if self.tokens == "cls":
            return cls
        if self.tokens == "patch":
            return torch.cat([cls, patches], 1)
        rows, columns = self.vit.patch_embed.grid_size
        square = patches.transpose(1, 2).unflatten(2, (rows, columns))
        pooled = F.adaptive_avg_pool2d(square, (min(self.grid, rows), min(self.grid, columns)))
        return torch.cat([cls, pooled.flatten(2).transpose(1, 2)], 1)


def _checkpoint_args(pretrained_cfg: Any) -> dict[str, Any]:
    """Return the model arguments that timm takes from a checkpoint, in which its architecture may have others."""
    args = {"global_pool": pretrained_cfg["global_pool"]} if pretrained_cfg.get("global_pool") else {}
    return args | (
        {"img_size": list(pretrained_cfg["input_size"][1:])} if pretrained_cfg.get("fixed_input_size") else {}
    )


def with_scheme(name: str) -> str:
    """Return a name as timm takes it, in which a folder's path or a hub id has its scheme."""
    if ":" in name or "/" not in name:
        return name
    folder = Path(name).expanduser()
    return f"local-dir:{folder}" if folder.is_dir() else f"hf-hub:{name}"


def _locate(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """Return where timm finds the weights of a name on this machine: a name of timm's, and options of ``create_model``.

    Raises:
        UserError: they are not there, and cannot be fetched.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "local-dir":
        if not Path(rest).is_dir():
            raise UserError(f"{KEY}={name!r} cannot be loaded: there is no such folder; give local-dir:/path/to/folder")
        return f"local-dir:{fetch(rest, KEY, revision, scheme='local-dir:').folder}", {}
    if scheme == "hf-hub":
        hub_id, _, pinned = rest.partition("@")
        return f"local-dir:{fetch(hub_id, KEY, revision or pinned or None, scheme='local-dir:').folder}", {}
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise _unloadable(name, error) from error
    if published is None or not published.hf_hub_id:
        return name, {}
    checkpoint = fetch(published.hf_hub_id, KEY, revision, scheme="local-dir:")
    check_weights(checkpoint)
    (file,) = weight_files(path.name for path in checkpoint.folder.iterdir())
    return name, {"pretrained_cfg_overlay": {"file": str(checkpoint.folder / file), "custom_load": False}}


def _architecture(name: str, source: str, model_args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the timm architecture and the model arguments of what :func:`_locate` found for a name."""
    scheme, _, folder = source.partition(":")
    if scheme != "local-dir":
        return source.split(".")[0], model_args
    try:
        config = read_json(Path(folder) / "config.json")
        return config["architecture"], {**config.get("model_args", {}), **model_args}
    except (OSError, *MALFORMED) as error:
        raise _unloadable(name, error) from error


def _create(name: str, source: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """Return a timm model without classifier.

    Raises:
        UserError: it cannot be loaded, or lacks weights, or an option is no size of a model.
    """
    for key, value in options.items():
        if isinstance(value, int) and value > LARGEST:  # timm makes lists of this length before it makes layers
            raise UserError(f"{KEY}={name!r} cannot be loaded: {key}={value} is more than {LARGEST:,}")
    try:
        with _missing_keys() as missing:
            vit: nn.Module = timm.create_model(source, pretrained=pretrained, **{"num_classes": 0, **options})
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise _unloadable(name, error) from error
    if missing:
        raise UserError(
            f"{KEY}={name!r} cannot be loaded: {len(missing)} of its weights are missing ({missing[0]}, ...) and would be "
            "random"
        )
    return vit


@contextmanager
def _missing_keys() -> Iterator[list[str]]:
    """Collect which weights a model does not get while it loads. timm leaves them random where it drops a classifier."""
    missing: list[str] = []
    load = nn.Module.load_state_dict

    def watched(module: nn.Module, *args: Any, **options: Any) -> Any:
        result = load(module, *args, **options)
        missing.extend(result.missing_keys)
        return result

    nn.Module.load_state_dict = watched  # type: ignore[method-assign, assignment]
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]


def _unloadable(name: str, error: Exception) -> UserError:
    """Return the one-line error for a model that cannot be loaded."""
    known = timm.list_models(pretrained="." in name)  # with their tags
    near = difflib.get_close_matches(name, known, 3) if ":" not in name else []
    hint = f"; near: {', '.join(near)}" if near else ""
    reason = " ".join(str(error).split())
    return UserError(f"{KEY}={name!r} cannot be loaded ({type(error).__name__}: {reason[:160]}){hint}")


class LlavaVision(nn.Module):
    """The vision tower and projector of a LLaVA: photos -> visual tokens of the text's width. The LLaVA owns the weights.

    Args:
        llava: the model.
        checkpoint: where its image processor is.
        grid: pool the patches of a photo to ``grid`` x ``grid``, where all would not fit the model's length; None keeps all.
        trainable: False freezes the tower; the projector is always trained.
    """

    def __init__(self, llava: Any, checkpoint: Checkpoint, grid: int | None, trainable: bool) -> None:
        super().__init__()
        self._llava = [llava]  # in a list, so it is not a submodule
        self.grid, self.trainable = grid, trainable
        with loading(checkpoint):
            self.processor: Any = AutoImageProcessor.from_pretrained(str(checkpoint.folder), **LOCAL)
        if not trainable:
            llava.model.vision_tower.requires_grad_(False)

    @property
    def count(self) -> int:
        """M, the visual tokens of a photo."""
        tower = self._llava[0].config.vision_config
        return self.grid**2 if self.grid is not None else (tower.image_size // tower.patch_size) ** 2

    @property
    def width(self) -> int:
        """dv, the size of one visual token: the text's."""
        return int(self._llava[0].config.text_config.hidden_size)

    def rebuild_arguments(self) -> dict[str, Any]:
        """Return arguments that build the same again: plain data."""
        return {"tokens": "patch" if self.grid is None else "grid", "grid": self.grid, "trainable": self.trainable}

    def transform(self, image: Image.Image) -> np.ndarray:
        """RGB image -> uint8 (3, height, width), by the processor without its normalisation."""
        plain = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        return np.asarray(plain["pixel_values"][0].round().to(torch.uint8))

    def forward(self, photos: Tensor, keys: Sequence[Hashable] | None = None) -> Tensor:
        """Photos, uint8 (P, 3, height, width) -> visual tokens (P, M, d); ``keys`` are not used."""
        llava = self._llava[0]
        mean, std = (
            torch.tensor(values, device=photos.device).view(3, 1, 1)
            for values in (self.processor.image_mean, self.processor.image_std)
        )
        pixels = ((photos / 255 - mean) / std).to(llava.dtype)
        tokens = torch.stack(list(llava.get_image_features(pixels).pooler_output))
        if self.grid is None:
            return tokens
        side = round(tokens.shape[1] ** 0.5)
        square = tokens.transpose(1, 2).unflatten(2, (side, side))
        return F.adaptive_avg_pool2d(square, self.grid).flatten(2).transpose(1, 2)
