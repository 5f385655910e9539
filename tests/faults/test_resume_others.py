"""Other commands than ``train`` that were killed at random moments go on to the very same files."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmprofile.files import read_json, read_json_lines
from tests.support.forkedruns import Answer, ForkedRuns, result_of
from tests.support.sweeps import SEARCH
from tests.support.tinyblip import save_blip2
from tests.support.tinystage import make_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

SEED = 24
CITY = ["data.prepare.source.users=40", "data.prepare.split={train: 0.6, validation: 0.2, test: 0.2}"]
STAGES = ("llm.teacher", "llm.vote", "llm.distill", "llm.reinforce")
TABLE = """
title: Small
reference: majority
rows:
  - {system: majority, overrides: [model=majority, paradigm=text]}
  - {system: flan_t5, overrides: [model=flan_t5, paradigm=text, trainer.max_epochs=1]}
"""


@pytest.fixture(scope="module")
def runs() -> Iterator[ForkedRuns]:
    modules = ("llm.run.run", "caption.blip2", "predict.shards", "train.run", "sweep.run", "sweep.search")
    with ForkedRuns(*(f"mmprofile.{module}" for module in modules)) as forked:
        yield forked


def untimed(value: Any) -> Any:
    """Return a value of JSON without what tells of times and memory."""
    if isinstance(value, list):
        return [untimed(item) for item in value]
    if isinstance(value, dict):
        timed = ("time", "second", "minute", "memory", "tokens/s")
        return {name: untimed(item) for name, item in value.items() if not any(word in name for word in timed)}
    return value


def files(folder: Path, called: Path | None = None) -> dict[str, Any]:
    """Return what a folder holds: JSON without times and its name, lines in any order, of other files every byte.

    Args:
        folder: as this process sees it.
        called: as the command does; None: likewise.
    """
    name_of_folder = str(called or folder)
    contents: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.name != "lock"):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            contents[name] = json.dumps(untimed(read_json(path)), sort_keys=True).replace(name_of_folder, "")
        elif path.suffix == ".jsonl":
            contents[name] = sorted(
                json.dumps(untimed(row), sort_keys=True).replace(name_of_folder, "") for row in read_json_lines(path)
            )
        else:
            contents[name] = path.read_bytes() if path.is_file() else "folder"
    return contents


class Killing:
    """A command that is killed and run again, in as many folders as it is killed.

    Args:
        run: runs the command in a folder of this name, which it makes.
        result: what must be equal, of such a folder.
    """

    def __init__(self, run: Callable[..., Answer], result: Callable[[str], dict[str, Any]]) -> None:
        self.run, self.result = run, result
        whole = run("undisturbed")
        assert whole.status == 0, whole.said
        self.seconds, self.expected = whole.seconds, result("undisturbed")

    def kill(self, times: int, **how: Any) -> None:
        """Kill it at a random moment of each of so many equal parts of its time; the next time ends as if undisturbed."""
        rng, killed, lost = random.Random(SEED), 0, []
        for number in range(2 * times):
            name, seconds = f"killed-{number}", self.seconds
            moment = (number % times + rng.random()) / times
            answer = self.run(name, kill_after=moment * seconds, **how)
            if answer.status == 0:  # the machine is less busy than it was
                self.seconds = min(seconds, answer.seconds)
            killed += answer.status == -9
            again = self.run(name)
            found = self.result(name) if again.status == 0 else {}
            differ = sorted(part for part in self.expected | found if found.get(part) != self.expected.get(part))
            if again.status or differ:
                lost.append(
                    (f"{moment:.3f}", answer.status, again.status, differ, again.said[-8:] if again.status else "")
                )
            if killed == times:
                break
        print(f"{killed} killed of {number + 1}, {len(lost)} lost; {self.seconds:.1f} s undisturbed")
        assert not lost, "\n".join(map(str, lost))
        assert killed == times


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*make_stage(tmp_path_factory.mktemp("start")), "samples=4"]


def test_the_text_only_stage(runs: ForkedRuns, stage: list[str], tmp_path: Path) -> None:
    """All of it, in one command."""

    def run(name: str, **how: Any) -> Answer:
        return runs.run([*stage, f"out={tmp_path / name}"], command="llm.run", **how)

    Killing(run, lambda name: files(tmp_path / name)).kill(25)


@pytest.mark.parametrize("command", STAGES)
def test_a_part_of_the_text_only_stage(command: str, runs: ForkedRuns, stage: list[str], tmp_path: Path) -> None:
    for earlier in STAGES[: STAGES.index(command)]:
        assert runs.run([*stage, f"out={tmp_path / 'earlier'}"], command=earlier).status == 0
    (tmp_path / "earlier").mkdir(exist_ok=True)

    def run(name: str, **how: Any) -> Answer:
        if not (tmp_path / name).exists():
            shutil.copytree(tmp_path / "earlier", tmp_path / name)
        return runs.run([*stage, f"out={tmp_path / name}"], command=command, **how)

    Killing(run, lambda name: files(tmp_path / name)).kill(20)


@pytest.mark.parametrize("existing", ["refuse", "replace"])
def test_captions(existing: str, runs: ForkedRuns, make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    done = runs.run([*CITY, f"data.prepare.folder={prepared}"], command="prepare")
    assert done.status == 0, done.said
    if existing == "refuse":
        (prepared / "captions.parquet").unlink()  # the demo city has some
    model = save_blip2(tmp_path / "blip2", "opt", make_tokenizer)
    words = [
        "trainer=cpu",
        "trainer.progress=false",
        "batch_size=4",
        "shard=8",
        f"model={model}",
        f"existing={existing}",
    ]

    def run(name: str, **how: Any) -> Answer:
        if not (tmp_path / name).exists():
            shutil.copytree(prepared, tmp_path / name)
        return runs.run([*words, f"folder={tmp_path / name}"], command="caption", **how)

    Killing(run, lambda name: files(tmp_path / name)).kill(25)


@pytest.fixture(scope="module")
def model(runs: ForkedRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    words = ["experiment=smoke", *CITY, "trainer.max_epochs=1", "trainer.progress=false", f"out={out}", "name=small"]
    done = runs.run(words)
    assert done.status == 0, done.said
    return out / "small"


def test_predictions(runs: ForkedRuns, model: Path, tmp_path: Path) -> None:
    """A file of users, some rows of which are none."""
    rows: list[Any] = [{"user_id": f"u{i}", "reviews": [f"a fine place {i}", "nice pizza"]} for i in range(300)]
    rows[7::50] = [{"user_id": "nobody", "reviews": 5}] * len(rows[7::50])
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"run={model}", f"input={tmp_path / 'users.jsonl'}", "batch_size=8"]

    def run(name: str, **how: Any) -> Answer:
        return runs.run([*words, f"output={tmp_path / name / 'profiles.jsonl'}"], command="predict", **how)

    Killing(run, lambda name: files(tmp_path / name)).kill(25)


def sweep_result(folder: Path) -> dict[str, Any]:
    """Return what the runs of a sweep and its table have found; trials are numbered anew where one was killed."""
    tables = [untimed(read_json(path)) for path in sorted(folder.rglob("table.json"))]
    for row in [row for table in tables for row in table.get("trials", [])]:
        row.pop("trial")
    text = json.dumps(tables).replace(str(folder), "")
    names = {path.name for path in folder.rglob("*") if path.is_dir() or path.name.endswith((".tmp", "failure.txt"))}
    runs = {str(run.relative_to(folder)): result_of(run) for run in sorted(folder.glob("**/runs/*"))}
    return {"tables": text, "names": names, **runs}


@pytest.mark.parametrize("what", ["table", "search"])
@pytest.mark.parametrize("also_started", [False, True], ids=["the sweep", "its run, too"])
def test_sweeps(what: str, also_started: bool, runs: ForkedRuns, tmp_path: Path) -> None:
    """A run outlives the sweep that is killed; or it is killed, too."""
    (tmp_path / "small.yaml").write_text(TABLE if what == "table" else SEARCH)
    words = [
        f"{what}={tmp_path / 'small.yaml'}",
        "experiment=smoke",
        *CITY,
        "resamples=200",
        *(["trials=2"] * (what == "search")),
    ]

    def run(name: str, **how: Any) -> Answer:
        return runs.run([*words, f"out={tmp_path / name}"], command="sweep", **how)

    Killing(run, lambda name: sweep_result(tmp_path / name)).kill(8, also_started=also_started)
