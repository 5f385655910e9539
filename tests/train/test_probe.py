"""What is seen during training: gates and probe against users looked at one by one, and training that does not notice."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from mmprofile.evaluate.predictions import UNPAIRED_SEED, predict_users, score_predictions
from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, View, donors, paradigm_views
from mmprofile.inspection.inspector import Inspector
from mmprofile.model.fusion import Gates
from mmprofile.model.model import ProfileModel
from mmprofile.train.module import ProfileModule
from mmprofile.train.probe import Probe
from tests.support.optimizers import optim_config

BOTH = paradigm_views("both", VIEWS)
Scalars = dict[str, dict[int, float]]


def scalars(folder: Path) -> Scalars:
    """Tag -> step -> value, as TensorBoard reads them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


class Data:
    """As much of a datamodule as a probe asks for."""

    def __init__(self, collator: Collator, views: Sequence[View], users: list[User], eval_batch_size: int = 64) -> None:
        self.collator, self.views, self.people, self.eval_batch_size = collator, views, users, eval_batch_size

    def users(self, split: str) -> list[User]:
        assert split == "validation"
        return self.people


@pytest.mark.parametrize("tokens", ["cls", "patch"])
@pytest.mark.parametrize("encoding", ["joint", "segments"])
def test_gates_of_a_step_are_those_of_its_users_one_by_one(
    tokens: str,
    encoding: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
) -> None:
    """One of the four has no photos, their texts and numbers of photos differ: padding and who has none do not count."""
    model = tiny_model("xattn", tokens, vocabulary="schema", heads=2)
    collator = make_collator(model, encoding=encoding)
    with torch.no_grad():
        found = model(collator(users, BOTH, epoch=3), gates=True).view_gates
        for v, view in enumerate(BOTH):
            rows = []
            for user in users:
                fused = model.encode(collator([user], BOTH, epoch=3, drawn=[v]))
                if fused.gate is not None:
                    gate, added = fused.gate.numpy(), (fused.gate * fused.visual).numpy()
                    weights = fused.attention[0].numpy()  # alone, nothing is padded
                    support = (weights > 0).sum(-1).mean()
                    rows.append([np.abs(gate).mean(), np.abs(added).mean(), support, (weights == 0).mean()])
            assert len(rows) == (3 if view.photos != "none" else 0)
            if rows:
                np.testing.assert_allclose(found[v].numpy(), np.mean(rows, 0), atol=1e-5)
            else:
                assert found[v].isnan().all()
    seen = [user for user in users if user.photos]
    inspected = Inspector(model, collator, BOTH, users).gates(seen)
    np.testing.assert_allclose(found[0].numpy(), [part.mean() for part in inspected], atol=1e-5)


