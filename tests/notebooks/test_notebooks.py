"""The notebooks as a reader runs them: from a clean kernel, in a folder of their own, beside finished runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SHOWN = {"01_inspect_gates": (5, 3), "02_data_and_labels": (2, 3), "03_ablations": (2, 1), "04_confidence": (4, 3)}
"""Figures and photos at least, and tables."""
SMOKE = ["experiment=smoke", "trainer.progress=false", "evaluation.resamples=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``notebooks/`` and ``outputs/`` with small runs that stand for the ones that a notebook would train."""
    folder = tmp_path_factory.mktemp("reader")
    for paradigm in ("text", "multi", "both"):
        words = [f"paradigm={paradigm}", f"name={paradigm}", *SMOKE]
        subprocess.run([sys.executable, "-m", "mmprofile.train", *words], cwd=folder, check=True, timeout=600)
    shutil.copytree(NOTEBOOKS[0].parent, folder / "notebooks")
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_clean_kernel_runs_it(path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This environment's kernel and nobody's settings; it is spoken to by Unix sockets, whose paths must be short.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    book = nbformat.read(folder / "notebooks" / path.name, as_version=4)
    where = {"metadata": {"path": str(folder / "notebooks")}}
    with TemporaryDirectory() as sockets:
        settings = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        NotebookClient(book, timeout=300, kernel_name="python3", resources=where, config=settings).execute()
    outputs: list[Any] = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert all(line.startswith("using prepared data in ") for line in said.splitlines()), said
    shown = [output.data for output in outputs if "data" in output]
    figures, tables = SHOWN[path.stem]
    assert sum("image/png" in data or "image/jpeg" in data for data in shown) >= figures
    text = "".join(output.get("text", "") for output in outputs)
    assert not re.search("error:|Traceback|Warning", text), text
    framed = [data["text/plain"] for data in shown if "text/html" in data]
    assert len(framed) == tables
    assert not any("NaN" in table for table in framed)


def test_there_is_one_for_each_use() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(SHOWN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(nbformat.from_dict(book))
    for cell in book["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert cell["metadata"] == {}
