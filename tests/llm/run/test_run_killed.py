"""The whole stage in one command, killed in each of its stages and started again: it ends as if nobody had killed it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmprofile.llm.labels import load_labels
from mmprofile.llm.student_folder import last_checkpoint
from tests.support.tinystage import JOURNALS, STUDENTS, make_stage


def command(arguments: Sequence[str], out: Path) -> list[str]:
    return [sys.executable, "-m", "mmprofile.llm.run", *arguments, f"out={out}"]


def run(arguments: Sequence[str], out: Path) -> str:
    done = subprocess.run(command(arguments, out), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that choose people who say little, a random student that learns to write answers, and a short training."""
    return make_stage(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def undisturbed(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage's folder of a run that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed")
    run(arguments, out)
    return out / "people"


def whole_lines(path: Path) -> list[bytes]:
    """Of a file that may be being written; a last one without an end is none."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def training(folder: Path, name: str) -> bool:
    """Whether a student is amid its training, behind a checkpoint."""
    return last_checkpoint(folder / f"{name}.partial") is not None and not (folder / name).exists()


def stages(whole: Path) -> dict[str, Callable[[Path], bool]]:
    """How to tell from a folder that a stage is amid its work, in the stages' order."""
    total = {name: len(whole_lines(whole / name)) for name in JOURNALS}
    return {
        "teacher": lambda folder: 0 < len(whole_lines(folder / JOURNALS[0])) < total[JOURNALS[0]],
        "vote": lambda folder: (
            len(whole_lines(folder / JOURNALS[0])) == total[JOURNALS[0]] and not (folder / "labels.parquet").exists()
        ),
        "student": lambda folder: training(folder, "student"),
        "student_ttrl": lambda folder: training(folder, "student_ttrl"),
        "rollouts": lambda folder: 0 < len(whole_lines(folder / JOURNALS[1])) < total[JOURNALS[1]],
        "student_ours": lambda folder: training(folder, "student_ours"),
        "draws": lambda folder: 0 < len(whole_lines(folder / JOURNALS[2])) < total[JOURNALS[2]],
    }


def kill(arguments: Sequence[str], out: Path, stage: str, amid: Callable[[Path], bool]) -> None:
    """Starts the command and kills it amid a stage."""
    with (out / f"{stage}.txt").open("w") as printed:
        process = subprocess.Popen(command(arguments, out), stdout=printed, stderr=printed, start_new_session=True)
        try:
            while not amid(out / "people"):
                assert process.poll() is None, f"{stage} was not caught\n{(out / f'{stage}.txt').read_text()}"
                time.sleep(0.001)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert amid(out / "people"), f"{stage} was over before it was killed"


def timeless(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Health metrics without what the clock says."""
    return [{name: value for name, value in row.items() if "time" not in name} for row in rows]


def test_a_run_that_is_killed_in_every_stage_ends_as_if_undisturbed(
    arguments: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "people"
    written: dict[str, list[bytes]] = {name: [] for name in JOURNALS}
    trained: dict[str, list[dict[str, Any]]] = {}
    for stage, amid in stages(undisturbed).items():
        kill(arguments, tmp_path, stage, amid)
        for name, before in written.items():
            written[name] = whole_lines(folder / name)
            assert written[name][: len(before)] == before
        if stage in STUDENTS:
            checkpoint = last_checkpoint(folder / f"{stage}.partial")
            assert checkpoint is not None
            state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
            assert 0 < state["global_step"] < state["max_steps"]
            trained[stage] = [row for row in state["log_history"] if "reward" in row]
    printed = run(arguments, tmp_path)
    assert printed.count(": found") == 3
    for name, before in written.items():
        lines = whole_lines(folder / name)
        assert lines[: len(before)] == before
        answers = {row["request"]: row["answer"] for row in map(json.loads, lines)}
        assert len(answers) == len(lines)  # none was asked for or drawn twice
        assert answers == {row["request"]: row["answer"] for row in map(json.loads, whole_lines(undisturbed / name))}
    assert load_labels(folder / "labels.parquet") == load_labels(undisturbed / "labels.parquet")
    for name in STUDENTS:
        weights, expected = (load_file(where / name / "model.safetensors") for where in (folder, undisturbed))
        assert set(weights) == set(expected)
        assert all(torch.equal(weights[part], expected[part]) for part in expected)
        assert not (folder / f"{name}.partial").exists()
    assert (folder / "frozen_ours.json").read_text() == (undisturbed / "frozen_ours.json").read_text()
    for recipe in ("ttrl", "ours"):
        rows, expected_rows = (
            [json.loads(line) for line in whole_lines(where / f"reinforce_{recipe}.jsonl")]
            for where in (folder, undisturbed)
        )
        earlier = trained[f"student_{recipe}"]
        assert rows[: len(earlier)] == earlier  # even the time that a step took: none was taken again
        assert timeless(rows) == timeless(expected_rows)
        assert len(rows) == 20
    metrics, expected_metrics = (json.loads((where / "metrics.json").read_text()) for where in (folder, undisturbed))
    assert metrics["rows"] == expected_metrics["rows"]


def test_the_run_has_something_to_lose(undisturbed: Path) -> None:
    """The stages change what comes out of them: a lost one would be seen."""
    embeddings = [load_file(undisturbed / name / "model.safetensors")["model.embed_tokens.weight"] for name in STUDENTS]
    assert not any(torch.equal(embeddings[i], embeddings[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    rows = json.loads((undisturbed / "metrics.json").read_text())["rows"]
    assert len({row["f1"] for name, row in rows.items() if name in ("start", "sft", "ttrl", "ours")}) == 4
    for name in JOURNALS:
        assert len({json.loads(line)["answer"] for line in whole_lines(undisturbed / name)}) > 20
