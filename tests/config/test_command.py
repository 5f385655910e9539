"""What every command does before it imports anything heavy."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.fast

PROGRAM = """
import os, sys
from mmprofile.config.command import run_command

sys.argv = ["prepare"]
run_command("prepare", lambda cfg: print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules))
"""


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_share_the_cores_unless_the_user_says_otherwise(given: dict[str, str], spins: str) -> None:
    """OpenMP reads its variables when torch is imported, so they are set before that."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=inherited | given, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{spins} False\n"), done.stderr
