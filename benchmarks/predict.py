"""How soon, how fast and in how much memory are profiles there? ``python benchmarks/predict.py outputs/both``.

*Ready*: from the start of a fresh process to a loaded ``Profiler``, imports included. *One person*: ``Profiler.predict`` of
somebody with three reviews and three photos of the demo city, other people each time, photos decoded from files. *Memory*:
the command ``predict`` reads people with three reviews that nobody else has and a photo of their own for every third;
the resident memory of its process is read twenty times a second, and the largest value of each tenth of the people counts.
Others on the machine (*load*: how many processes wanted its cores) disturb processor time less than the clock.
"""

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import machine, parser, report, table
from PIL import Image

from mmprofile.config.compose import load_config
from mmprofile.inputs.data import prepare_data
from mmprofile.profile.schema import Schema

ONE = """
import sys, time
from mmprofile import Profiler
Profiler.from_pretrained(sys.argv[1])
print("ready", time.process_time(), flush=True)
"""
PEOPLE = """
import json, sys, time
from mmprofile import Profiler
profiler = Profiler.from_pretrained(sys.argv[1])
for line in open(sys.argv[2], encoding="utf-8"):
    person = json.loads(line)
    clock, processor = time.perf_counter(), time.process_time()
    profiler.predict(person["reviews"], person["photos"])
    print(time.perf_counter() - clock, time.process_time() - processor)
"""
IMPORT = "import mmprofile, time; print('ready', time.process_time(), flush=True)"
TENTHS = 10


class City:
    """Texts and photos of the demo city.

    Args:
        folder: where files are written.
        overrides: settings as mmprofile.train takes them.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        from datamodules.prepared import open_prepared

        cfg = load_config("train", overrides)
        prepared = open_prepared(prepare_data(cfg.data, Schema.from_config(cfg.profile)))
        rows = [review for row in prepared.datasets["test"] for review in row["reviews"]]
        self.texts = [review["text"] for review in rows]
        ids = dict.fromkeys(photo for review in rows for photo in review["photo_ids"])
        self.jpegs = [prepared.jpeg(photo) for photo in ids]
        self.folder = folder

    def people(self, name: str, count: int, photos: int) -> Path:
        """Write people as JSON lines, each with three reviews of their own; every ``photos``-th has a photo, 0: all have three."""
        rng = random.Random(0)
        path = self.folder / name
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                reviews = [f"{rng.choice(self.texts)} ({number}.{place})" for place in range(3)]
                shown = 3 if not photos else int(number % photos == 0)
                names = [self._photo(f"{name}-{number}-{place}.jpg", number) for place in range(shown)]
                file.write(json.dumps({"user_id": str(number), "reviews": reviews, "photos": names}) + "\n")
        return path

    def _photo(self, name: str, number: int) -> str:
        """Write a photo of the city in colours that no other has."""
        with Image.open(io.BytesIO(self.jpegs[number % len(self.jpegs)])) as image:
            tint = Image.new("RGB", image.size, (number % 251, number // 251 % 251, number % 239))
            Image.blend(image.convert("RGB"), tint, 0.1).save(self.folder / name, quality=90)
        return str(self.folder / name)


def started(code: str, *words: str) -> tuple[float, float]:
    """Return the seconds until a program says that it is ready, and its processor time until then."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, processor = process.stdout.readline().split()
        seconds = time.perf_counter() - start
    assert word == "ready"
    return seconds, float(processor)


def ended(*words: str) -> tuple[float, float]:
    """Return the seconds that a command takes, and its processor time."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, used


def watched(run: str, source: Path, count: int) -> dict[str, Any]:
    """Run the command ``predict``; return people a second and, for each tenth of them, the largest memory in MB."""
    output = source.with_name("profiles.jsonl")
    words = [f"run={run}", f"input={source}", f"output={output}", f"photo_root={source.parent}"]
    most, done, size = [0.0] * TENTHS, 0, 0
    first = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "mmprofile.predict", *words], stdout=subprocess.DEVNULL) as process:
        partial = Path(f"{output}.partial")
        while process.poll() is None:
            time.sleep(0.05)
            if not partial.exists():
                continue
            with partial.open("rb") as file:
                file.seek(size)
                new = file.read()
            done, size = done + new.count(b"\n"), size + len(new)
            first = first if done else time.perf_counter()
            if done:
                tenth = min(done * TENTHS // count, TENTHS - 1)
                most[tenth] = max(most[tenth], resident(process.pid))
        assert process.returncode == 0
    return {"users": count, "users_per_second": count / (time.perf_counter() - first), "memory_mb": most}


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB, 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (FileNotFoundError, IndexError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all figures: pairs of seconds by the clock and of processor time, and those of :func:`watched`."""
    rounds = range(arguments.repeats + 1)
    sides = {
        "import mmprofile": lambda: started(IMPORT),
        "Profiler ready": lambda: started(ONE, arguments.run),
        "predict --help": lambda: ended("mmprofile.predict", "--help"),
        "train --help": lambda: ended("mmprofile.train", "--help"),
    }
    figures: dict[str, Any] = {name: [] for name in sides}
    for round_ in rounds:
        for name, side in sides.items():
            figures[name] += [side()] if round_ else []
    with tempfile.TemporaryDirectory() as folder:
        city = City(Path(folder), arguments.overrides)
        people = city.people("people.jsonl", 5 * arguments.repeats + 3, photos=0)
        done = subprocess.run(
            [sys.executable, "-c", PEOPLE, arguments.run, str(people)], capture_output=True, check=True
        )
        times = [tuple(map(float, line.split())) for line in done.stdout.decode().splitlines()]
        figures["the first person"], figures["one person"] = times[:1], times[3:]
        source = city.people("many.jsonl", arguments.users, photos=3)
        figures["memory"] = watched(arguments.run, source, arguments.users)
    return figures


def milliseconds(pairs: list[tuple[float, float]], place: int) -> str:
    """Return the median, least and most of clock (0) or processor time (1)."""
    values = [1000 * pair[place] for pair in pairs]
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def main() -> None:
    """Measure, and report."""
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("run", help="a finished run, or its model/")
    options.add_argument("overrides", nargs="*", help="data settings as mmprofile.train takes them")
    options.add_argument("--users", type=int, default=50_000, help="people whose profiles are written")
    arguments = options.parse_args()
    load = os.getloadavg()[0]
    figures = measure(arguments)
    memory = figures.pop("memory")
    tenths = [value for value in memory["memory_mb"] if value]
    text = f"## Prediction\n\n`python benchmarks/predict.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{machine()}, load {load:.1f}; median (least to most) of {arguments.repeats}, "
    text += f"of one person {len(figures['one person'])}.\n\n"
    rows = [[name, milliseconds(pairs, 0), milliseconds(pairs, 1)] for name, pairs in figures.items()]
    text += table(["", "clock, ms", "processor, ms"], rows) + "\n\n"
    text += f"{memory['users']:,} people: {memory['users_per_second']:.0f} a second. "
    text += f"Memory of each tenth, MB: {', '.join(f'{value:,.0f}' for value in tenths)}; "
    text += f"the most is {max(tenths) / min(tenths) - 1:.1%} above the least."
    report("predict", text, figures | {"memory": memory}, arguments)


if __name__ == "__main__":
    main()
