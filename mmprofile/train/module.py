"""The LightningModules: joint loss over views, Adam with two learning rates, dev macro-F1."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from mmprofile.config.settings import OptimConfig
from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import View
from mmprofile.model.fusion import Gates
from mmprofile.model.model import Output, ProfileModel
from mmprofile.profile.metrics import Scores, score
from mmprofile.profile.schema import Profile
from mmprofile.train.probe import Probe

SCHEDULES = ("constant", "linear", "cosine")


def joint_loss(output: Output, weights: Tensor | None) -> Tensor:
    """The loss of a step.

    Args:
        output: of the model.
        weights: (views,) for the ``paired`` schedule: weighted mean of the views' losses. None for ``sampled``: the mean
            over all target tokens, views having been drawn by their weights; the same in expectation.
    """
    losses = output.view_losses if output.view_auxiliary is None else output.view_losses + output.view_auxiliary
    if weights is None:
        return (losses * output.view_tokens).sum() / output.view_tokens.sum().clamp_min(1)
    return (losses * weights).sum() / weights.sum()


def schedule_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Learning rate factor at ``step`` of ``total``: linear warm-up over a share of the steps, then the schedule."""
    rise = max(1, round(warmup * total))
    if step < rise and warmup > 0:
        return (step + 1) / rise
    done = min(1.0, (step - rise) / max(1, total - rise)) if warmup > 0 else min(1.0, step / max(1, total))
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
    return 1.0


def check_optim(optim: OptimConfig) -> None:
    """Whether there is such a schedule.

    Raises:
        UserError: there is not.
    """
    if optim.schedule not in SCHEDULES:
        raise UserError(f"optim.schedule={optim.schedule!r} is not one of {', '.join(SCHEDULES)}")


class Learner(pl.LightningModule):
    """What every training has: Adam under a schedule, a learning curve that goes on after a restart, and checkpoints that
    leave out what is frozen.

    Args:
        optim: learning rates and schedule.
        steps: optimizer steps of the whole training (counted by the caller: asking Lightning's
            ``estimated_stepping_batches`` here would break exact resumption).
    """

    def __init__(self, optim: OptimConfig, steps: int) -> None:
        super().__init__()
        check_optim(optim)
        self.optim, self.steps = optim, steps
        self.strict_loading = (
            False  # what is frozen is not in a checkpoint: all of a large model beside its adapter, say
        )
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._losses: list[Tensor] = []
        self._started = time.perf_counter()

    def on_train_epoch_start(self) -> None:
        """Starts the clock of this epoch."""
        self._started = time.perf_counter()

    def end_epoch(self, macro_f1: float, more: Mapping[str, float] | None = None) -> None:
        """Logs the score on dev and adds the epoch to the learning curve, with what ``more`` there is to be kept of it."""
        self.log("dev/macro_f1", macro_f1, prog_bar=True, sync_dist=True)
        if self.trainer.sanity_checking:
            return
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        loss = float(torch.stack(self._losses).mean()) if self._losses else float("nan")
        self._losses = []
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "loss": loss,
                "dev_macro_f1": macro_f1,
                "seconds": seconds,
                **(more or {}),
            }
        )

    def adam(self, pretrained: Sequence[nn.Parameter], new: Sequence[nn.Parameter]) -> Any:
        """Adam: one group for what came pretrained, one for what is new; and its schedule."""
        optim = self.optim
        groups = [
            {"params": list(pretrained), "lr": optim.lr_pretrained},
            {"params": list(new), "lr": optim.lr_new},
        ]
        fused = self.device.type == "cpu" or None  # there it takes a sixth of the time
        adam = torch.optim.Adam([g for g in groups if g["params"]], weight_decay=optim.weight_decay, fused=fused)
        schedule = LambdaLR(adam, lambda step: schedule_factor(step, self.steps, optim.warmup, optim.schedule))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning refuses to clip for a fused optimizer in bf16, for the sake of fp16's scaler; there is none here."""
        if gradient_clip_val and optimizer.defaults["fused"]:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the learning curve and the seconds spent, as plain data, and leaves out what is frozen."""
        for name in self.frozen():
            checkpoint["state_dict"].pop(name, None)
        checkpoint["progress"] = {"history": self.history, "seconds": self.seconds}

    def frozen(self) -> list[str]:
        """Names of the parameters that are not trained."""
        return [name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them up again."""
        self.history = list(checkpoint["progress"]["history"])
        self.seconds = float(checkpoint["progress"]["seconds"])


