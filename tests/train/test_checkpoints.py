"""Checkpoints: a training that is killed anywhere goes on as if nothing had happened; damaged files; signals; a full disk."""

import os
import pickle
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmprofile.errors import Terminated, UserError
from mmprofile.train.checkpoints import BEFORE, BEST, LAST, damage
from mmprofile.train.loop import load_weights
from tests.support.scripted import Scripted, train

pytestmark = pytest.mark.fast


class Killed(Exception):
    """The process ends here, as far as the training is concerned."""


def kill() -> None:
    raise Killed


def curve(module: Scripted) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in module.history]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    return train(tmp_path_factory.mktemp("undisturbed"), 7)[0]


PLACES = [(kind, epoch, index) for epoch in range(3) for kind, index in (("step", 0), ("step", 1), ("validation", 0))]


@pytest.mark.parametrize("every", [1, 2, 3, 500])
@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere(every: int, place: tuple[str, int, int], undisturbed: Scripted, tmp_path: Path) -> None:
    """The learning curve has the losses of all steps of an epoch, and its validation, which chooses the best epoch."""
    with pytest.raises(Killed):
        train(tmp_path, 7, every, Scripted(events={place: kill}))
    module, _ = train(tmp_path, 7, every)
    assert curve(module) == curve(undisturbed)
    assert torch.equal(module.weight, undisturbed.weight)
    assert torch.load(tmp_path / "checkpoints" / BEST, weights_only=True)["epoch"] == 0


def test_a_training_whose_patience_was_at_its_end_trains_no_more(undisturbed: Scripted, tmp_path: Path) -> None:
    """As if it had been killed while the test users were scored."""
    first, _ = train(tmp_path, 7)
    again, _ = train(tmp_path, 7)
    assert len(first.history) == 4
    assert curve(again) == curve(first) == curve(undisturbed)


def test_a_moved_run_remembers_its_best_score(undisturbed: Scripted, tmp_path: Path) -> None:
    train(tmp_path / "here", 2)
    (tmp_path / "here").rename(tmp_path / "there")
    module, trainer = train(tmp_path / "there", 7)
    assert curve(module) == curve(undisturbed)
    best = tmp_path / "there" / "checkpoints" / BEST
    assert torch.load(best, weights_only=True)["epoch"] == 0
    assert trainer.checkpoint_callback.best_model_path == str(best)  # type: ignore[union-attr]
    assert not (tmp_path / "here").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def code(path: Path) -> None:
    class Opens:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.parent / "executed"),)

    torch.save(Opens(), path)


def text(path: Path) -> None:
    path.write_bytes(pickle.dumps("text"))


@pytest.mark.parametrize("harm", [cut, empty, foreign, code, text])
def test_after_a_damaged_checkpoint_comes_the_one_before(
    harm: Callable[[Path], None], undisturbed: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, 2)
    checkpoints = tmp_path / "checkpoints"
    harm(checkpoints / LAST)
    module, _ = train(tmp_path, 7)
    assert f"{LAST} is damaged (" in (line := capsys.readouterr().out)
    assert f"continuing from {checkpoints / BEFORE}" in line
    assert curve(module) == curve(undisturbed)
    for name in (LAST, BEFORE):
        harm(checkpoints / name)
    with pytest.raises(
        UserError, match=rf"{LAST} is damaged \(.*; .*{BEFORE} is damaged \(.*\): remove .*checkpoints to"
    ):
        train(tmp_path, 7)
    assert not (checkpoints / "executed").exists()


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    train(tmp_path, 1)
    last = tmp_path / "checkpoints" / LAST
    assert damage(last) is None
    content = bytearray(last.read_bytes())
    weight = torch.load(last, weights_only=True)["state_dict"]["weight"].numpy().tobytes()
    content[content.index(weight)] ^= 1
    last.write_bytes(bytes(content))
    assert "wrong checksum" in str(damage(last))


@pytest.mark.parametrize("harm", [cut, empty, Path.unlink])
def test_a_damaged_best_checkpoint_is_one_line(harm: Callable[[Path], None], tmp_path: Path) -> None:
    module, _ = train(tmp_path, 1)
    best = tmp_path / "checkpoints" / BEST
    harm(best)
    with pytest.raises(UserError, match=rf"{BEST} is damaged \(.*\): remove .*checkpoints to train again"):
        load_weights(module, best)


@pytest.mark.parametrize("place", PLACES[1:6])
@pytest.mark.parametrize(("number", "stop"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_a_training_after_a_checkpoint(
    place: tuple[str, int, int], number: int, stop: type[BaseException], undisturbed: Scripted, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    asks = Scripted(events={place: lambda: os.kill(os.getpid(), number)})
    with pytest.raises(stop):
        train(tmp_path, 7, 500, asks)
    kind, epoch, index = place
    steps = 2 * epoch + (index + 1 if kind == "step" else 2)
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["global_step"] == steps
    assert signal.getsignal(number) == before
    module, _ = train(tmp_path, 7, 500)
    assert curve(module) == curve(undisturbed)


def test_a_second_signal_ends_it_at_once(undisturbed: Scripted, tmp_path: Path) -> None:
    def ask() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated):
        train(tmp_path, 7, 500, Scripted(events={("step", 1, 0): lambda: (ask(), ask())[0]}))
    assert torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["global_step"] == 2
    assert curve(train(tmp_path, 7, 500)[0]) == curve(undisturbed)


def test_slurm_requeues_a_job_that_has_written_its_checkpoint(
    undisturbed: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\nls {tmp_path}/run/checkpoints > {tmp_path}/there\necho "$@" > {tmp_path}/asked\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    slurm = {"JOB_ID": "7", "NTASKS": "1", "JOB_NAME": "profiles", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    asks = Scripted(events={("step", 1, 0): lambda: os.kill(os.getpid(), signal.SIGUSR1)})
    with pytest.raises(Terminated):
        train(tmp_path / "run", 7, 500, asks)
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert LAST in (tmp_path / "there").read_text()
    assert curve(train(tmp_path / "run", 7, 500)[0]) == curve(undisturbed)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    undisturbed: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.save

    def full(content: Any, file: Any) -> None:
        """A file that takes 1,000 bytes."""

        class Full:
            left = 1000

            def write(self, some: bytes) -> int:
                self.left -= len(some)
                if self.left < 0:
                    raise OSError(28, "No space left on device")
                return file.write(some)

            def flush(self) -> None:
                file.flush()

        real(content, Full())

    train(tmp_path, 1)
    good = (tmp_path / "checkpoints" / LAST).read_bytes()
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, 7)
    monkeypatch.undo()
    assert (tmp_path / "checkpoints" / LAST).read_bytes() == good
    assert not [*(tmp_path / "checkpoints").glob("*.tmp")]
    assert curve(train(tmp_path, 7)[0]) == curve(undisturbed)


def test_a_run_folder_that_was_removed_stays_away(tmp_path: Path) -> None:
    import shutil

    with pytest.raises(FileNotFoundError):
        train(tmp_path / "run", 7, 1, Scripted(events={("step", 1, 0): lambda: shutil.rmtree(tmp_path / "run")}))
    assert not (tmp_path / "run").exists()
