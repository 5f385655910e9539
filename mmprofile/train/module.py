"""LightningModules: the joint loss over views, Adam with two learning rates, macro-F1 on the validation split."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_wsd_schedule

from mmprofile.config.settings import OptimConfig
from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import View
from mmprofile.model.fusion import Gates
from mmprofile.model.losses import ViewCounts
from mmprofile.model.model import Output, ProfileModel
from mmprofile.train.guard import StepGuard
from mmprofile.train.probe import Probe
from mmprofile.train.scores import SplitMetric

METRIC = "validation/macro_f1"  # decides which epoch is best, and when to stop
RATE_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda left: 1.0,
    "linear": lambda left: left,
    # In float32, so that results stay those of earlier versions; transformers' own cosine differs by up to 7e-8.
    "cosine": lambda left: 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (1.0 - left))))),
}
"""After warm-up: the share of the decay steps that is left -> the factor of the learning rates."""


def joint_loss(output: Output, weights: Tensor | None, part: "Part | None" = None) -> Tensor:
    """Return the loss of a step, a scalar.

    Args:
        output: of the model.
        weights: (views,) for the ``paired`` schedule: weighted mean of the views' losses. None for ``sampled``: the mean over
            all target tokens, views having been drawn by their weights; the same in expectation.
        part: what the output is of; None: of the whole batch. The losses of all parts add up to that of the whole.
    """
    tokens, losses, auxiliary = output.view_tokens, output.view_losses, output.view_auxiliary
    if part is not None:
        tokens, losses = part.whole.tokens, losses * part.share.tokens
        auxiliary = None if auxiliary is None else auxiliary * part.share.auxiliary
    if auxiliary is not None:
        losses = losses + auxiliary
    if weights is None:
        return (losses * tokens).sum() / tokens.sum().clamp_min(1)
    return (losses * weights).sum() / weights.sum()


class Part(NamedTuple):
    """A part of a batch, which other steps or other ranks compute the rest of.

    Attributes:
        whole: counts of the whole batch.
        share: how much of them are in this part, 0..1.
    """

    whole: ViewCounts
    share: ViewCounts


def parts_of(counts: Sequence[ViewCounts], total: Callable[[Tensor], Tensor]) -> list[Part]:
    """Return the parts of a batch.

    Args:
        counts: of this rank's parts.
        total: sums a tensor over the ranks.
    """
    whole = ViewCounts(*total(torch.stack([torch.stack(part) for part in counts]).sum(0)))
    share = [[of / every.clamp_min(1) for of, every in zip(part, whole, strict=True)] for part in counts]
    return [Part(whole, ViewCounts(*values)) for values in share]


def rate_schedule(optimizer: Optimizer, optim: OptimConfig, steps: int) -> LambdaLR:
    """Return the schedule of the learning rates: linear warm-up over a share of the steps, then ``optim.schedule``.

    The steps are counted one ahead of transformers, whose first step has a rate of 0 and trains nothing: the last step of
    the warm-up has the full rate. The stable step is the step that this leaves between warm-up and decay.
    """
    rise, shape = max(1, round(optim.warmup * steps)) if optim.warmup > 0 else 0, RATE_SCHEDULES[optim.schedule]
    linear = get_wsd_schedule(optimizer, rise, max(1, steps - rise), num_stable_steps=1, decay_type="linear")
    factor = linear.lr_lambdas[0]
    return LambdaLR(optimizer, lambda step: factor(step + 1) if step < rise else shape(factor(step + 1)))


def check_optim(optim: OptimConfig) -> None:
    """Check that the schedule exists and that no rate is below zero.

    Raises:
        UserError: it does not, or one is.
    """
    for name in ("lr_pretrained", "lr_new", "query_factor"):
        if (value := getattr(optim, name)) < 0:
            raise UserError(f"optim.{name}={value:g}: give 0 or more")
    if optim.schedule not in RATE_SCHEDULES:
        raise UserError(f"optim.schedule={optim.schedule!r} is not one of {', '.join(RATE_SCHEDULES)}")


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of the random numbers of a step on a rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def accept_old_names(checkpoint: dict[str, Any]) -> None:
    """Rename, in place, what a checkpoint calls ``dev``: the learning curve's keys and the metric that callbacks monitor.

    Without the callbacks' states, early stopping would forget its patience and the best epoch its score.
    """
    progress = checkpoint["progress"]
    progress["history"] = [
        {re.sub("^dev_", "validation_", name): value for name, value in epoch.items()} for epoch in progress["history"]
    ]
    states = checkpoint.get("callbacks", {})
    checkpoint["callbacks"] = {key.replace("'dev/macro_f1'", repr(METRIC)): state for key, state in states.items()}


class Learner(pl.LightningModule):
    """Common parts of all trainings: Adam under a schedule, a learning curve that survives a restart, small checkpoints.

    Args:
        optim: learning rates and schedule.
        steps: optimizer steps of the whole training (counted by the caller: asking Lightning's
            ``estimated_stepping_batches`` here would break exact resumption).
        guard: looks at each step before it changes the model; None: one that stops the training and saves nothing.
    """

    def __init__(self, optim: OptimConfig, steps: int, guard: StepGuard | None = None) -> None:
        super().__init__()
        check_optim(optim)
        self.optim, self.steps, self.guard = optim, steps, guard or StepGuard()
        self.strict_loading = False  # checkpoints leave out what is frozen: a large model beside its adapter, say
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._losses: list[Tensor] = []
        self._started = time.perf_counter()
        self._seed = 0

    def on_fit_start(self) -> None:
        """Remember the seed of the run, the same on all ranks and after a restart."""
        self._seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers of this step (dropout): a run that is resumed draws those that it would have drawn."""
        self.guard.batch = batch
        torch.manual_seed(step_seed(self._seed, self.global_step, self.global_rank))
        for optimizer in self.trainer.optimizers:
            optimizer.zero_grad()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Keep the gradients: Lightning calls this after a step's first parts, and the step has begun without any."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Remember the batch, for the message of what it may lead to."""
        self.guard.batch = batch

    def on_train_epoch_start(self) -> None:
        """Start the clock of this epoch."""
        self._started = time.perf_counter()

    def end_epoch(self, macro_f1: float, curves: Mapping[str, float] | None = None) -> None:
        """Log the validation score and add the epoch to the learning curve.

        Args:
            macro_f1: of the whole validation split, the same on all ranks.
            curves: other figures of the epoch that the learning curve keeps.
        """
        self.log(METRIC, macro_f1, prog_bar=True, sync_dist=True)
        if self.trainer.sanity_checking:
            return
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        loss = float(torch.stack(self._losses).mean()) if self._losses else float("nan")
        self._losses = []
        row = {"epoch": self.current_epoch + 1, "loss": loss, "validation_macro_f1": macro_f1, "seconds": seconds}
        self.history.append(row | dict(curves or {}))

    def adam(
        self,
        pretrained: Sequence[nn.Parameter],
        new: Sequence[nn.Parameter],
        slow: Sequence[nn.Parameter] = (),
    ) -> OptimizerLRSchedulerConfig:
        """Return Adam and its schedule.

        Args:
            pretrained: parameters that learn at ``optim.lr_pretrained``.
            new: parameters that learn at ``optim.lr_new``.
            slow: those of both that learn at ``optim.query_factor`` times their rate, in groups of their own.
        """
        optim = self.optim
        apart = {id(p) for p in slow} if optim.query_factor != 1 else set()
        groups: list[dict[str, Any]] = [
            {"params": [p for p in part if (id(p) in apart) == slowed], "lr": rate * factor}
            for slowed, factor in ((False, 1.0), (True, optim.query_factor))
            for part, rate in ((pretrained, optim.lr_pretrained), (new, optim.lr_new))
        ]
        fused = self.device.type == "cpu" or None  # there it takes a sixth of the time
        adam = Adam([group for group in groups if group["params"]], weight_decay=optim.weight_decay, fused=fused)
        schedule = rate_schedule(adam, optim, self.steps)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients, and leave a step out whose gradients are no number.

        They are clipped here: under fused Adam, Lightning refuses it in bf16 because of fp16's scaler, which is not used.
        """
        norm = nn.utils.get_total_norm(p.grad for p in self.parameters() if p.grad is not None)
        if isinstance(norm, DTensor):  # of gradients that are spread over processes
            norm = norm.full_tensor()
        if gradient_clip_val:
            nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)
        if not self.guard.allows(self.global_step + 1, norm, self.global_rank):
            optimizer.zero_grad()  # Adam leaves weights without a gradient as they are
            self._losses.pop()

    def frozen(self) -> list[str]:
        """Return the names of the parameters that are not trained."""
        return [name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the learning curve and the seconds spent, as plain data, and leave out what is frozen."""
        for name in self.frozen():
            checkpoint["state_dict"].pop(name, None)
        losses = [float(loss) for loss in self._losses]  # of the epoch that has begun
        checkpoint["progress"] = {"history": self.history, "seconds": self.seconds, "losses": losses}
        checkpoint["progress"]["skipped"] = self.guard.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the learning curve and the seconds spent."""
        accept_old_names(checkpoint)
        progress = checkpoint["progress"]
        self.history, self.seconds = list(progress["history"]), float(progress["seconds"])
        self._losses = [torch.tensor(loss, device=self.device) for loss in progress.get("losses", [])]
        self.guard.skipped = int(progress.get("skipped", 0))


class ProfileModule(Learner):
    """Training of a :class:`ProfileModel`.

    Args:
        model: the model.
        views: the views of the paradigm.
        weights: a weight per view; None for the ``sampled`` schedule.
        optim, steps, guard: see :class:`Learner`.
        validation_beams: beams for the validation split, see :meth:`mmprofile.model.model.ProfileModel.generate`.
        probe: run after the validation split of each epoch; None: no probe.
    """

    def __init__(
        self,
        model: ProfileModel,
        views: Sequence[View],
        weights: Sequence[float] | None,
        optim: OptimConfig,
        steps: int,
        *,
        validation_beams: int | None = None,
        probe: Probe | None = None,
        guard: StepGuard | None = None,
    ) -> None:
        super().__init__(optim, steps, guard)
        self.model, self.views, self.validation_beams, self.probe = model, tuple(views), validation_beams, probe
        # transformers hands models out in evaluation mode and Lightning keeps the mode it finds: no dropout otherwise.
        self.model.train()
        self.weights: Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.validation_scores = SplitMetric(model.schema.observed)  # labels of the other attributes are not gold
        self._probed: dict[str, float] = {}
        self._gates: dict[str, list[Tensor]] = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the gates of the epoch that has begun."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["progress"]["gates"] = {name: [float(gate) for gate in gates] for name, gates in self._gates.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the gates of the epoch that has begun."""
        super().on_load_checkpoint(checkpoint)
        gates = checkpoint["progress"].get("gates", {})
        self._gates = {name: [torch.tensor(gate, device=self.device) for gate in of] for name, of in gates.items()}

    def configure_model(self) -> None:
        """Spread the model over the processes under ``trainer.strategy=fsdp``; otherwise leave it whole.

        It is one group: a step gathers all of it and spreads all gradients. Groups for each layer would have to be gathered
        equally often on every process, and a rank whose users have no photos, say, runs fewer layers.
        """
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not isinstance(self.model, FSDPModule):
            device = self.trainer.strategy.root_device
            fully_shard(self.model.to(device), mesh=init_device_mesh(device.type, (self.trainer.world_size,)))

    def on_validation_start(self) -> None:
        """Gather a spread model: ranks decode by different numbers of steps."""
        if isinstance(self.model, FSDPModule):
            self.model.unshard()

    def training_step(self, batch: Batch | list[Batch], index: int) -> Tensor:
        """Return the joint loss of a batch; log each view's loss and, as often as that is written, its gates.

        The loss is that of the whole batch: of all ranks, and of all parts if it comes in parts, whose gradients but the
        last one's are computed here.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        gates = every > 0 and (self.global_step + 1) % every == 0
        batches, ranks = batch if isinstance(batch, list) else [batch], self.trainer.world_size
        parts: list[Part | None] = [None]
        if ranks * len(batches) > 1:
            parts = [*parts_of([self.model.view_counts(part) for part in batches], self._total)]
        whole = torch.zeros((), device=self.device)
        for number, (batch, part) in enumerate(zip(batches, parts, strict=True), 1):
            output = self.model(batch, gates=gates)
            loss = joint_loss(output, self.weights, part)
            whole = whole + loss.detach()
            self._log_step(batch, output)
            self.guard.losses = {view.name: output.view_losses[i].detach() for i, view in enumerate(batch.views)}
            if number < len(batches):
                (self._with_all(loss) * ranks).backward()
        self._losses.append(self._total(whole))
        self.log("loss", self._losses[-1], prog_bar=True, batch_size=1)
        return self._with_all(loss) * ranks  # the gradients of the ranks are averaged

    def _with_all(self, loss: Tensor) -> Tensor:
        """Return the loss with a gradient, if of zero, for every parameter of a spread model: all ranks exchange the same."""
        if not isinstance(self.model, FSDPModule):
            return loss
        return loss + 0 * torch.stack([p.sum() for p in self.model.parameters() if p.requires_grad]).sum()

    def _total(self, value: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.trainer.world_size == 1:
            return value
        total: Tensor = self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
        return total

    def _log_step(self, batch: Batch, output: Output) -> None:
        """Log the loss of each view that has rows, and its gates if there are any."""
        present = output.view_tokens > 0
        logs = {f"loss/{view.name}": output.view_losses[i].detach() for i, view in enumerate(batch.views) if present[i]}
        if output.view_gates is not None:
            gates = self._named_gates(batch.views, output.view_gates)
            for name, value in gates.items():
                self._gates.setdefault(name, []).append(value)
            logs |= gates
        self.log_dict(logs, batch_size=len(batch.users))

    @staticmethod
    def _named_gates(views: Sequence[View], view_gates: Tensor) -> dict[str, Tensor]:
        """Return the gates (views, 4) by name and view, without the views that have none in this batch (NaN)."""
        return {
            f"{name}/{view.name}": value
            for view, gates in zip(views, view_gates, strict=True)
            if not gates.isnan().any()
            for name, value in zip(Gates._fields, gates, strict=True)
        }

    def validation_step(self, batch: Batch, index: int) -> None:
        """Predict the users of a batch; after the last batch run the probe, so that it changes no prediction."""
        parsed = [self.model.schema.parse(text) for text in self.model.generate(batch, self.validation_beams)]
        assert batch.profiles is not None
        predicted, faults = [result.profile for result in parsed], [result.faults for result in parsed]
        self.validation_scores.update(batch.profiles, predicted, faults)
        if self.probe is not None and index + 1 == self.trainer.num_val_batches[0]:
            self._probed = self.probe(self.model)

    def on_validation_epoch_end(self) -> None:
        """Log macro-F1 of the whole split, of the observed attributes, and what the probe found."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()
        scores = self.validation_scores.compute()
        self.validation_scores.reset()
        logs = {f"validation/{name}": macro_f1 for name, macro_f1 in scores.per_attribute.items()}
        logs |= {f"probe/{name}": value for name, value in self._probed.items()}
        self.log_dict({**logs, "validation/parse_fault_rate": scores.parse_fault_rate}, sync_dist=True)
        curves = {f"validation_loss_{name}": value for name, value in self._probed.items() if "gap" not in name}
        curves |= {name: float(torch.stack(values).mean()) for name, values in self._gates.items()}
        self._gates = {}
        self.end_epoch(scores.macro_f1, curves)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return Adam and its schedule, see :meth:`Learner.adam`."""
        return self.adam(self.model.pretrained_parts(), self.model.new_parts(), self.model.slow_parts())
