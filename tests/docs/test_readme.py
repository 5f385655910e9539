"""What the README, the pages of docs/ and the notebooks tell people to type is understood."""

import json
import re
import shlex
from pathlib import Path

import pytest

from mmprofile.__main__ import COMMANDS as DOORS
from mmprofile.config.compose import load_config
from mmprofile.sweep.run import read_words

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = r"python -m mmprofile\.(\w+)(?:\.\w+)?((?: [^\s`|&]+)*)"
PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
NOTEBOOKS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
PAGES += ["".join(cell["source"]) for book in NOTEBOOKS for cell in book["cells"] if cell["cell_type"] == "markdown"]
COMMANDS = sorted({command for page in PAGES for command in re.findall(COMMAND, page)} - {("X", "")})  # X: any command


def test_commands_are_found() -> None:
    """Nothing below would fail if the pages were written in a way that hides their commands."""
    assert {name.split(".")[0] for name in DOORS} <= {name for name, _ in re.findall(COMMAND, README)}
    assert len(COMMANDS) >= 40


@pytest.mark.parametrize(("name", "arguments"), COMMANDS)
def test_every_command_composes(name: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "docs" / "own_data")  # which has the schema that its page names
    words = shlex.split(arguments)
    overrides = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words if not word.startswith("-")]
    if name == "sweep":
        assert read_words(overrides).cfg
        return
    config = load_config("train" if name == "doctor" else name, overrides)  # the doctor takes train's words
    for word in overrides:
        key, _, value = word.partition("=")
        if key in ("paradigm", "data", "model") and key in config:
            assert config[key].name == value


def test_the_readme_has_both_commands_and_its_links_lead_somewhere() -> None:
    assert ".venv/bin/python -m mmprofile.train paradigm=both name=both" in README
    assert '.venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest' in README
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
