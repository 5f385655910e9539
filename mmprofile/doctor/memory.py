"""How much memory a training step and a prediction take: both are run on tensors that have shapes and no numbers.

The model is built on torch's meta device, and its real forward and backward pass of the largest batch runs there. What is
counted is the memory that each operation's results hold until nobody needs them, so
that attention, dropout, adapters and frozen parts are counted as they are computed. Nothing of it is allocated.

Deep models would take minutes. So two models of few layers are run, and what a layer adds is multiplied.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mmprofile.inputs.batch import Batch
from mmprofile.model.kernels import drop
from mmprofile.model.model import ProfileModel
from mmprofile.model.trees import decoder_states
from mmprofile.train.module import joint_loss

MOMENTS = 2  # of Adam, in the precision of the weights
LOWERED = (
    F.linear,
    F.conv2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    Tensor.matmul,
    Tensor.__matmul__,
)
"""What autocast computes in bfloat16."""
LEAST_PARTS = 4
"""Models that are not at least so many times as deep as one with the fewest layers are run as they are."""


@dataclass(frozen=True)
class Need:
    """What a model needs, in bytes.

    Attributes:
        parameters, trained: their numbers.
        weights: all parameters and buffers.
        gradients: of the trained parameters.
        moments: of Adam, likewise.
        activations: the most that a training step holds besides these.
        prediction: the most that a prediction holds besides the weights.
        saving: what the writing of a checkpoint takes: Lightning puts all of it together in memory, and copies it.
        checkpoints: ``best.ckpt``, ``last.ckpt`` and the exported model on the disk.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    moments: int
    activations: int
    prediction: int
    saving: int
    checkpoints: int


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make inside the context, as long as anybody holds them.

    Operations on tensors without numbers take the masks and indices of a batch, too, which are on the CPU.

    Attributes:
        now, most: bytes held at present, and at the worst moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its results."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta for tensor in tensors):
            if func is torch.ops.aten._local_scalar_dense.default:
                return False  # "is nothing masked?": the answer that takes more memory
            if not all(tensor.is_meta for tensor in tensors):
                args, kwargs = tree_map_only(Tensor, _to_meta, (args, kwargs))
        result = func(*args, **kwargs)
        given = {tensor.untyped_storage()._cdata for tensor in tensors}  # of which a result may be a view
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_meta and tensor.untyped_storage()._cdata not in given:
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")


