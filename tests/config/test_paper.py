"""``experiment=paper`` with small random stand-ins in hub layout for its two checkpoints: it builds, trains and predicts."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmprofile.config.compose import load_config
from mmprofile.evaluate.runs import make_data
from mmprofile.profile.schema import Schema
from mmprofile.train.devices import choose_precision
from mmprofile.train.module import ProfileModule
from mmprofile.train.run import make_model

pytestmark = pytest.mark.fast


def test_the_papers_experiment_builds_and_learns(t5_folder: Path, vit_folder: Path) -> None:
    cfg = load_config(
        "train",
        [
            "experiment=paper",
            f"model.text.name={t5_folder}",
            f"model.vision.name=local-dir:{vit_folder}",
            "data.prepare.source.users=40",
            "data.prepare.split={train: 12, validation: 4, test: 4}",
        ],
    )
    schema = Schema.from_dict(OmegaConf.to_container(cfg.profile))  # type: ignore[arg-type]
    model = make_model(cfg, schema)
    assert model.vision is not None
    assert model.vision.trainable
    assert model.fusion.gate == "tanh"
    assert model.fusion.attention.norm == "sparsemax"

    data = make_data(cfg, model, instantiate(cfg.data.prepare, _partial_=True)(schema=schema))
    assert [view.name for view in data.views] == ["fusion", "text", "masked_image", "masked_profile"]
    module = ProfileModule(model, data.views, data.loss_weights, cfg.optim, steps=3)
    optimizers = module.configure_optimizers()
    adam, schedule = optimizers["optimizer"], optimizers["lr_scheduler"]["scheduler"]
    assert type(adam) is torch.optim.Adam
    assert [group["lr"] for group in adam.param_groups] == [5e-5, 5e-5]
    counted = sum(p.numel() for group in adam.param_groups for p in group["params"])
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)

    batch = next(iter(data.train_dataloader()))
    assert len(batch.users) == 4
    assert len(batch.row_tokens) == 16
    assert batch.text_ids.shape[1] <= 600
    losses = []
    for _ in range(3):
        loss = module.model(batch).view_losses.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    texts = model.eval().generate(next(iter(data.val_dataloader())), cfg.evaluation.beams)
    assert all(schema.parse(text).faults == [] for text in texts)


@pytest.mark.parametrize("asked", ["auto", "32-true", "bf16-mixed"])
def test_precisions_that_t5_survives(asked: str) -> None:
    chosen = choose_precision(asked, "cpu")
    assert chosen == ("32-true" if asked == "auto" else asked)
