"""What reviews, photos and people cost, in processor time and memory.

Each size is a command in a process of its own. Processor time is that of the process and its children, imports included:
others on the machine disturb it less than the clock. The raw files are those of ``benchmarks/prepare.py``; fewer reviews are
the first of them. People are those of ``benchmarks/predict.py``'s kind, without photos: three reviews that nobody else has.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from prepare import FILES, city, photos_per_second

LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
spent = {"clock_s": round(time.perf_counter() - start, 2), "cpu_s": round(usage.ru_utime + usage.ru_stime, 2)}
print(json.dumps(spent | {"peak_mb": round(usage.ru_maxrss * 1024 / 1e6), "status": status}))
"""


def spent(command: list[str]) -> dict[str, float]:
    """Return clock and processor seconds of a command, and the peak memory (MB) of its largest process."""
    found: dict[str, float] = json.loads(
        subprocess.run([sys.executable, "-IS", "-c", LAUNCHER, *command], stdout=subprocess.PIPE, check=True).stdout
    )
    if found.pop("status"):
        raise SystemExit(f"{' '.join(command)} failed")
    return found


def of_reviews(raw: Path, work: Path, count: int) -> dict[str, float]:
    """Return what preparing the first reviews costs: raw files to prepared folder, photos included."""
    some = work / f"raw-{count}"
    some.mkdir()
    for name in (*(name for name in FILES if name != FILES[1]), "photos"):
        (some / name).symlink_to((raw / name).resolve())
    with (raw / FILES[1]).open("rb") as lines, (some / FILES[1]).open("wb") as first:
        for _, line in zip(range(count), lines, strict=False):
            first.write(line)
    folder = work / f"prepared-{count}"
    shares = ["train=0.7", "validation=0.1", "test=0.2"]
    cost = spent(
        [sys.executable, "-m", "mmprofile.prepare", "data=yelp", f"data.prepare.source.path={some}",
         f"data.prepare.folder={folder}", *(f"data.prepare.split.{share}" for share in shares)]
    )  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    kept = {"users": sum(manifest["splits"].values()), "photos": manifest["photos"]["stored"]}
    return cost | kept | {"raw_mb": round((some / FILES[1]).stat().st_size / 1e6), "prepared_mb": round(size / 1e6)}


def of_people(run: Path, work: Path, count: int) -> dict[str, float]:
    """Return what predicting costs: the command ``predict``, from its start to its end."""
    source, target = work / f"people-{count}.jsonl", work / f"profiles-{count}.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for number in range(count):
            reviews = [f"Visit {number}-{n}: the soup was warm, the bread good, so we stayed long." for n in range(3)]
            file.write(json.dumps({"user_id": f"u{number}", "reviews": reviews}) + "\n")
    return spent([sys.executable, "-m", "mmprofile.predict", f"run={run}", f"input={source}", f"output={target}"])


def main() -> None:
    """Measure each curve that is asked for."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--raw", type=Path, required=True, help="the raw files, made if they are not there")
    options.add_argument("--run", type=Path, help="a finished run, for the curve of people")
    options.add_argument("--reviews", type=int, nargs="*", default=[125_000, 250_000, 500_000, 1_000_000])
    options.add_argument("--photos", type=int, nargs="*", default=[250, 500, 1000])
    options.add_argument("--people", type=int, nargs="*", default=[500, 1000, 2000, 4000])
    options.add_argument("--json", type=Path, help="write the figures here")
    arguments = options.parse_args()
    os.environ.setdefault("MMPROFILE_USER_KEY", secrets.token_hex(32))
    city(arguments.raw, max(arguments.reviews, default=1_000))
    figures: dict[str, Any] = {"reviews": {}, "photos_per_s_per_core": {}, "people": {}}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for count in arguments.reviews:
            figures["reviews"][count] = of_reviews(arguments.raw, work, count)
        for count in arguments.photos:
            figures["photos_per_s_per_core"][count] = round(photos_per_second(work, count, 1)[0])
        for count in arguments.people if arguments.run else ():
            figures["people"][count] = of_people(arguments.run, work, count)
    figures["load"] = os.getloadavg()
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