class ProfileModule(Learner):
    """Training of a :class:`ProfileModel`.

    Args:
        model: the model.
        views: the paradigm's views.
        weights: a weight per view; None for the ``sampled`` schedule.
        optim, steps: see :class:`Learner`.
        dev_beams: beams for the dev split, see :meth:`mmprofile.model.model.ProfileModel.generate`.
        probe: what is asked of the model in each epoch; None: nothing.
    """

    def __init__(
        self,
        model: ProfileModel,
        views: Sequence[View],
        weights: Sequence[float] | None,
        optim: OptimConfig,
        steps: int,
        dev_beams: int | None = None,
        probe: Probe | None = None,
    ) -> None:
        super().__init__(optim, steps)
        self.model, self.views, self.dev_beams, self.probe = model, tuple(views), dev_beams, probe
        # transformers hands models out in evaluation mode and Lightning keeps the mode it finds: no dropout otherwise.
        self.model.train()
        self.weights: Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)
        self._dev: list[tuple[Profile, str]] = []
        self._probed: dict[str, float] = {}
        self._gates: dict[str, list[Tensor]] = {}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step of the joint loss; every view's loss is logged and, as often as that is written, its gates."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        output = self.model(batch, gates=every > 0 and (self.global_step + 1) % every == 0)
        loss = joint_loss(output, self.weights)
        present = output.view_tokens > 0
        logs = {f"loss/{view.name}": output.view_losses[i].detach() for i, view in enumerate(batch.views) if present[i]}
        if output.view_gates is not None:
            for view, found in zip(batch.views, output.view_gates, strict=True):
                if not found.isnan().any():
                    gates = {f"{name}/{view.name}": value for name, value in zip(Gates._fields, found, strict=True)}
                    logs |= gates
                    for name, value in gates.items():
                        self._gates.setdefault(name, []).append(value)
        self.log_dict(logs, batch_size=len(batch.users))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.users))
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Predicts the dev users; behind the last of them the probe, so that none of it changes what is predicted."""
        texts = self.model.generate(batch, self.dev_beams)
        assert batch.profiles is not None
        self._dev += zip(batch.profiles, texts, strict=True)
        if self.probe is not None and index + 1 == self.trainer.num_val_batches[0]:
            self._probed = self.probe(self.model)

    def on_validation_epoch_end(self) -> None:
        """Dev macro-F1 over the whole split, of the observed attributes: labels of others are no gold."""
        parsed = [self.model.schema.parse(text) for _, text in self._dev]
        scores: Scores = score(
            self.model.schema.observed,
            [gold for gold, _ in self._dev],
            [one.profile for one in parsed],
            [one.faults for one in parsed],
            resamples=0,
        )
        self._dev = []
        names = {f"dev/{name}": one.macro_f1 for name, one in scores.per_attribute.items()}
        names |= {f"probe/{name}": value for name, value in self._probed.items()}
        self.log_dict({**names, "dev/parse_fault_rate": scores.parse_fault_rate}, sync_dist=True)
        kept = {f"dev_loss_{name}": value for name, value in self._probed.items() if "gap" not in name}
        kept |= {name: float(torch.stack(values).mean()) for name, values in self._gates.items()}
        self._gates = {}
        self.end_epoch(scores.macro_f1, kept)

    def configure_optimizers(self) -> Any:
        """See :meth:`Learner.adam`."""
        return self.adam(self.model.pretrained_parts(), self.model.new_parts())
