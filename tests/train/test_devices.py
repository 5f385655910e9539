"""The device of a training: what Lightning would take, or one line."""

import pytest
import torch
from omegaconf import OmegaConf

from mmprofile.config.compose import load_config
from mmprofile.config.settings import TrainerConfig
from mmprofile.doctor.machine import chosen_device
from mmprofile.errors import UserError
from mmprofile.train import devices
from mmprofile.train import run as train

pytestmark = pytest.mark.fast


def trainer(*words: str) -> TrainerConfig:
    return load_config("train", [*words]).trainer


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_not_here_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert devices.choose_device(trainer("trainer=cpu")) == devices.choose_device(trainer()) == "cpu"
    assert chosen_device(trainer()).kind == "cpu"
    for asked in ("gpu", "cuda", "mps"):
        with pytest.raises(UserError, match=f"trainer.accelerator={asked}: torch finds no .* here; take trainer=cpu"):
            devices.choose_device(trainer(f"trainer.accelerator={asked}"))
    out = tmp_path_factory.mktemp("out") / "outputs"
    with pytest.raises(UserError, match="torch finds no GPU here"):  # before anything is written
        train.main(load_config("train", ["experiment=smoke", "trainer=gpu", f"out={out}"]))
    assert not out.exists()


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose_device(trainer("trainer=ddp")) == "cuda"
    assert devices.choose_device(trainer("trainer=ddp", "trainer.devices=2")) == "cuda"
    with pytest.raises(UserError, match=r"trainer\.devices=4: there are 2 GPUs here; ask for that many at most"):
        devices.choose_device(trainer("trainer=ddp", "trainer.devices=4"))


@pytest.mark.parametrize(("asked", "count"), [(1, 1), (4, 4), (-1, 1), ("auto", 1), ("2", 2), ([0, 3], 4)])
def test_devices_asked_for(asked: object, count: int) -> None:
    plain = OmegaConf.to_container(OmegaConf.create({"devices": asked}))["devices"]  # type: ignore[index, call-overload]
    assert devices._wanted(plain) == count


def test_fsdp_without_a_gpu() -> None:
    """On CPUs where that is asked for."""
    with pytest.raises(UserError, match=r"^trainer\.accelerator=gpu: torch finds no GPU here"):
        devices.choose_device(trainer("trainer=fsdp"))
    assert devices.choose_device(trainer("trainer=fsdp", "trainer.accelerator=cpu")) == "cpu"
