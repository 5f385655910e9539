"""Classifiers instead of a decoder in the commands: settings, training, evaluation and prediction."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.evaluate import run as evaluate
from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.predict.rows import InputUser
from mmprofile.predict.run import predict
from mmprofile.predict.users import UserPhotos
from mmprofile.train import run as train

KINDS = ("coopnet", "late_fusion")


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.head=crf"], r"model.head='crf' is not one of lm, coopnet, late_fusion"),
        (["model.head=coopnet"], r"model.head=coopnet needs model.fusion.kind=none"),
        (["model=late_fusion", "model.target=attributes"], r"and model.target=profile"),
    ],
)
def test_settings_are_refused_before_anything_is_loaded(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        train.check_settings(load_config("train", overrides))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module", params=[("coopnet", "multi"), ("late_fusion", "basic")], ids=KINDS)
def trained(out: Path, request: pytest.FixtureRequest) -> Path:
    """A smoke training of a system, as the command does it."""
    name, paradigm = request.param
    smoke = ["experiment=smoke", "evaluation.resamples=20", "trainer.progress=false"]
    train.main(load_config("train", [*smoke, f"model={name}", f"paradigm={paradigm}", f"out={out}", f"name={name}"]))
    return out / name


def test_training_and_evaluation_agree(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    evaluate.main(load_config("evaluate", [f"run={trained}"]))
    again = json.loads((trained / "evaluation-test.json").read_text())
    assert again["test"] == metrics["test"]
    assert (trained / "predictions-test.jsonl").read_text() == (trained / "predictions.jsonl").read_text()
    assert metrics["test"]["parse_fault_rate"] == 0
    assert metrics["test"]["unpaired"]["per_attribute"] != metrics["test"]["per_attribute"]
    assert metrics["history"][1]["loss"] < metrics["history"][0]["loss"]
    model = load_run(str(trained)).model
    assert metrics["n_parameters"] == sum(p.numel() for p in model.parameters())


def test_users_of_ones_own(trained: Path) -> None:
    model = load_run(str(trained)).model
    users = [InputUser("ann", ["Loved the pizza."])]
    [row] = predict(model, users, UserPhotos(trained, lambda path: None, model.transform), None, 4)
    assert row["faults"] == []
    assert list(row["confidence"]) == list(model.schema.names)
    assert all(0 < share <= 1 for share in row["confidence"].values())


def test_the_mix_is_fitted_to_dev_only(trained: Path) -> None:
    run = load_run(str(trained))
    model = run.model
    assert model.head is not None
    stored = model.head.mix.clone()
    close(stored.sum(1), torch.ones(6))
    data = run_data(run)
    plain = {split: list(data.draws.of(split)) for split in ("train", "validation", "test")}

    def fitted(*changed: str) -> Tensor:
        """The mix where each user of some splits has the profile of the next."""
        assert model.head is not None
        for split, drawn in plain.items():
            users = [user for _, user in drawn]
            nexts = [*users[1:], users[0]] if split in changed else users
            profiles = [replace(user, profile=other.profile) for user, other in zip(users, nexts, strict=True)]
            data.draws.of(split)[:] = [(rows, user) for (rows, _), user in zip(drawn, profiles, strict=True)]
        model.head.mix.fill_(1 / model.head.mix.shape[1])
        model.fit_validation(data.val_dataloader())
        return model.head.mix.clone()

    close(fitted(), stored, 1e-6)
    assert torch.equal(fitted("train", "test"), fitted())
    if model.settings["head"]["kind"] == "coopnet":
        assert (fitted("validation") - stored).abs().max() > 0.01
        assert (stored - 1 / 3).abs().max() > 0.05
    else:
        close(stored, torch.ones(6, 1))
