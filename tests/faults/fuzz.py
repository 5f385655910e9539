"""Spoilt files for every reader: ``python -m tests.faults.fuzz CASES [READER ...]``, such as 1000000 overnight.

A case is a reader and a number; the same ones spoil the same file in the same way. Readers run in a process of their own,
which is watched: a case that raises anything but a one-line UserError, ends the process, takes longer than SECONDS or more
memory than four times the file and BASE is printed, and the exit status is 1.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmprofile.errors import UserError

SECONDS = 60
BASE = 200 * 2**20
"""Bytes: what libraries take when they are used for the first time, and the engine's buffers."""
SHOWN = 4000  # bytes of a file that was not survived
SHARED = Path("/dev/shm")  # files in memory, where there is such a folder
ROOT = Path(__file__).resolve().parents[2]


class Failure(NamedTuple):
    """A case that a reader does not survive: what came instead, and the name and content of the file."""

    reader: str
    number: int
    problem: str
    file: str
    content: str


def spoil(reader: str, number: int, good: Path) -> tuple[Path, bytes]:
    """Return which file of a folder a case spoils, as its path in the good folder, and what stands in it then."""
    from tests.support.readers import READERS
    from tests.support.spoiling import spoilt

    rng = random.Random(f"{reader}/{number}")
    files = sorted({path for pattern in READERS[reader].spoils for path in good.glob(pattern) if path.is_file()})
    path = rng.choice(files)
    return path, spoilt(rng, path)


def problem_of(read: Callable[[Path], object], folder: Path, size: int) -> str | None:
    """Read a folder with a file of so many bytes in it; return what came instead of a result or one line, or None."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder)
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            return f"a message of {len(str(error))} characters"
    except BaseException as error:  # whatever it is, it is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        ours = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(ROOT) and "tests" not in Path(frame.filename).parts
        ]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:120]}"
    grown = _memory() - before
    return f"{grown >> 20} MB for a file of {size} bytes" if grown > 4 * size + BASE else None


def _memory() -> int:
    """Return the most bytes of memory that this process has had at a time."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def work(reader: str, numbers: range, good: Path, folder: Path) -> None:
    """Read cases in this process; print each number before, and each failure."""
    from tests.support.readers import READERS

    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what readers print is nobody's business
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    for number in numbers:
        path, content = spoil(reader, number, good)
        name = path.relative_to(good)
        print(json.dumps([number, str(name), content.decode("latin-1")[:SHOWN]]), file=out, flush=True)
        (folder / name).write_bytes(content)
        problem = problem_of(READERS[reader].read, folder, len(content))
        if problem is not None:
            print(json.dumps(problem), file=out, flush=True)
        shutil.copyfile(path, folder / name)


def fuzz(reader: str, cases: int, first: int = 0) -> Iterator[Failure]:
    """Yield the cases that a reader does not survive, in a process that is watched and started again."""
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as root:
        good, folder = Path(root, "good"), Path(root, "case")
        number, end = first, first + cases
        while number < end:
            worker, file, content = Worker([reader, str(number), str(end), str(good), str(folder)]), "", ""
            for said in worker.lines():
                if isinstance(said, list):
                    number, file, content = said
                else:
                    yield Failure(reader, number, said, file, content)
            if worker.ended is not None:
                yield Failure(reader, number, worker.ended, file, content)
                if not file:  # it does not even start
                    return
            number += 1


class Worker:
    """A process that reads cases; ``ended``: how it ended before their end."""

    def __init__(self, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "tests.faults.fuzz", "--work", *words]
        self.ended: str | None = None
        self._until = time.monotonic() + 10 * SECONDS  # the first case waits for imports
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
        threading.Thread(target=self._watch, daemon=True).start()

    def lines(self) -> Iterator[Any]:
        """Yield what it prints."""
        assert self._child.stdout is not None
        with self._child:
            for line in self._child.stdout:
                self._until = time.monotonic() + SECONDS
                yield json.loads(line)
        if self._child.returncode and self.ended is None:
            self.ended = f"the process ended with {self._child.returncode}"

    def _watch(self) -> None:
        while self._child.poll() is None:
            if time.monotonic() > self._until:
                self.ended = f"more than {SECONDS} s"
                self._child.kill()
            time.sleep(1)


def shares(cases: int, names: Sequence[str]) -> dict[str, int]:
    """Return how many of the cases each reader gets."""
    from tests.support.readers import READERS

    total = sum(READERS[name].share for name in names)
    return {name: max(1, cases * READERS[name].share // total) for name in names}


def main(words: Sequence[str]) -> int:
    """Run cases and print what did not survive; return the exit status."""
    if words[0] == "--work":
        reader, start, end, good, folder = words[1:]
        from tests.support.readers import READERS

        if not Path(good).is_dir():
            Path(good).mkdir()
            READERS[reader].make(Path(good))
        work(reader, range(int(start), int(end)), Path(good), Path(folder))
        return 0
    from tests.support.readers import READERS

    failed = done = 0
    for reader, count in shares(int(words[0]), words[1:] or [*READERS]).items():
        start, signatures = time.monotonic(), dict[str, int]()
        for failure in fuzz(reader, count):
            failed += 1
            key = failure.problem[:70]
            signatures[key] = signatures.get(key, 0) + 1
            if signatures[key] == 1:
                print(json.dumps(failure._asdict()), flush=True)
        done += count
        print(
            f"{reader}: {count:,} cases, {sum(signatures.values())} lost, {time.monotonic() - start:.0f} s", flush=True
        )
    print(f"{done:,} cases, {failed:,} lost")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
