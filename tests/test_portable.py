"""Everything can be imported on systems without the modules that only Unix has."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAVIS = "mmprofile.caption.lavis_script"  # runs in an environment of its own
EXTRAS = {"datamodules.spark": "pyspark"}
"""Modules that only an extra can import, and what they need of it."""
PROGRAM = """
import builtins, importlib, sys

# Libraries look at the system first, so these are missing for our own packages alone.
unix = ("fcntl", "resource", "pwd", "termios")
original = builtins.__import__

def refuse(name, globals=None, *rest, **named):
    if name in unix and (globals or {}).get("__name__", "").split(".")[0] in ("mmprofile", "datamodules"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return original(name, globals, *rest, **named)

builtins.__import__ = refuse
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(failed)
sys.exit(bool(failed))
"""


def module_names() -> list[str]:
    """Return every module of both packages."""
    files = [path for package in ("mmprofile", "datamodules") for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    lacking = {name for name, needed in EXTRAS.items() if importlib.util.find_spec(needed) is None}
    return [name for name in names if name != LAVIS and name not in lacking]


def import_all(folder: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    """Import modules in a process that lacks those of Unix; its output names those that cannot be imported."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *names]
    return subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=600)


def test_every_module_is_imported_without_unix() -> None:
    names = module_names()
    assert len(names) > 100
    done = import_all(ROOT, names)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_finds_what_only_unix_has(tmp_path: Path) -> None:
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules" / "__init__.py").touch()
    for name in ("fcntl", "resource", "termios", "json"):
        (tmp_path / "datamodules" / f"{name}_user.py").write_text(f"import {name}\n")
    done = import_all(tmp_path, [f"datamodules.{name}_user" for name in ("fcntl", "resource", "termios", "json")])
    assert done.returncode == 1
    assert all(f"datamodules.{name}_user" in done.stdout for name in ("fcntl", "resource", "termios"))
    assert "json_user" not in done.stdout
