"""Labels against gold, as a user runs it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.evaluate.run import draw, without_gold_split
from mmprofile.llm.labels import Label, save_labels
from mmprofile.llm.people import Person
from mmprofile.llm.stage import open_schema, read_people
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

CITY = "data.prepare.source.users=30"


def run(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmprofile.llm.evaluate", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def labels_of(people: Sequence[Person], schema: Schema) -> list[Label]:
    """Right for every second person, Unknown for the others."""
    return [
        Label(person.user_id, name, (person.gold[name] or (UNKNOWN,))[0] if number % 2 else UNKNOWN, 0.9)
        for number, person in enumerate(people)
        for name in schema.names
    ]


def test_the_command_on_the_demo_city(tmp_path: Path) -> None:
    cfg = load_config("llm", [CITY])
    schema = open_schema(cfg)
    people = read_people(cfg, schema)
    path = tmp_path / "outputs" / "llm" / "demo" / "labels.parquet"
    labels = [
        *labels_of(people, schema)[: -len(schema.names)],
        Label("ghost", "Age", "65+", 0.5),
        Label("x", "Shoe", "9", 1),
    ]
    save_labels(path, labels)
    done = run(CITY, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert f"{len(people)} people of train, validation, test: 0 without any gold value" in done.stdout
    assert "1 without any label (as if Unknown)" in done.stdout
    assert "1 labels are of people who were not read (other splits or data): left out" in done.stdout
    assert "1 labels are of attributes that the profile does not have: left out" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("demo: scores.json, reliability.png, risk_coverage.png")
    assert max(map(len, done.stdout.splitlines()[:12])) <= 100
    scores = json.loads((path.parent / "scores.json").read_text())
    assert scores["overall"]["precision"] == 100.0
    assert scores["overall"]["said"] == scores["overall"]["correct"]
    assert scores["overall"]["ece"] == pytest.approx(0.1)
    assert scores["interval"][0] <= scores["overall"]["f1"] <= scores["interval"][1]
    assert (scores["users"], scores["without_gold"], scores["without_labels"]) == (len(people), 0, 1)
    assert (scores["labels_of_others"], scores["labels_of_other_attributes"]) == (1, 1)
    assert scores["purpose"] == "a demonstration on generated people"
    for name in schema.names:
        assert name in done.stdout
        right = sum(bool(person.gold[name]) for person in people[1:-1:2])
        assert scores["per_attribute"][name]["correct"] == right
    for name in ("reliability.png", "risk_coverage.png"):
        with Image.open(path.parent / name) as picture:
            assert min(picture.size) > 300
    # The chosen splits only; labels given by name.
    done = run(CITY, "splits=[test]", f"labels={path}", cwd=tmp_path)
    tests = [person for person in people if person.split == "test"]
    assert f"{len(tests)} people of test: " in done.stdout
    assert json.loads((path.parent / "scores.json").read_text())["users"] == len(tests)


def test_gold_that_calibrated_is_not_scored(tmp_path: Path) -> None:
    people = [Person(f"u{i}", split=("train", "validation", "test")[i % 3]) for i in range(6)]
    path = tmp_path / "labels.parquet"
    assert without_gold_split(people, path) == (people, None)  # labels made elsewhere
    for kind, split in (("quantile", None), ("isotonic", "validation")):
        (tmp_path / "calibration.json").write_text(json.dumps({"kind": kind, "vote": {"gold_split": "validation"}}))
        left, fitted = without_gold_split(people, path)
        assert (fitted, {person.split for person in left}) == (split, {"train", "validation", "test"} - {split})
    with pytest.raises(UserError, match=r"calibrated on the split validation; score others"):
        without_gold_split(people[1:2], path)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    people = tmp_path / "people.jsonl"
    people.write_text(json.dumps({"user_id": "ann", "reviews": ["Good soup."]}) + "\n")
    words = (f"input={people}", "purpose=a test")
    done = run(*words, cwd=tmp_path, code=2)
    assert done.stderr.startswith("error: labels=outputs/llm/people/labels.parquet: there is no such file")
    path = tmp_path / "outputs" / "llm" / "people" / "labels.parquet"
    for user, message in (("ghost", "none of its 1 labels is of the 1 people"), ("ann", "nobody has a gold value of")):
        save_labels(path, [Label(user, "Age", "65+", 0.5)])
        done = run(*words, cwd=tmp_path, code=2)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    path.write_text("no table")
    assert "no table of labels" in run(*words, cwd=tmp_path, code=2).stderr


SCHEMA = Schema(
    "toy", [Attribute("Age", ("young", "old"), unknown=True), Attribute("Pet", ("cat", "dog"), unknown=True)]
)
PEOPLE = [Person("ann", gold={"Age": ("old",)}), Person("bob", gold={"Age": ()})]


def test_nothing_said_draws_nothing(tmp_path: Path) -> None:
    gold = [person.gold for person in PEOPLE]
    assert draw(SCHEMA, gold, [{}, {}], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
