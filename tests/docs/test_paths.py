"""Files, modules and names that the pages, docstrings, comments and configurations mention exist.

Nothing is imported: modules are parsed, so this takes a second and needs no library of the model.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
TOPS = ("mmprofile", "datamodules")
FILE = re.compile(
    r"(?<![\w./-])((?:mmprofile|datamodules|conf|scripts|benchmarks|notebooks|docs|tests)/[\w/.*+-]*?\.(?:py|ya?ml|md|ipynb|json))"
    r"(?::([A-Za-z_][\w.]*))?"
)
DOTTED = re.compile(r"(?<![\w./-])((?:mmprofile|datamodules)(?:\.[A-Za-z_]\w*)+)")
# conf/ has the first name in the wheel; X and COMMAND stand for any command; old fingerprints have the last name.
ELSEWHERE = {
    "mmprofile.conf",
    "mmprofile.X",
    "mmprofile.COMMAND",
    "mmprofile/X/__main__.py",
    "mmprofile/llm/lexicon.py",
}

PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "mmprofile" / "assets").rglob("*.md"),
]
CODE = [
    path
    for top in (*TOPS, "scripts", "benchmarks", "conf")
    for ending in ("*.py", "*.yaml")
    for path in (ROOT / top).rglob(ending)
]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def bound(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Return what the statements of a module or class bind, and the statement that does."""
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            names |= bound(node.body)
        else:
            names |= {item.id: node for item in ast.walk(node) if isinstance(item, ast.Name)}
    return names


def has_name(path: Path, parts: list[str]) -> bool:
    """Tell whether a module has a name, or a class of it a method or attribute (its own; bases are not followed)."""
    names = bound(parsed(path).body)
    if path.name == "__init__.py" and parts[0] not in names:
        lazy = names.get("__all__")
        return lazy is not None and any(
            isinstance(item, ast.Constant) and item.value == parts[0] for item in ast.walk(lazy)
        )
    if parts[0] not in names or len(parts) == 1:
        return parts[0] in names
    owner = names[parts[0]]
    if not isinstance(owner, ast.ClassDef):
        return True
    attributes = {item.attr for item in ast.walk(owner) if isinstance(item, ast.Attribute)}
    return parts[1] in bound(owner.body) or parts[1] in attributes or bool(owner.bases)


def module_of(dotted: str) -> tuple[Path, list[str]]:
    """Return the file of the longest module that a dotted name begins with, and what follows."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:size])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path, parts[size:]
    raise AssertionError(dotted)


def wrong(text: str, folder: Path = ROOT) -> list[str]:
    """Return the mentions in a text that lead nowhere, from the repository's root or from the folder of the text."""
    missing = []
    for file, name in FILE.findall(text):
        if file in ELSEWHERE:
            continue
        found = sorted([*ROOT.glob(file), *folder.glob(file)])
        if not found or (name and not has_name(found[0], name.rstrip(".").split("."))):
            missing.append(f"{file}:{name}".rstrip(":"))
    for dotted in DOTTED.findall(text):
        if dotted in ELSEWHERE:
            continue
        path, rest = module_of(dotted)
        if rest and not has_name(path, rest):
            missing.append(dotted)
    return missing


def mentions(path: Path) -> str:
    """Return a file's text without diffs; of the changelog only what holds today, of its table of moves the right column."""
    text = re.sub(r"^```diff\n.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    if path.name != "CHANGELOG.md":
        return text
    text = text.split("\n## 0.1.0")[0].split("### Removed")[0]
    return "\n".join(line.rsplit("|", 2)[1] if line.strip().startswith("|") else line for line in text.splitlines())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_exists(path: Path) -> None:
    assert wrong(mentions(path), path.parent) == []


def test_python_of_the_pages_imports_names_that_exist() -> None:
    blocks = [
        block
        for path in PAGES
        for block in re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    imports = [
        (node.module, alias.name)
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(TOPS)
        for alias in node.names
    ]
    assert len(imports) >= 5
    missing = []
    for module, name in imports:
        path, rest = module_of(f"{module}.{name}")
        missing += [f"{module}.{name}"] if rest and not has_name(path, rest) else []
    assert missing == []


def test_what_docstrings_comments_and_configurations_name_exists() -> None:
    missing = {str(path.relative_to(ROOT)): wrong(path.read_text(encoding="utf-8")) for path in CODE}
    assert {name: mentions for name, mentions in missing.items() if mentions} == {}


def test_a_mention_that_leads_nowhere_is_seen() -> None:
    assert wrong("see `mmprofile/nowhere.py` and mmprofile.train.run.train_model") == ["mmprofile/nowhere.py"]
    assert wrong("`mmprofile/model/model.py:ProfileModel.forward`, conf/data/*.yaml") == []
    assert wrong("`mmprofile/model/model.py:Nobody` :func:`mmprofile.files.nothing`") == [
        "mmprofile/model/model.py:Nobody",
        "mmprofile.files.nothing",
    ]
    assert wrong("from mmprofile import Schema; mmprofile.Schema") == []


def test_enough_is_looked_at() -> None:
    """The patterns would find nothing in pages that are written another way; then this test says so."""
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert len(FILE.findall(text)) > 40
    assert len(DOTTED.findall(text)) > 60
