"""LAVIS in the environment that uv builds for it: its own BLIP-2 classes, with small random weights, caption real photos."""

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamodules.captions import Captions
from mmprofile.caption.lavis import CERTIFICATES, SCRIPT, find_uv
from mmprofile.errors import UserError
from tests.support.realphotos import kill_after_a_shard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the environment is fetched: some 6 GB

ORACLE = """
import sys
from pathlib import Path

sys.path[:0] = [{tests!r}]
import torch
from PIL import Image
from tests.support.tinylavis import load

model, processor = load({kind!r}, "cpu")
for path in sorted(Path({photos!r}).iterdir()):
    image = processor(Image.open(path).convert("RGB"))[None]
    with torch.no_grad():
        text = model.generate({{"image": image, "prompt": "a photo of"}}, num_beams=3, max_length=12, min_length=8)[0]
    print(path.name, ascii(" ".join(text.split())), sep="\\t")
"""


def command(*arguments: str) -> list[str]:
    settings = ["trainer=cpu", "workers=0", "backend=lavis", "decoding.num_beams=3", "decoding.max_new_tokens=12"]
    return [sys.executable, "-m", "mmprofile.caption", *settings, "decoding.min_new_tokens=8", *arguments]


def run(*arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run the command and return what it printed."""
    merged = os.environ | (env or {})
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=1500, env=merged)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(params=["opt", "t5"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def model(kind: str, tmp_path: Path) -> Path:
    """A file as a user writes it to caption with weights of their own."""
    path = tmp_path / f"{kind}.py"
    here = str(Path(__file__).parents[2])
    path.write_text(
        f"import sys\nsys.path.insert(0, {here!r})\nfrom tests.support import tinylavis\n\n\n"
        f"def load(device):\n    return tinylavis.load({kind!r}, device)\n"
    )
    return path


def test_captions_are_those_of_one_photo_at_a_time(kind: str, model: Path, prepared: Path, tmp_path: Path) -> None:
    printed = run(f"folder={prepared}", f"model={model}", "batch_size=5")
    assert "0 of 13 photos are done, 13 to do\nLAVIS 1.0.2" in printed
    assert "13 captions, 0 failed" in printed
    assert "13/13" in printed  # its progress
    assert "Warning" not in printed
    captions = Captions(prepared)
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo_id in captions.photos.values():
        (photos / photo_id).write_bytes(captions.jpeg(photo_id))
    header = SCRIPT.read_text(encoding="utf-8").partition('"""')[0]
    oracle = tmp_path / "oracle.py"
    here = str(Path(__file__).parents[2])
    oracle.write_text(header + ORACLE.format(tests=here, kind=kind, photos=str(photos)))
    script = [find_uv(), "run", "--script", str(oracle)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=1500, env=os.environ | CERTIFICATES)
    expected = dict(line.split("\t") for line in done.stdout.splitlines())
    assert len(expected) == 13, done.stderr
    rows = pq.read_table(prepared / "captions.parquet").to_pylist()
    assert {row["photo_id"]: ascii(row["caption"]) for row in rows} == expected
    assert len(set(expected.values())) > 3
    assert {row["backend"] for row in rows} == {"lavis"}
    assert {row["backend_version"] for row in rows} == {"1.0.2"}
    assert {row["model"] for row in rows} == {model.name}
    assert f"13 by lavis {model.name}" in run(f"folder={prepared}", "--verify")


@pytest.mark.parametrize("kind", ["t5"])
def test_a_killed_run_goes_on_to_the_same_file(model: Path, prepared: Path) -> None:
    words = f"folder={prepared}", f"model={model}", "batch_size=1", "shard=2"
    done = kill_after_a_shard(command(*words), prepared)
    assert f"{done} of 13 photos are done, {13 - done} to do" in run(*words)
    content = (prepared / "captions.parquet").read_bytes()
    assert not (prepared / "captions.partial").exists()
    (prepared / "captions.parquet").unlink()
    run(*words)
    assert (prepared / "captions.parquet").read_bytes() == content


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model=blip2_opt/huge", "LAVIS: model='blip2_opt/huge': LAVIS has blip2_opt/pretrain_opt2.7b, "),
        ("model=Salesforce/blip2-opt-2.7b", "LAVIS: model='Salesforce/blip2-opt-2.7b': give NAME/TYPE"),
        ("model={folder}/broken.py", "cannot be loaded by LAVIS (ValueError: no weights)"),
        ("model={folder}/absent.py", "absent.py: no such file"),
        ("dtype=float16", "backend=lavis has neither dtype=... nor revision=..."),
        ("+decoding.num_return_sequences=2", "decoding.num_return_sequences: LAVIS has only num_beams, "),
    ],
)
def test_mistakes_are_one_line(word: str, says: str, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def load(device):\n    raise ValueError('no weights\\nat all')\n")
    lines = run(f"folder={prepared}", word.format(folder=tmp_path), code=2).splitlines()
    assert says in lines[-1]
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"UV_OFFLINE": "1"}, "salesforce-lavis was not found in the cache"),
        (
            {"UV_PYTHON_PREFERENCE": "only-managed", "UV_PYTHON_DOWNLOADS": "never"},
            "LAVIS needs Python 3.10 or 3.11, which uv has to find on the path, or download",
        ),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_line(
    env: dict[str, str], says: str, prepared: Path, tmp_path: Path
) -> None:
    empty = {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_PYTHON_INSTALL_DIR": str(tmp_path / "pythons")}
    lines = run(f"folder={prepared}", code=2, env=env | empty).splitlines()
    assert lines[-1].startswith("error: LAVIS: ")
    assert says in lines[-1]


def test_weights_that_are_not_there_are_one_line_at_once(prepared: Path, tmp_path: Path) -> None:
    start = time.perf_counter()
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}  # nobody listens there
    lines = run(f"folder={prepared}", "model=blip2_t5/pretrain_flant5xl", code=2, env=env).splitlines()
    assert lines[-1].startswith("error: LAVIS: model='blip2_t5/pretrain_flant5xl' cannot be loaded by LAVIS (OSError: ")
    assert lines[-1].endswith("on first use LAVIS fetches its weights and tokenizers from the network")
    assert not any("Warning" in line or "Retry" in line for line in lines)
    assert time.perf_counter() - start < 90  # the hub's client alone would try for minutes


def test_without_uv_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(find_uv()).name.startswith("uv")  # beside this Python
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="pip install uv"):
        find_uv()
