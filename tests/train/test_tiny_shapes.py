"""Every model that conf/model names, in its tiny shape: it learns, is saved, and writes profiles."""

from pathlib import Path

import pytest
import torch

from mmprofile.config.compose import load_config
from mmprofile.evaluate.runs import make_data
from mmprofile.inputs.data import prepare_data
from mmprofile.model.exports import load_pretrained
from mmprofile.profile.schema import Schema
from mmprofile.train.checks import check_settings
from mmprofile.train.module import ProfileModule, joint_loss
from mmprofile.train.run import make_model


@pytest.fixture(scope="module")
def small_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared city of few users."""
    cfg = load_config("train", ["experiment=smoke"])
    return prepare_data(cfg.data, Schema.from_config(cfg.profile))


@pytest.mark.parametrize(
    "name", ["ours", "basic", "flan_t5", "bart", "od_tup", "llama", "chatglm", "coopnet", "late_fusion", "select_att",
             "vlp_mabsa", "aom", "llava"],
)  # fmt: skip
def test_every_tiny_shape_learns_in_all_views_and_writes(name: str, small_city: Path, tmp_path: Path) -> None:
    fusion = load_config("train", [f"model={name}", "paradigm=uni"]).model
    blind = fusion.fusion.kind == "none" and fusion.head == "lm"
    cfg = load_config("train", [f"model={name}", f"paradigm={'uni' if blind else 'both'}", "experiment=smoke"])
    check_settings(cfg)
    torch.manual_seed(0)
    schema = Schema.from_config(cfg.profile)
    model = make_model(cfg, schema)
    data = make_data(cfg, model, small_city)
    module = ProfileModule(model, data.views, data.loss_weights, cfg.optim, steps=100)
    adam = module.configure_optimizers()["optimizer"]
    for group in adam.param_groups:  # its schedule begins at 0
        group["lr"] = 1e-3
    batch = data.collator(data.users("train")[:4], data.views)
    losses = []
    for _ in range(6):
        output = model(batch)
        assert (output.view_tokens > 0).all()
        losses.append(joint_loss(output, module.weights).item())
        adam.zero_grad()
        joint_loss(output, module.weights).backward()
        adam.step()
    assert losses[-1] < 0.9 * losses[0]
    assert sum(p.numel() for p in model.parameters()) < 2_600_000
    model.save_pretrained(tmp_path)
    users = data.users("test")[:3]
    view = data.collator(users, data.views[:1])
    texts = load_pretrained(tmp_path).generate(view)
    assert texts == model.eval().generate(view)
    assert all(schema.parse(text).faults == [] for text in texts)
