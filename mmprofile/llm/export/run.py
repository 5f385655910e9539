"""A student's adapter and its base -> whole weights: ``python -m mmprofile.llm.export student=FOLDER to=FOLDER``."""

import shutil
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from mmprofile.config.llm_settings import LlmConfig, StudentConfig
from mmprofile.errors import UserError
from mmprofile.llm.adapters import ADAPTER
from mmprofile.llm.student import Student, student_settings
from mmprofile.llm.student_folder import MADE_OF
from mmprofile.profile.schema import Schema


def main(cfg: LlmConfig) -> None:
    """Put the adapter of a student into the weights of its base, and write a folder in the hub's layout, with the student's card.

    Raises:
        UserError: there is no such adapter, or no folder to write to.
    """
    folder = Path(cfg.student).expanduser()
    if not (folder / ADAPTER).is_dir():
        raise UserError(
            f"student={cfg.student}: it has no folder {ADAPTER}; give a student's that has one, as outputs/llm/demo/student"
        )
    target = Path(cfg.to or "").expanduser()
    if cfg.to is None or target.exists():
        raise UserError(f"to={cfg.to}: give a folder that is not there yet")
    whole = OmegaConf.merge(student_settings(cfg), {"bits": None, "lora": 1})  # any rank: the adapter has its own
    student = Student(cfg.student, cast(StudentConfig, whole), Schema.from_config(cfg.profile))
    student.merge()
    student.save(target)
    for name in ("README.md", MADE_OF):
        if (folder / name).is_file():
            shutil.copy(folder / name, target / name)
    print(f"{target}: whole weights of {folder} and {student.base.name}")
