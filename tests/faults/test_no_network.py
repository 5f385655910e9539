"""No command asks a network for anything that its words do not name, and nobody else may read what it writes.

The commands run in a network of their own without a way out, whose counter of packets that found none also tells of what
libraries in C++ try. Python's sockets are listened to as well, which also works where such networks are not allowed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmprofile.__main__ import COMMANDS
from mmprofile.files import read_json_lines, write_json_lines

LISTENER = """
import os, sys

def listen(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        target = arguments[-1] if event == "socket.connect" else arguments[0]
        if not isinstance(target, (str, bytes)) or "getaddrinfo" in event or "gethostbyname" in event:
            with open(os.environ["ATTEMPTS"], "a") as file:
                file.write(f"{event} {arguments[:2]} {sys.argv}\\n")

sys.addaudithook(listen)
"""
ALONE = [
    "unshare",
    "-rn",
    "sh",
    "-c",
    '"$@"; code=$?; cat /proc/net/snmp /proc/net/snmp6 > "$COUNTERS"; exit $code',
    "sh",
]
CITY = ["data.prepare.source.users=60"]
SMOKE = ["experiment=smoke", "trainer.progress=false"]
LLM = [
    *CITY, "samples=2", "students.tiny.epochs=1", "reinforce.rollouts=2", "reinforce.steps=1",
    "reinforce.group=2", "reinforce.people=1", "reinforce.low=0", "table.draws=1", "progress=false",
]  # fmt: skip
WORDS: dict[str, Sequence[str]] = {
    "prepare": CITY,
    "doctor": [*SMOKE, "name=small"],
    "train": [*SMOKE, "name=small", "model=ours"],
    "caption": [*CITY, "data.prepare.split.train=0.6", "data.prepare.split.validation=0.2", "--verify"],
    "evaluate": ["run=outputs/small"],
    "predict": ["run=outputs/small", "input=users.jsonl", "output=profiles.jsonl"],
    "inspection": ["run=outputs/small", "count=1"],
    "report": ["run=outputs/small", "count=1"],
    "sweep": ["runs=outputs/*", "resamples=50"],
    "apply": [
        "run=outputs/small",
        "trainer.max_epochs=1",
        "inputs.max_tokens=64",
        "resamples=50",
        "trainer.progress=false",
    ],
    "llm.run": LLM,
    "llm.teacher": LLM,
    "llm.vote": LLM,
    "llm.evaluate": LLM,
    "llm.attach": LLM,
    "llm.distill": LLM,
    "llm.reinforce": LLM,
    "llm.export": ["student=outputs/llm/demo/student", "to=whole"],
    "forget": ["dry_run=true"],
}
"""Each command, in an order in which one finds what the others have left."""


def alone() -> bool:
    """Whether this system lets us make a network of our own."""
    try:
        return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def attempts(command: Sequence[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command, and return what it has tried to reach."""
    (folder / "sitecustomize.py").write_text(LISTENER)
    (folder / "attempts").write_text("")
    paths = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    own = {"PYTHONPATH": paths, "ATTEMPTS": str(folder / "attempts"), "COUNTERS": str(folder / "counters")}
    done = subprocess.run(
        [*(ALONE if alone() else []), *command], cwd=folder, env=os.environ | own, capture_output=True, text=True
    )
    found = (folder / "attempts").read_text().splitlines()
    if alone():
        lines = [line.split() for line in (folder / "counters").read_text().splitlines()]
        names, values = (line for line in lines if line[0] == "Ip:")
        counted = dict(zip(names, values, strict=True)) | {
            line[0]: line[1] for line in lines if line[0].startswith("Ip6")
        }
        for name in ("OutNoRoutes", "Ip6OutNoRoutes"):
            if int(counted[name]):
                found.append(f"{counted[name]} packets without a way out ({name})")
    return done, found


def read_by_others(folder: Path) -> list[Path]:
    """Return the files that somebody else may read."""
    ours = ("sitecustomize.py", "attempts", "counters", "users.jsonl")
    return [
        path for path in folder.rglob("*") if path.is_file() and path.name not in ours and path.stat().st_mode & 0o077
    ]


def run(command: str, folder: Path) -> None:
    words = [*WORDS[command]]
    if command == "forget":
        words.append(f"user={read_json_lines(folder / 'outputs' / 'small' / 'predictions.jsonl')[0]['user_id']}")
    done, found = attempts([sys.executable, "-m", f"mmprofile.{command}", *words], folder)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert found == [], command
    assert read_by_others(folder) == [], command


@pytest.mark.parametrize(
    "code", ["socket.create_connection(('192.0.2.1', 80), 1)", "socket.getaddrinfo('example.org', 80)"]
)
def test_an_attempt_is_noticed(code: str, tmp_path: Path) -> None:
    done, found = attempts([sys.executable, "-c", f"import socket; {code}"], tmp_path)
    assert any(line.startswith("socket.") for line in found)
    assert done.returncode
    if alone():
        assert any("without a way out" in line for line in found)


@pytest.mark.skipif(shutil.which("unshare") is None or not alone(), reason="needs a network of its own")
def test_an_attempt_of_a_library_in_another_language_is_noticed(tmp_path: Path) -> None:
    code = "import duckdb; duckdb.sql(\"install httpfs from 'http://192.0.2.1'\")"
    done, found = attempts([sys.executable, "-c", code], tmp_path)
    assert done.returncode
    assert [line for line in found if "without a way out" in line]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPROFILE_UMASK", raising=False)
    write_json_lines(tmp_path / "users.jsonl", [{"user_id": "ann", "reviews": ["a fine place"]}])
    return tmp_path


def test_preparing_asks_nobody(folder: Path) -> None:
    run("prepare", folder)


def test_every_command_is_listed() -> None:
    assert set(WORDS) == set(COMMANDS)


@pytest.mark.slow
def test_no_command_asks_anybody(folder: Path) -> None:
    for command in WORDS:
        run(command, folder)


def test_a_mask_is_taken_or_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "mmprofile.prepare", *CITY]
    monkeypatch.setenv("MMPROFILE_UMASK", "everybody")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: MMPROFILE_UMASK=everybody: give an octal number")
