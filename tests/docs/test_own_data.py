"""docs/own_data.md: everything on the page is run in a copy of its folder, as a new user would."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.rules import check_rules
from mmprofile import Schema
from mmprofile.predict.fit import People
from mmprofile.profile.attributes import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the page have been run."""
    folder = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(ROOT / "docs" / "own_data", folder)
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    doors = ["mmprofile.prepare", "mmprofile.train", "mmprofile.prepare", "mmprofile.predict"]
    assert [command.split()[2] for command in commands] == doors
    _, trained, listed, _ = [run(folder, *shlex.split(command)[1:]) for command in commands]
    assert trained.startswith("no captions: paradigm=multi\n")
    assert "this command's" in listed
    return folder


def run(folder: Path, *words: str) -> str:
    environment = os.environ | {"MMPROFILE_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_learns_from_incomplete_labels(folder: Path) -> None:
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(len(row) - 1 for row in labels) < 0.8 * 3 * len(labels)  # the page says that they are incomplete
    metrics = json.loads((folder / "outputs" / "shops" / "metrics.json").read_text())
    assert metrics["test"]["macro_f1"] > metrics["baselines"]["majority"]["macro_f1"] + 30


def test_everything_is_tried_on_a_few_people(folder: Path) -> None:
    [_, train, *_] = blocks("bash")
    words = [word for word in shlex.split(train)[1:] if not word.startswith(("trainer.", "name="))]
    done = run(folder, *words, "experiment=smoke", "photos=none")
    assert done.startswith("no photos: paradigm=text\n")
    assert "run text-tiny-custom-seed0 in outputs/text-tiny-custom-seed0" in done
    assert (folder / "outputs" / "text-tiny-custom-seed0" / "metrics.json").is_file()


def test_a_suggested_schema_is_one_to_prepare_with(folder: Path) -> None:
    suggested, shops = (Schema.from_yaml(folder / f"{name}.yaml") for name in ("mine", "shops"))
    assert {a.name: sorted(a.values) for a in suggested.attributes} == {
        a.name: sorted(a.values) for a in shops.attributes
    }
    source = ["data.prepare.source.reviews=reviews.jsonl", "data.prepare.source.labels=labels.jsonl"]
    prepared = Path(run(folder, "-m", "mmprofile.prepare", "data=custom", *source, "profile=mine.yaml").strip())
    assert Schema.from_yaml(prepared / "schema.yaml").attributes == suggested.attributes


def test_people_get_profiles_and_what_is_no_person_is_listed(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "profiles.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["user_id"] for row in rows] == ["neu0", "neu1", "neu2"]
    assert all(None not in row["profile"].values() for row in rows)  # nobody was labelled Unknown, so nobody is
    [bad] = [json.loads(line) for line in (folder / "profiles.errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (bad["row"], bad["reason"]) == (3, "user 'leer' has neither reviews nor photos")


def test_the_lines_of_python(folder: Path) -> None:
    code = blocks("python")[-1]
    profile, evidence = run(folder, "-c", code).splitlines()
    assert profile.startswith("<Travels By: ")
    assert evidence.startswith("Evidence(source='")
    moved = folder.parent / "elsewhere"
    shutil.copytree(folder / "outputs" / "shops" / "model", moved)
    assert run(folder, "-c", code.replace("outputs/shops", str(moved))).splitlines() == [profile, evidence]


def test_a_training_in_python(folder: Path) -> None:
    """Of one epoch; that it has the results of the command is tested beside ``Profiler.fit``."""
    code = blocks("python")[0].replace('"max_epochs": 20', '"max_epochs": 1')
    assert run(folder, "-c", code).splitlines()[-1].startswith("<Travels By: ")
    assert "# from-python\n" in (folder / "outputs" / "from-python" / "model" / "README.md").read_text(encoding="utf-8")


def test_a_row_of_a_person(tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(blocks("python")[1], scope)
    people = People(tmp_path, Schema.from_yaml(ROOT / "docs" / "own_data" / "shops.yaml"))
    people.add(scope["person"], 0)
    assert people.labels == {"kunde000": {"Budget": "low"}}
    assert [row["text"] for row in people.reviews] == scope["person"]["reviews"]


def test_the_examples_are_of_the_files(folder: Path) -> None:
    schema = blocks("yaml")[0]
    assert yaml.safe_load(schema) == yaml.safe_load((folder / "shops.yaml").read_text(encoding="utf-8"))
    review, label = (json.loads(block) for block in blocks("json"))
    first = json.loads((folder / "reviews.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert review.keys() == first.keys()
    assert label == json.loads((folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()[0])


def test_the_kinds_are_as_the_table_says() -> None:
    """Each line has an attribute, labels of it and, where values are in order, what is scored beside macro-F1."""
    rows = re.findall(r"^\| [^|]+ \| `(\{.*?\})` \| (.*?) \| (.*?) ?\|$", PAGE, re.M)
    attributes = [Schema.from_dict({"attributes": [yaml.safe_load(row)]}).attributes[0] for row, _, _ in rows]
    assert {attribute.kind for attribute in attributes} == set(KINDS)
    for attribute, (_, labels, scored) in zip(attributes, rows, strict=True):
        fitted = attribute if attribute.is_fitted else attribute.fitted(range(20))
        for label in re.findall("`(.*?)`", labels):
            assert fitted.allows(fitted.canonical(fitted.words(json.loads(label))))
        assert ("kappa" in scored) == (fitted.scale is not None)
        assert ("share of people" in scored) == fitted.several
    written = re.findall("`([^`]*)`", PAGE[PAGE.index("**Numbers**") :])[:4]
    assert tuple(written) == next(a.values for a in attributes if a.edges)


def test_the_rules_are_legal(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("attributes:\n" + blocks("yaml")[1], encoding="utf-8")
    schema = Schema.from_yaml(path)
    assert check_rules(schema).keys() == {"review.price", "review.channel", "review.coupon", "business.rent"}
    assert dict(schema["Haggles"].rule or {})["of"] == "yes"