class Autocast(TorchFunctionMode):
    """What autocast does on a real device: linear maps and products compute in bfloat16, of weights that are cast once."""

    def __init__(self) -> None:
        super().__init__()
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, on bfloat16 if it is one of :data:`LOWERED`."""
        if func in LOWERED:
            args, kwargs = tree_map_only(Tensor, self._lowered, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _lowered(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not isinstance(tensor, nn.Parameter):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(torch.bfloat16)
        return self._cast[id(tensor)]


class CpuDropout(nn.Dropout):
    """The dropout of :mod:`mmprofile.model.kernels` on a CPU, which keeps a number for each element."""

    def forward(self, input: Tensor) -> Tensor:
        """Return states of any shape."""
        return drop(input, self.p) if self.training and self.p else input


class Stack(NamedTuple):
    """Layers of a model that are alike: the module that has them, by which name, and the layers."""

    parent: nn.Module
    name: str
    layers: nn.ModuleList | nn.Sequential


class Run(NamedTuple):
    """What a training step and a prediction hold, in bytes.

    Attributes:
        forward: after the forward pass.
        backward: how much more at the worst moment of the backward pass.
        prediction: at its worst moment.
    """

    forward: float
    backward: float
    prediction: float


def needs(
    model: ProfileModel,
    training: Batch,
    prediction: Batch,
    weights: Sequence[float] | None,
    kind: str,
    bf16: bool,
    beams: int,
) -> Need:
    """Return what a model needs; the model is of no use afterwards.

    Args:
        model: on the meta device.
        training: the largest batch of a training, on the CPU.
        prediction: the largest batch of a prediction.
        weights: of the views in the joint loss, see :func:`mmprofile.train.module.joint_loss`.
        kind: of the device: cpu, cuda, ...
        bf16: whether the linear maps compute in bfloat16 (autocast).
        beams: of the evaluation; 1 for the search without beams.
    """
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    gradients, every = bytes_of(trained), bytes_of(parameters)
    for part in model.modules():
        if isinstance(part, nn.Dropout) and kind == "cpu":
            part.__class__ = CpuDropout
    view_weights = None if weights is None else torch.tensor(weights)

    def run() -> Run:
        forward, most = _step(model.train(), training, view_weights, bf16)
        return Run(forward, most - forward, _predict(model.eval(), prediction, bf16, beams))

    forward, backward, predicted = _of_all_layers(model, run)
    return Need(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in trained),
        weights=every + bytes_of(list(model.buffers())),
        gradients=gradients,
        moments=MOMENTS * gradients,
        # Lightning keeps the gradients of the last step until the backward pass, which frees activations as it makes new ones.
        activations=round(forward + max(backward - gradients, 0)),
        prediction=round(predicted),
        saving=2 * (MOMENTS + 1) * gradients,
        checkpoints=(MOMENTS + 1) * gradients + gradients + every,
    )


def _of_all_layers(model: ProfileModel, run: Callable[[], Run]) -> Run:
    """Return what ``run`` would for the whole model, from runs with few of its layers."""
    stacks = [stack for part in (model.text, model.vision) if part is not None for stack in _stacks(part)]
    parts = math.gcd(*(len(stack.layers) for stack in stacks))  # at 2/parts and 1/parts of all depths
    if parts < LEAST_PARTS:
        return run()
    # transformers counts from the last layer by the configurations of the modules around it.
    configs = {
        id(layers): [
            module.config
            for module in model.text.modules()
            if getattr(getattr(module, "config", None), "num_hidden_layers", 0) == len(layers)
            and any(part is parent for part in module.modules())
        ]
        for parent, _, layers in stacks
    }
    runs = []
    for share in (2, 1):  # the deeper one first: transformers hooks into the layers of the first run only
        for parent, name, layers in stacks:
            count = len(layers) * share // parts
            parent._modules[name] = type(layers)(*_unpacked(layers, count))
            for config in configs[id(layers)]:
                config.num_hidden_layers = count
        runs.append(run())
    twice, once = runs
    return Run(
        forward=once.forward + (parts - 1) * (twice.forward - once.forward),
        backward=twice.backward,
        prediction=once.prediction + (parts - 1) * (twice.prediction - once.prediction),
    )


def _unpacked(layers: nn.ModuleList | nn.Sequential, count: int) -> list[Any]:
    """Return the first layers as the arguments of their container."""
    first = list(layers)[:count]
    return first if isinstance(layers, nn.Sequential) else [first]


def _stacks(module: nn.Module) -> Iterator[Stack]:
    """Yield the stacks of alike layers in a module, but none inside a layer of a stack."""
    for name, child in module.named_children():
        alike = isinstance(child, nn.ModuleList | nn.Sequential) and len({type(layer) for layer in child}) == 1
        if alike and len(child) > 1:  # type: ignore[arg-type]
            yield Stack(module, name, child)  # type: ignore[arg-type]
        else:
            yield from _stacks(child)


def bytes_of(tensors: list[Any]) -> int:
    """Return the bytes of tensors, each counted once."""
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


@contextmanager
def _counted(bf16: bool) -> Iterator[Held]:
    """Count what is held inside the context, where linear maps may compute in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), Held() as held, Autocast() if bf16 else nullcontext():
        yield held


def _step(model: ProfileModel, batch: Batch, weights: Tensor | None, bf16: bool) -> tuple[int, int]:
    """Return what is held after the forward pass, and the most that is held until the end of the backward pass."""
    batch = replace(batch, photo_keys=None)  # type: ignore[arg-type]  # a photo is not remembered: this is the first step
    model.zero_grad()
    with _counted(bf16) as held:
        loss = joint_loss(model(batch), weights)
        forward = held.now
        loss.backward()
    model.zero_grad()
    return forward, held.most


@torch.no_grad()
def _predict(model: ProfileModel, batch: Batch, bf16: bool, beams: int) -> int:
    """Return the most that reading a batch, and what the search keeps of it, hold."""
    batch = replace(batch, photo_keys=None)  # type: ignore[arg-type]
    with _counted(bf16) as held:
        if model.head is not None:
            model(batch)
            return held.most
        fused = model.encode(batch)
        read = decoder_states(model.text, fused.hidden, fused.mask)
        kept = held.now
        del read, fused
    return held.most + (beams - 1) * kept
