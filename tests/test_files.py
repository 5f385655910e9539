"""What the disk reports, also through libraries that are not written in Python."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmprofile.files import disk_errors

CODE = """
import resource, sys, torch, safetensors.torch
from pathlib import Path
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from mmprofile.errors import UserError
from mmprofile.files import disk_errors

def save_tensors():
    safetensors.torch.save_file({"x": torch.zeros(10_000)}, folder / "model.safetensors")

def save_tokenizer():
    Tokenizer(WordLevel({f"word {i}": i for i in range(10_000)}, "word 0")).save(str(folder / "tokenizer.json"))

def save_by_torch():
    torch.save({"x": torch.zeros(10_000)}, folder / "optimizer.pt")

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for save in (save_tensors, save_tokenizer, save_by_torch):
    try:
        with disk_errors(folder):
            save()
    except UserError as error:
        print(error)
"""


def test_a_file_that_a_library_cannot_write_is_one_line(tmp_path: Path) -> None:
    """In a process that may write no file of more than 100 bytes: as good as a full disk."""
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    said = [*["File too large"] * 2, "Input/output error"]  # torch's code in C++ does not tell
    assert done.stdout.splitlines() == [
        f"{tmp_path}: {reason}: check the disk, then run the same command again" for reason in said
    ]


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    for error in (
        FileNotFoundError(2, "No such file", "/elsewhere"),
        ValueError("not of the disk"),
        Exception("No such file or directory (os error 2)"),  # something that is read, maybe elsewhere
    ):
        with pytest.raises(type(error)) as caught, disk_errors(tmp_path):
            raise error
        assert caught.value is error
