"""Lightning's Trainer as we set it up: when it stops, what it keeps, and how it goes on."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from mmprofile.errors import UserError
from mmprofile.train.loop import load_weights
from tests.support.scripted import SCORES, train

pytestmark = pytest.mark.fast


def names_of_earlier_versions(path: Path) -> None:
    """Rename what is called validation in a checkpoint to dev, as it was."""
    checkpoint = torch.load(path, weights_only=True)
    progress, states = checkpoint["progress"], checkpoint["callbacks"]
    progress["history"] = [{k.replace("validation_", "dev_"): v for k, v in row.items()} for row in progress["history"]]
    checkpoint["callbacks"] = {
        key.replace("validation/macro_f1", "dev/macro_f1"): state for key, state in states.items()
    }
    assert sum("dev/macro_f1" in key for key in checkpoint["callbacks"]) == 2  # early stopping, the best checkpoint
    assert "dev_macro_f1" in progress["history"][0]
    torch.save(checkpoint, path)


@pytest.mark.parametrize("old", [False, True])
def test_a_resumed_run_knows_its_best_epoch_and_its_patience(
    old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After 50, 40 | 45, 46 the patience of 3 is at its end; what began anew would see 45, 46, 47, ... get better."""
    train(tmp_path, 2)
    assert "epoch   1/2   loss 14.9994   validation macro-F1 50.00   " in capsys.readouterr().out
    if old:
        names_of_earlier_versions(tmp_path / "checkpoints" / "last.ckpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Be aware that when using `ckpt_path`")  # states that no callback takes
        module, _ = train(tmp_path, 7)
    assert [row["validation_macro_f1"] for row in module.history] == SCORES[:4]
    assert [row["epoch"] for row in module.history] == [1, 2, 3, 4]
    assert list(module.history[0]) == list(module.history[3])
    assert not any("dev" in name for row in module.history for name in row)
    printed = capsys.readouterr().out
    assert "continuing from" in printed
    assert "validation macro-F1 45.00" in printed
    assert "best" not in printed.replace("best.ckpt", "")
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 0


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    module, _ = train(tmp_path, 1)
    best = tmp_path / "checkpoints" / "best.ckpt"
    trained = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.zero_()
    load_weights(module, best)
    assert torch.equal(module.weight, trained)
    module.other = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match=r"best\.ckpt does not fit the model: other; delete the run's folder"):
        load_weights(module, best)
