"""``--help`` is read by people, and comes at once."""

import re
import statistics
import subprocess
import sys
import time

import pytest

from mmprofile.__main__ import COMMANDS
from mmprofile.config.help import WIDEST, print_help
from mmprofile.errors import UserError

pytestmark = pytest.mark.fast
SLACK = 4
"""How much slower than ours a machine under load may be: on an idle one help takes half a second."""


def test_the_page_is_read_by_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    print_help("prepare", "mmprofile.prepare", "Prepare a data set.", ["data=custom"])
    page = capsys.readouterr().out
    assert page.startswith("usage: python -m mmprofile.prepare [key=value ...]\n\nPrepare a data set.\n")
    assert re.search(
        r"^  data=custom  +where the users come from \[custom, demo, demo_indirect,\n +yelp\]$", page, re.M
    )
    assert "  data.prepare.split={train: 0.7, validation: 0.1, test: 0.2, seed: 0}\n" in page
    assert "reviews: ..., photos: null" in page
    assert all(len(line) <= 100 for line in page.splitlines() if line.startswith(" " * WIDEST))  # meanings are wrapped
    assert "_target_" not in page
    with pytest.raises(UserError, match="unknown config key 'xyzzy'"):
        print_help("prepare", "mmprofile.prepare", "", ["xyzzy=1"])


def test_help_comes_at_once() -> None:
    """A time, so with much slack; ``benchmarks/predict.py`` measures it."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mmprofile.train", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 1.5 * SLACK


def test_commands_have_help_of_their_own() -> None:
    for name in ("doctor", "llm.vote", "sweep"):
        assert name in COMMANDS
        done = subprocess.run(
            [sys.executable, "-m", f"mmprofile.{name}", "-h"], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(f"usage: python -m mmprofile.{name} [key=value ...]\n\n")
