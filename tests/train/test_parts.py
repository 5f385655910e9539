"""A batch in parts, on one process or on several, has the loss and the gradients of the whole batch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, paradigm_views
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from mmprofile.train.module import joint_loss, parts_of
from tests.model.test_auxiliary import auxiliary_model

WEIGHTS = [1.0, 0.5, 2.0, 0.25]


def identity(value: Tensor) -> Tensor:
    return value


def gradients(model: ProfileModel, losses: list[Tensor]) -> dict[str, Tensor]:
    """After the backward pass of each loss in turn."""
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(params=["decoder", "auxiliary"])
def model(
    request: pytest.FixtureRequest,
    tiny_model: Callable[..., ProfileModel],
    t5_folder: Path,
    vit_folder: Path,
    schema: Schema,
) -> ProfileModel:
    """In float64: in float32 rounding would decide on which side of a kink a state lies."""
    made = tiny_model("xattn") if request.param == "decoder" else auxiliary_model(t5_folder, vit_folder, schema)
    return made.double().eval()


@pytest.mark.fast
@pytest.mark.parametrize("weights", [WEIGHTS, None])
@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (1, 1, 1, 1)])
def test_parts_add_up_to_the_whole(
    model: ProfileModel,
    users: list[User],
    make_collator: Callable[..., Collator],
    weights: list[float] | None,
    sizes: tuple[int, ...],
) -> None:
    """Labels are missing here and there, attributes count differently, and a drawn view is not in every part."""
    views, collator = paradigm_views("multi", VIEWS), make_collator(model)
    people = [
        replace(user, profile=dict([*user.profile.items()][i:]), weights={"Stars": 0.5 * i})
        for i, user in enumerate(users)
    ]
    drawn = None if weights else [0, 2, 2, 3]
    factors = None if weights is None else torch.tensor(weights, dtype=torch.double)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    batches = [
        collator(people[start : start + size], views, epoch=1, drawn=drawn and drawn[start : start + size])
        for start, size in zip(starts, sizes, strict=True)
    ]
    whole = joint_loss(model(collator(people, views, epoch=1, drawn=drawn)), factors)
    expected = gradients(model, [whole])
    parts = parts_of([model.view_counts(batch) for batch in batches], identity)
    losses = [joint_loss(model(b), factors, part) for b, part in zip(batches, parts, strict=True)]
    assert float(sum(loss.item() for loss in losses)) == pytest.approx(whole.item(), abs=1e-6)
    found = gradients(model, losses)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6)


RUN = [
    "experiment=smoke",
    "data.prepare.source.users=60",
    "trainer.progress=false",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "evaluation.resamples=50",
    "optim.lr_pretrained=1e-3",
    "optim.lr_new=1e-3",
]


def train(out: str, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmprofile.train", *RUN, f"name={name}", f"out={out}", *words]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=one_thread)


def trained(folder: Path, name: str, *words: str) -> dict[str, Any]:
    """Train by the command; return its metrics and the weights of its model."""
    done = train(str(folder), name, *words)
    assert done.returncode == 0, done.stderr
    weights = load_file(folder / name / "model" / "model.safetensors")
    return json.loads((folder / name / "metrics.json").read_text()) | {"weights": weights}


@pytest.mark.parametrize("schedule", ["paired", pytest.param("sampled", marks=pytest.mark.slow)])
def test_two_processes_and_micro_batches_are_one_process_with_the_whole_batch(schedule: str, tmp_path: Path) -> None:
    """Of 35 users: batches of 8 but one of 3. Adam divides by the gradients' size, so rounding shows more than in a gradient."""
    words = [f"paradigm.schedule={schedule}"]
    one = trained(tmp_path, "one", *words, "loader.batch_size=8")
    ranks = ["trainer.devices=2", "trainer.strategy=ddp_find_unused_parameters_true"]
    two = trained(tmp_path, "two", *words, "loader.batch_size=4", *ranks)
    micro = ["loader.micro_batch_size=3"]
    spread = ["trainer.devices=2", "trainer.strategy=fsdp", *micro]
    others = [two, trained(tmp_path, "fsdp", *words, "loader.batch_size=4", *spread)]
    if schedule == "sampled":
        others.append(trained(tmp_path, "micro", *words, "loader.batch_size=8", *micro))
    for other in others:
        assert other["history"][0]["loss"] == pytest.approx(one["history"][0]["loss"], abs=1e-6)
        assert other["history"][0]["validation_macro_f1"] == one["history"][0]["validation_macro_f1"]
        for name, weight in one["weights"].items():
            torch.testing.assert_close(other["weights"][name], weight, rtol=0, atol=1e-4)
    if schedule == "paired":
        # On a second machine that does not share the folder, the second process would find no checkpoint.
        (tmp_path / "two" / "metrics.json").unlink()
        (tmp_path / "0").symlink_to(tmp_path)
        done = train(f"'{tmp_path}/${{oc.env:LOCAL_RANK,0}}'", "two", *words, "loader.batch_size=4", *ranks)
        assert done.returncode == 2
        assert "error: not every process sees the same checkpoints in " in done.stderr
