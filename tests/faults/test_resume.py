"""A run that was killed, told to end, or out of disk goes on to the very same model, predictions and scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.forkedruns import ForkedRuns, result_of

SMALL = [
    "experiment=smoke",
    "trainer.progress=false",
    "data.prepare.source.users=40",
    "data.prepare.split={train: 0.6, validation: 0.2, test: 0.2}",
    "evaluation.resamples=100",
    "loader.batch_size=4",
]
SEED = 24


@pytest.fixture(scope="module")
def runs() -> Iterator[ForkedRuns]:
    with ForkedRuns() as forked:
        yield forked


class Case:
    """A training and its undisturbed result."""

    def __init__(self, runs: ForkedRuns, folder: Path, *words: str) -> None:
        self.runs, self.folder, self.words = runs, folder, [*SMALL, f"out={folder}", *words]
        answer = runs.run([*self.words, "name=undisturbed"])
        assert answer.status == 0, answer.said
        self.seconds, self.result = answer.seconds, result_of(folder / "undisturbed")

    def train(self, name: str, **how: Any) -> Any:
        return self.runs.run([*self.words, f"name={name}"], **how)

    def goes_on(self, name: str) -> list[str]:
        """Run the same command again; return what it printed. The result is that of the undisturbed run."""
        answer = self.train(name)
        assert answer.status == 0, answer.said
        result = result_of(self.folder / name)
        assert [part for part, content in self.result.items() if result.get(part) != content] == []
        return answer.said


@pytest.fixture(scope="module")
def case(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(runs, tmp_path_factory.mktemp("resume"), "trainer.checkpoint_every=2")


MOMENTS = {
    "in the first step": ("mmprofile.train.module:joint_loss", 1),
    "in the middle of an epoch": ("mmprofile.train.module:joint_loss", 4),
    "in the validation after a step that had a checkpoint": ("mmprofile.train.module:ProfileModule.validation_step", 1),
    "after validation": ("mmprofile.train.module:ProfileModule.end_epoch", 1),
    "before a checkpoint is renamed": ("mmprofile.files:_to_disk", 12),
    "between two epochs": ("mmprofile.train.module:joint_loss", 7),
    "when the last epoch has ended": ("mmprofile.train.run:load_weights", 1),
    "while the test users are scored": ("mmprofile.evaluate.predictions:write_predictions", 1),
    "before the report": ("mmprofile.train.run:write_report", 1),
    "before metrics.json": ("mmprofile.train.run:write_card", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(moment: str, case: Case) -> None:
    name = moment.replace(" ", "-")
    assert case.train(name, kill_in=MOMENTS[moment]).status == -9
    case.goes_on(name)
