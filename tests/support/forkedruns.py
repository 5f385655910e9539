"""Commands in processes that are forked from one that has imported what they need: ``python -m tests.support.forkedruns``.

Its words are the modules to import. A line of JSON on standard input starts a command: ``command`` (``train``, ``llm.run``,
...), ``words`` of its command line, ``kill_after`` so many seconds (null: not), ``signal`` that kills it (9), ``all``: also
what it has started, ``kill_in`` a function (``module:name``) when it is called for the n-th time, ``fault`` (see
:class:`tests.support.diskfaults.Fault`). A line of JSON answers: the exit status, the seconds it took and what it printed last.
"""

import functools
import importlib
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    """What came of a command: its exit status (negative: the signal), its seconds, and its last line."""

    status: int
    seconds: float
    said: list[str] = field(default_factory=list)


class ForkedRuns:
    """Starts commands, one at a time.

    Args:
        modules: what the commands import.
        inside: the words of a command that the process, and thus every command, is started by.
    """

    def __init__(self, *modules: str, inside: Sequence[str] = ()) -> None:
        modules = modules or ("mmprofile.train.run",)
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.support.forkedruns", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "ForkedRuns":
        return self

    def __exit__(self, *_: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def run(
        self,
        words: list[str],
        command: str = "train",
        kill_after: float | None = None,
        kill_in: tuple[str, int] | None = None,
        number: int = 9,
        also_started: bool = False,
        fault: dict[str, Any] | None = None,
    ) -> Answer:
        """Run; send a signal after so many seconds, or in the n-th call of a function, unless the command has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {
            "command": command,
            "words": words,
            "kill_after": kill_after,
            "kill_in": kill_in,
            "signal": number,
            "all": also_started,
            "fault": fault,
        }
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Answer(**json.loads(self.process.stdout.readline()))


def result_of(folder: Path) -> dict[str, Any]:
    """What must be equal bit by bit: the files of the model, predictions, and metrics but for times and memory."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("seconds", "peak_rss_mb", "config"):
        metrics.pop(name, None)
    for row in metrics["history"]:
        row.pop("seconds")
    names = [path for path in sorted((folder / "model").rglob("*")) if path.is_file() and path.name != "README.md"]
    files = {str(path.relative_to(folder)): _content(path) for path in [*names, folder / "predictions.jsonl"]}
    return {"metrics": metrics, **files}


def _content(path: Path) -> Any:
    """Return a file's bytes; of safetensors its header apart, whose metadata stand in another order in each process."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _signal_in(function: str, call: int, number: int) -> None:
    """Let the n-th call of a function send this process a signal."""
    module, _, name = function.partition(":")
    *owners, last = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    real, calls = getattr(owner, last), itertools.count(1)

    @functools.wraps(real)
    def watched(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return real(*args, **options)

    setattr(owner, last, watched)


def _child(asked: dict[str, Any], log: Path) -> None:
    """Run the command in this process, which was forked for it, as ``python -m`` does, and end it."""
    from tests.support.diskfaults import Fault

    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        if asked["fault"]:
            Fault(**asked["fault"]).install()
        if asked["kill_in"]:
            _signal_in(*asked["kill_in"], asked["signal"])
        sys.argv[1:] = asked["words"]
        runpy.run_module(f"mmprofile.{asked['command']}", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _started_by(process: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    children = [
        int(word) for path in Path(f"/proc/{process}/task").glob("*/children") for word in path.read_text().split()
    ]
    return [*children, *(below for child in children for below in _started_by(child))]


def _serve() -> None:
    from mmprofile.config.command import quiet

    quiet()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        for line in sys.stdin:
            asked = json.loads(line)
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                _child(asked, log)
            status = None
            while status is None:
                ended, code = os.waitpid(child, os.WNOHANG)
                if ended:
                    status = os.waitstatus_to_exitcode(code)
                elif asked["kill_after"] is not None and time.monotonic() - began > asked["kill_after"]:
                    for process in [child, *(_started_by(child) if asked["all"] else [])]:
                        os.kill(process, asked["signal"])
                    asked["kill_after"] = None
                else:
                    time.sleep(0.005)
            said = log.read_text(errors="replace").splitlines()[-30:] if log.exists() else []
            print(json.dumps({"status": status, "seconds": time.monotonic() - began, "said": said}), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve()
