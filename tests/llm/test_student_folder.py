"""A student's folder: checkpoints on the way to it, and what tells that it is whole."""

from pathlib import Path

import pytest
from safetensors import SafetensorError

from mmprofile.files import write_json
from mmprofile.llm.student_folder import MADE_OF, is_finished, open_checkpoints, save_student
from tests.support.tinystudent import open_student

pytestmark = pytest.mark.fast


def test_only_checkpoints_on_the_way_to_the_same_are_gone_on_from(tmp_path: Path) -> None:
    folder = open_checkpoints(tmp_path / "student", {"seed": 0})
    (folder / "checkpoint-1").mkdir()
    assert open_checkpoints(tmp_path / "student", {"seed": 0}) == folder
    assert (folder / "checkpoint-1").exists()
    open_checkpoints(tmp_path / "student", {"seed": 1})
    assert not (folder / "checkpoint-1").exists()


def test_a_student_that_is_half_saved_is_not_taken_for_the_one_before(random_student: Path, tmp_path: Path) -> None:
    pupil, _ = open_student(random_student)
    (tmp_path / "student" / "model.safetensors").mkdir(parents=True)  # where no file can be written
    write_json(tmp_path / "student" / MADE_OF, {"seed": 0})
    with pytest.raises(SafetensorError):
        save_student(pupil, tmp_path / "student", {"seed": 1})
    assert not is_finished(tmp_path / "student", {"seed": 0})


def test_a_kill_after_a_student_was_saved_leaves_no_checkpoints_behind(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path / "student", {"seed": 0})
    assert not is_finished(tmp_path / "student", {"seed": 0})
    assert checkpoints.exists()
    write_json(tmp_path / "student" / MADE_OF, {"seed": 0})
    (tmp_path / "student" / "model.safetensors").touch()
    assert is_finished(tmp_path / "student", {"seed": 0})
    assert not checkpoints.exists()