def test_gates_are_told_if_asked_and_if_there_are_any(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    for fusion, people, gates, there in (
        ("xattn", users, False, False),
        ("xattn", users, True, True),
        ("select", users, True, True),
        ("xattn", [users[1]], True, False),  # no photos
        ("concat", users, True, False),
        ("none", users, True, False),
    ):
        model = tiny_model(fusion, vocabulary="schema")
        output = model(make_collator(model)(people, BOTH), gates=gates)
        assert (output.view_gates is not None) == there
        if there:
            assert not output.view_gates.requires_grad


def loss_of(model: ProfileModel, collator: Collator, view: View, users: Sequence[User]) -> float:
    """Mean over the target tokens of all, each user alone."""
    with torch.no_grad():
        found = [model(collator([user], [view])) for user in users]
    return float(sum(one.view_totals for one in found) / sum(one.view_tokens for one in found))


@pytest.mark.parametrize("encoding", ["joint", "segments"])
@pytest.mark.parametrize(("modality", "kinds"), [("both", 3), ("multi", 2), ("uni", 2)])
def test_the_probe_is_the_loss_of_users_changed_by_hand(
    modality: str,
    kinds: int,
    encoding: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
) -> None:
    model = tiny_model("none" if modality == "uni" else "xattn", vocabulary="schema").eval()
    collator, views = make_collator(model, encoding=encoding), paradigm_views(modality, VIEWS)
    probe = Probe.of(Data(collator, views, users, eval_batch_size=5), 10, UNPAIRED_SEED)  # one user at a time, or two
    assert probe is not None
    own = [users[0], users[2], users[3]]
    others = [own[donor] for donor in donors(3, UNPAIRED_SEED)]
    assert all(user.user_id != other.user_id for user, other in zip(own, others, strict=True))
    swapped = [replace(u, photos=o.photos, captions=o.captions) for u, o in zip(own, others, strict=True)]
    pixels = [replace(u, photos=o.photos) for u, o in zip(own, others, strict=True)]
    expected = {
        "paired": loss_of(model, collator, views[0], own),
        "unpaired": loss_of(model, collator, views[0], swapped),
    }
    expected["gap"] = expected["unpaired"] - expected["paired"]
    if kinds == 3:
        expected["unpaired_pixels"] = loss_of(model, collator, views[0], pixels)
        expected["gap_pixels"] = expected["unpaired_pixels"] - expected["paired"]
    state = torch.get_rng_state()
    found = probe(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert found == pytest.approx(expected, abs=1e-5)
    assert all(abs(found[name]) > 1e-4 for name in found if "gap" in name)


def test_who_is_asked(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    collator = make_collator(tiny_model("xattn"))

    def asked(count: int, people: list[User] = users, views: Sequence[View] = BOTH) -> list[str] | None:
        probe = Probe.of(Data(collator, views, people), count, UNPAIRED_SEED)
        return None if probe is None else [same[0].user_id for same in probe.users]

    assert asked(99) == ["user-0", "user-2", "user-3"]  # user-1 has no photos
    assert asked(2) == ["user-0", "user-2"]
    assert asked(0) is asked(1) is None  # nobody else whose photos could be shown
    assert asked(9, users[1:3]) is None
    assert asked(9, views=paradigm_views("text", ["text"])) is None


def batches(collator: Collator, users: list[User], views: Sequence[View]) -> DataLoader:
    made = [collator(some, views, epoch=i) for i, some in enumerate((users[:2], users[2:], users[1:3], users[::3]))]
    return DataLoader(made, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def train(
    model: ProfileModel, collator: Collator, users: list[User], views: Sequence[View], count: int, **options: Any
) -> ProfileModule:
    """Two epochs of four steps with dropout, watched in every step, or not at all."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.2
    probe = Probe.of(Data(collator, views, users), count, UNPAIRED_SEED)
    optim = optim_config(lr_pretrained=0.01, lr_new=0.01, weight_decay=0.0, warmup=0.0, schedule="constant")
    module = ProfileModule(model, views, [1.0] * len(views), optim, steps=8, probe=probe)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"logger": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10**6, **quiet, **options}
    torch.manual_seed(5)
    validation = DataLoader([collator(users, views[:1])], batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    pl.Trainer(max_epochs=2, accelerator="cpu", **options).fit(module, batches(collator, users, views), validation)
    return module


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_does_not_notice_that_it_is_watched(
    accumulate: int,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
    tmp_path: Path,
) -> None:
    def run(count: int, **options: Any) -> ProfileModule:
        model = tiny_model("xattn", vocabulary="schema")
        return train(model, make_collator(model), users, BOTH, count, accumulate_grad_batches=accumulate, **options)

    logger = TensorBoardLogger(tmp_path, name="", version="events")
    watched = run(9, logger=logger, log_every_n_steps=1, num_sanity_val_steps=1)
    plain = run(0)
    for (name, one), other in zip(watched.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    keys = ("epoch", "loss", "validation_macro_f1")
    assert [[row[k] for k in keys] for row in watched.history] == [[row[k] for k in keys] for row in plain.history]
    assert watched.history[0]["loss"] != watched.history[1]["loss"]
    assert set(plain.history[0]) == {*keys, "seconds"}

    found, steps = scalars(tmp_path / "events"), 4 // accumulate
    ends, every = [steps - 1, 2 * steps - 1], list(range(2 * steps))
    shown = {f"{name}/{view.name}" for name in Gates._fields for view in BOTH if view.photos != "none"}
    asked = {f"probe/{name}" for name in ("paired", "unpaired", "unpaired_pixels", "gap", "gap_pixels")}
    assert {tag for tag in found if tag.split("/")[0] in (*Gates._fields, "probe")} == shown | asked
    assert all(list(found[tag]) == every for tag in (*shown, *(f"loss/{view.name}" for view in BOTH)))
    assert all(list(found[tag]) == ends for tag in (*asked, "validation/macro_f1", "validation/Stars"))
    for name in ("paired", "unpaired", "unpaired_pixels"):
        assert list(found[f"probe/{name}"].values()) == pytest.approx(
            [r[f"validation_loss_{name}"] for r in watched.history]
        )
    if accumulate == 1:  # else a step is more than the batch that is written of it
        for tag in shown:
            means = np.array([*found[tag].values()]).reshape(2, steps).mean(1)
            assert [row[tag] for row in watched.history] == pytest.approx(means, rel=1e-5)
    # What was written last is said of the weights at the end.
    model, collator = watched.model.eval(), make_collator(watched.model)
    own = [user for user in users if user.photos]
    assert found["probe/paired"][ends[1]] == pytest.approx(loss_of(model, collator, BOTH[0], own), abs=1e-5)


@pytest.mark.parametrize(("modality", "fusion"), [("text", "none"), ("uni", "none"), ("multi", "concat")])
def test_without_gates_or_photos_nothing_is_said_of_them(
    modality: str,
    fusion: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    model = tiny_model(fusion, vocabulary="schema")
    views = paradigm_views(modality, ["text"] if modality == "text" else VIEWS)
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    module = train(model, make_collator(model), users, views, 9, logger=logger, log_every_n_steps=1)
    found = {tag for tag in scalars(tmp_path / "events") if tag.split("/")[0] in (*Gates._fields, "probe")}
    assert found == (set() if modality == "text" else {"probe/paired", "probe/unpaired", "probe/gap"})
    assert ("validation_loss_paired" in module.history[0]) == (modality != "text")
    assert not [str(one.message) for one in recwarn if "probe" in str(one.message) or "gate" in str(one.message)]


def test_two_ranks_tell_what_the_model_that_they_leave_tells(tmp_path: Path) -> None:
    """A run by two processes: its event file has the gates of its tenth step and, once, the probe of its only epoch."""
    words = ["experiment=smoke", "name=two", "out=out", "loader.batch_size=1", "trainer.max_epochs=1", "probe.users=8"]
    words += ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp_find_unused_parameters_true"]
    command = [sys.executable, "-m", "mmprofile.train", *words, "trainer.progress=false"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "out" / "two"
    found = scalars(run / "tensorboard")
    assert list(found["added/fusion"]) == list(found["loss/fusion"]) == [9]
    assert found["added/fusion"][9] > 0
    assert 1 <= found["support/fusion"][9] <= 3
    (step,) = found["validation/macro_f1"]
    loaded = load_run(str(run))
    model, data = loaded.model, run_data(loaded)
    own = [user for user in data.users("validation") if user.photos][:8]
    others = [own[donor] for donor in donors(8, UNPAIRED_SEED)]
    swapped = [replace(u, photos=o.photos, captions=o.captions) for u, o in zip(own, others, strict=True)]
    paired, apart = (loss_of(model, data.collator, data.views[0], some) for some in (own, swapped))
    assert found["probe/paired"] == {step: pytest.approx(paired, abs=1e-4)}
    assert found["probe/gap"] == {step: pytest.approx(apart - paired, abs=1e-4)}
    (row,) = json.loads((run / "metrics.json").read_text())["history"]
    assert row["validation_loss_unpaired"] == pytest.approx(apart, abs=1e-4)
    scores = score_predictions(model.schema, predict_users(model, data, data.users("validation")), resamples=0)
    assert row["validation_macro_f1"] == scores.macro_f1  # each rank scores the whole split: nobody counts twice
