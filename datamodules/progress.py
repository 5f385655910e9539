"""What is being done, on stderr: one line a step, a heartbeat in long ones, a bar for counted work."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

HEARTBEAT_SECONDS = 15.0


class Progress:
    """Shows steps and bars; shows nothing when switched off."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown

    def say(self, text: str) -> None:
        """Print a line."""
        if self.shown:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print when a step starts, every 15 seconds while it runs, and how long it took."""
        start, over = time.monotonic(), threading.Event()
        self.say(f"prepare: {text} ...")

        def beat() -> None:
            while not over.wait(HEARTBEAT_SECONDS):
                self.say(f"prepare: still {text} ({time.monotonic() - start:.0f} s)")

        thread = threading.Thread(target=beat, daemon=True)
        if self.shown:
            thread.start()
        try:
            yield
        finally:
            over.set()
        self.say(f"prepare: {text} done in {time.monotonic() - start:.1f} s")

    def bar(self, total: int, text: str, unit: str) -> "tqdm[Any]":
        """Return a bar to ``update``; use it as a context manager. Without a terminal it prints every 10 seconds."""
        terminal = sys.stderr.isatty()
        return tqdm(
            total=total,
            desc=f"prepare: {text}",
            unit=unit,
            disable=not self.shown or not total,
            mininterval=0.2 if terminal else 10,
        )
