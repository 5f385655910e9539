"""The files that make a project: metadata, citation, changelog, hooks, the hosted workflow, templates."""

import configparser
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PERSON = {"name", "family-names", "given-names"}


def test_the_citation_has_what_its_format_requires() -> None:
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert len(CITATION["references"]) == 3
    for work in [CITATION, *CITATION["references"]]:
        assert {"type", "title", "authors"} <= work.keys()
        assert all(author and author.keys() <= PERSON for author in work["authors"])


def test_the_version_is_the_same_everywhere() -> None:
    version = SETUP["metadata"]["version"]
    assert CITATION["version"] == version
    assert CITATION["license"] == SETUP["metadata"]["license"]
    releases = re.findall(r"^## \[?([\w.]+)\]?", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert releases[:2] == ["Unreleased", version]


def test_classifiers_begin_with_the_oldest_python_that_is_allowed() -> None:
    minors = re.findall(r":: 3\.(\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
    assert minors == [str(minor) for minor in range(int(minors[0]), int(minors[-1]) + 1)]
    assert SETUP["options"]["python_requires"] == f">=3.{minors[0]}"
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["mypy"]["python_version"] == f"3.{minors[0]}"


def test_the_oldest_dependencies_are_the_lower_bounds() -> None:
    oldest = runpy.run_path(str(ROOT / ".ci" / "oldest.py"))["oldest"]
    text = "[options]\ninstall_requires =\n    a>=1.2\n    b\n    c[x]>=3,<4\n[options.extras_require]\ntest =\n    d-e>=5\n"
    assert oldest(text) == ["a==1.2", "c==3", "d-e==5"]
    own = oldest((ROOT / "setup.cfg").read_text(encoding="utf-8"))
    assert len(own) > 40
    assert all(re.fullmatch(r"[\w.-]+==[\d.]+", line) for line in own)


def test_the_hosted_workflow_only_calls_ci_run() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == ["bash .ci/run"] * 3
    assert workflow["jobs"]["newest"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert workflow["jobs"]["oldest"]["steps"][-1]["env"] == {"MMPROFILE_OLDEST": "1"}
    assert workflow["jobs"]["extras"]["steps"][-1]["env"] == {"MMPROFILE_EXTRAS": "1"}
    for switch in ("MMPROFILE_OLDEST", "MMPROFILE_EXTRAS"):
        assert switch in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_hooks_run_the_tools_of_ci_and_need_no_network() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for hook in repository["hooks"]:
        assert hook["name"] in checks


@pytest.mark.parametrize("name", ["bug", "feature", "paper_figure"])
def test_issue_forms_are_complete(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    assert all(field["attributes"]["label"] for field in fields)
