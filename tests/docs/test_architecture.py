"""The page on the architecture names the packages and layers that there are."""

import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


def test_the_tree_is_the_tree() -> None:
    tree = PAGE.split("\n```\nmmprofile/")[1].split("```")[0]
    named = set(re.findall(r"^  (\w+/|\w+\.py) ", tree, re.MULTILINE))
    children = [path for path in (ROOT / "mmprofile").iterdir() if path.name not in ("__pycache__", "__init__.py")]
    assert named == {f"{path.name}/" if path.is_dir() else path.name for path in children} - {"py.typed"}
    tops = set(re.findall(r"^(\w+)/", tree, re.MULTILINE))
    assert {"datamodules", "conf", "tests"} <= tops
    commands = set(re.search(r"a folder per command: ([\w, ]+)", tree)[1].split(", "))
    assert commands == {path.parent.name for path in (ROOT / "mmprofile" / "llm").glob("*/__main__.py")}


def test_the_layers_are_those_that_are_checked() -> None:
    layers = next(contract["layers"] for contract in CONTRACTS if contract.get("containers") == ["mmprofile"])
    lines = re.findall(r"^\d+\. (.*)$", PAGE, re.MULTILINE)
    assert [" | ".join(re.findall(r"`(\w+)`", line)) for line in lines] == layers


def test_the_files_in_the_picture_exist() -> None:
    picture = PAGE.split("```mermaid")[1].split("```")[0]
    home, missing, files = "", [], 0
    for line in picture.splitlines():
        if match := re.search(r"subgraph (\w+)", line):
            home = "datamodules" if match[1] == "datamodules" else f"mmprofile/{match[1]}"
        for name in re.findall(r"[\w/]+\.py", line):
            files += 1
            place = ROOT / "mmprofile" / name if "/" in name else ROOT / home / name
            missing += [name] if not place.is_file() else []
    assert files > 10
    assert missing == []


def test_datamodules_import_what_the_page_says() -> None:
    sentence = re.search(r"`datamodules` import from (.*?)\.", PAGE, re.DOTALL)[1]
    named = set(re.findall(r"`(\w+)`", sentence))
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "datamodules").rglob("*.py"))
    imported = set(re.findall(r"^\s*from mmprofile\.(\w+)", code, re.MULTILINE))
    assert imported <= named
    assert set(re.findall(r"^\s*from mmprofile\.llm\.(\w+)", code, re.MULTILINE)) <= {"people", "labels"}
