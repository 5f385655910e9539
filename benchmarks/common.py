"""Shared by the benchmarks: sides that take turns in one process, medians and ratios, sections of docs/benchmarks.md."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
LIBRARIES = ("torch", "transformers", "timm")


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, default=None, help="write medians and ratios here")
    made.add_argument("--repeats", type=int, default=5, help="timed repeats of each side, after one that is not")
    made.add_argument("--page", type=Path, default=None, help=f"write the table into this page; the project's: {PAGE}")
    return made


def alternate(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each side. Sides take turns, so a slow minute of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """Return how many times as long ``slow`` takes: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def spread(seconds: Sequence[float]) -> str:
    """Return the median, least and most seconds as text."""
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def machine() -> str:
    """Return a line with the machine, versions and the date."""
    names = [line.split(":")[1].strip() for line in _cpu() if line.startswith("model name")]
    cpu = names[0] if names else platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{os.cpu_count()} cores ({cpu}){gpu}; Python {platform.python_version()}, {versions}; {date.today()}"


def _cpu() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(name: str, text: str, figures: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Print the text, write it as the section ``name`` of the page, and write the figures as JSON."""
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if arguments.page:
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        page = arguments.page.read_text(encoding="utf-8") if arguments.page.exists() else "# Benchmarks\n"
        before, _, rest = page.partition(begin)
        after = rest.partition(end)[2] if rest else ""
        arguments.page.write_text(f"{before.rstrip()}\n\n{begin}{text}\n{end}{after}", encoding="utf-8")
