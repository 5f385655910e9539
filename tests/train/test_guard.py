"""A step that is no number stops the training before it changes the model, or is left out; memory and workers in one line."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, paradigm_views
from mmprofile.model.model import ProfileModel
from mmprofile.train.guard import StepGuard
from mmprofile.train.loop import fit, make_trainer
from mmprofile.train.module import ProfileModule
from tests.support.optimizers import optim_config
from tests.support.scripted import Numbers, Scripted, settings, train

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_within_the_step(factor: float, tmp_path: Path) -> None:
    module = Scripted(events={("step", 1, 1): lambda: factor})
    with pytest.raises(
        UserError, match=r"^step 4: the norm of the gradients is (nan|inf).*: lower optim\.lr_pretrained"
    ):
        train(tmp_path, 7, module=module)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert torch.equal(module.weight, checkpoint["state_dict"]["weight"])  # as step 3 has left it


@pytest.mark.parametrize("resumed", [False, True])
def test_a_step_is_left_out_and_counted(resumed: bool, tmp_path: Path) -> None:
    """The model is as it was before the step, and the step's loss is in no mean."""
    kept: list[Tensor] = []
    module = Scripted(guard=StepGuard(on_nan="skip"))

    def spoil() -> float:
        kept.append(module.weight.detach().clone())
        return math.nan

    def stop() -> None:
        kept.append(module.weight.detach().clone())
        raise RuntimeError("stop")

    module.events = {("step", 1, 0): spoil, ("step", 1, 1): stop}
    with pytest.raises(RuntimeError, match="stop"):
        train(tmp_path, 3, module=module)
    assert torch.equal(*kept)
    again = Scripted(guard=StepGuard(on_nan="skip"), events={} if resumed else {("step", 1, 0): lambda: math.nan})
    if not resumed:
        (tmp_path / "other").mkdir()
    again, _ = train(tmp_path if resumed else tmp_path / "other", 3, module=again)
    assert again.guard.skipped == 1
    assert all(math.isfinite(row["loss"]) for row in again.history)
    assert len(again.history) == 3


def test_step_view_and_users_are_named_and_the_batch_is_saved(
    tiny_model: Callable[..., ProfileModel],
    users: list[User],
    make_collator: Callable[..., Collator],
    tmp_path: Path,
) -> None:
    model, views = tiny_model("xattn"), paradigm_views("multi", VIEWS)
    assert model.fusion is not None
    with torch.no_grad():
        next(model.fusion.parameters()).fill_(math.nan)  # which only views with photos read
    batch = make_collator(model)(users, views)
    module = ProfileModule(model, views, [1.0] * 4, optim_config(), steps=1, guard=StepGuard(tmp_path))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    said = (
        r"^step 1: the loss of the view fusion is nan \(users [\w-]+, [\w-]+, [\w-]+, \.\.\.\); "
        r"the batch is saved in .*step-1-rank-0\.pt: lower"
    )
    with pytest.raises(UserError, match=said):
        trainer.fit(module, DataLoader([batch], batch_size=None, collate_fn=lambda each: each))
    saved = torch.load(tmp_path / "step-1-rank-0.pt", weights_only=True)
    assert saved["users"] == batch.users
    assert saved["views"] == [view.name for view in views]
    assert math.isnan(saved["losses"]["fusion"])
    assert math.isfinite(saved["losses"]["text"])
    assert torch.equal(saved["text_ids"], batch.text_ids)


def test_too_little_memory_names_the_batch(
    tiny_model: Callable[..., ProfileModel], users: list[User], make_collator: Callable[..., Collator]
) -> None:
    guard = StepGuard()
    guard.batch = make_collator(tiny_model("xattn"))(users, paradigm_views("multi", VIEWS))
    machine = r"^this machine has too little memory for a batch of 4 users in 4 views \(\d+ texts"
    with pytest.raises(UserError, match=machine), guard.explained():
        torch.empty(1 << 60)
    gpu = r"^the GPU has too little memory .*: lower loader\.micro_batch_size, which changes no result"
    with pytest.raises(UserError, match=gpu), guard.explained():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(RuntimeError, match="another"), guard.explained():
        raise RuntimeError("another")


class Fragile(Numbers):
    """Batches that a process makes, which is killed while it makes the second epoch's."""

    def train_dataloader(self) -> DataLoader:
        class Items(torch.utils.data.Dataset):
            def __getitem__(self, index: int) -> Tensor:
                if index == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                return torch.tensor(float(index))

            def __len__(self) -> int:
                return 4

        return DataLoader(Items(), batch_size=2, num_workers=1)


def test_a_killed_worker_is_one_line(tmp_path: Path) -> None:
    trainer = make_trainer(settings(2), tmp_path, "32-true")
    with pytest.raises(UserError, match=r"^a process that makes batches was killed.*loader\.workers=0"):
        fit(trainer, Scripted(), Fragile(), tmp_path)


def test_another_word() -> None:
    with pytest.raises(UserError, match=r"trainer\.on_nan='ignore' is not one of stop, skip"):
        StepGuard(on_nan="ignore")
