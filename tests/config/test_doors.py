"""Every command has a door that checks the command line before anything heavy is imported."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmprofile
from mmprofile.__main__ import COMMANDS, main

PACKAGE = Path(mmprofile.__file__).parent
HEAVY = ("torch", "transformers", "pytorch_lightning", "pandas", "pyarrow", "ibis", "sklearn", "matplotlib", "PIL")
# Run a door as ``python -m`` does, and say on the last line which heavy packages were imported.
WATCH = f"""
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    print("heavy:", *(name for name in {HEAVY} if name in sys.modules))
"""
# Words that open each door: what only the user can say.
ASKED = {
    "evaluate": ["run=outputs/both"],
    "apply": ["run=outputs/both"],
    "predict": ["run=outputs/both", "input=users.jsonl"],
    "inspection": ["run=outputs/both"],
    "report": ["run=outputs/both"],
    "sweep": ["table=2"],
    "forget": ["user=ann"],
}


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)


def doors() -> set[str]:
    """The commands on disk: what ``python -m`` can run."""
    names = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__main__.py")} - {"."}
    names |= {path.stem for path in PACKAGE.glob("*.py") if "run_command(" in path.read_text()}
    return {name.replace("/", ".") for name in names}


def test_the_list_of_commands_names_every_door() -> None:
    assert set(COMMANDS) == doors()
    listed = call("-m", "mmprofile")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[2:-2]] == [*COMMANDS]


def test_one_command_opens_every_door() -> None:
    asked, door = call("-m", "mmprofile", "predict", "--help"), call("-m", "mmprofile.predict", "--help")
    assert (asked.returncode, asked.stdout) == (0, door.stdout)
    typo = call("-m", "mmprofile", "predict", "run=a", "input=b", "xyzzy=1")
    assert (typo.returncode, typo.stderr) == (2, "error: unknown config key 'xyzzy'\n")
    wrong = call("-m", "mmprofile", "trian", "paradigm=both")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: 'trian' is no command (did you mean train?); mmprofile alone lists them\n"


def test_the_installed_command_is_that_of_the_package() -> None:
    [script] = importlib.metadata.entry_points(group="console_scripts", name="mmprofile")
    assert script.load() is main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_nothing_heavy(name: str) -> None:
    done = call("-c", WATCH, f"mmprofile.{name}", "--help")
    assert done.returncode == 0, done.stderr
    *text, heavy = done.stdout.splitlines()
    assert heavy == "heavy:"
    config = "llm" if name.startswith("llm.") else name
    keys = {"evaluate": "split=test", "predict": "input=...", "llm": "samples=8", "prepare": "data=demo"}
    assert keys.get(config, "") in "\n".join(text)
    assert f"mmprofile.{name}" in text[0]
    assert not done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_typo_is_one_line_before_anything_heavy_is_imported(name: str) -> None:
    done = call("-c", WATCH, f"mmprofile.{name}", *ASKED.get(name, []), "xyzzy=1")
    assert done.returncode == 2
    assert done.stderr == "error: unknown config key 'xyzzy'\n"
    assert done.stdout in ("heavy:\n", "heavy: matplotlib PIL\n" if name == "sweep" else "")  # a sweep reads its tables


@pytest.mark.parametrize("name", [name for name in ASKED if name != "sweep"])
def test_what_is_missing_is_named(name: str) -> None:
    done = call("-m", f"mmprofile.{name}")
    key = ASKED[name][0].split("=")[0]
    assert (done.returncode, done.stderr) == (2, f"error: {key} is not set; add {key}=... to the command line\n")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, mmprofile; print(*(name for name in {(*HEAVY, 'hydra', 'numpy')} if name in sys.modules))"
    assert call("-c", code).stdout == "\n"
    assert mmprofile.Schema.__name__ == "Schema"
    assert set(mmprofile.__all__) <= set(dir(mmprofile))
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        mmprofile.Nonsense  # noqa: B018


def unread(folder: Path, buffered: bool, *words: str) -> tuple[int, str]:
    """The exit status of Python and what it says to stderr when nobody reads its output."""
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        return process.wait(timeout=60), process.stderr.read()


@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_is_not_read_to_its_end_leaves_no_trace(buffered: bool, tmp_path: Path) -> None:
    assert unread(tmp_path, buffered, "-m", "mmprofile.predict", "--help") == (1, "")
    command = "from mmprofile.config.command import guarded; guarded(lambda: print('a table'))"
    assert unread(tmp_path, buffered, "-c", command) == (1, "")


def test_another_broken_pipe_is_an_error() -> None:
    code = "from mmprofile.config.command import guarded\n"
    code += "import os; r, w = os.pipe(); os.close(r); guarded(lambda: os.write(w, b'x'))"
    done = call("-c", code)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr
