"""What a user sets in the environment, in processes of its own: the hub's client reads it when it is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.hubserver import commit_of, serving

SCRIPT = """
import json, sys, time
from mmprofile.errors import UserError
from mmprofile.model.backbones import load_text
start, results = time.monotonic(), []
for name in sys.argv[1:]:
    try:
        text = load_text({"name": name}, True)
        results.append([text.checkpoint.commit, sum(p.double().sum().item() for p in text.model.parameters())])
    except UserError as error:
        results.append(str(error))
print(json.dumps([results, time.monotonic() - start]))
"""


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_environment_is_obeyed(t5_folder: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE."""
    env = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    env.pop("HF_HUB_CACHE", None)

    def run(*names: str, **more: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *names], env={**env, **more}, capture_output=True, text=True, check=True
        )
        results, seconds = json.loads(done.stdout)
        assert seconds < 3
        return results

    with serving() as hub:
        hub.add("org/t5", t5_folder)
        (online,) = run("org/t5", HF_ENDPOINT=hub.url)
    assert online[0] == commit_of(t5_folder)
    assert (tmp_path / "home" / "hub" / "models--org--t5" / "snapshots" / online[0]).is_dir()
    offline, missing = run("org/t5", "org/t6", HF_HUB_OFFLINE="1")
    assert offline == online
    assert f"the cache {tmp_path / 'home' / 'hub'} does not have it" in missing
