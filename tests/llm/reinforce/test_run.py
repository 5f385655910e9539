"""The command: rollouts that are drawn once, a student of each reward, mistakes in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mmprofile.errors import UserError
from mmprofile.llm.checks import recipe_settings
from mmprofile.llm.labels import Label, save_labels
from mmprofile.llm.reinforce.rewards import FrozenLabels
from mmprofile.llm.reinforce.run import main, reinforce, vote_rollouts
from tests.support.toyreinforce import TOY, TOY_PEOPLE, toy_config, toy_student


def test_rollouts_are_drawn_once(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmprofile.llm.rollouts.PART", 2)
    cfg = toy_config("reinforce.rollouts=4")
    settings = recipe_settings(cfg, "ours")
    labels = vote_rollouts(toy_student(start), TOY_PEOPLE, settings, cfg, tmp_path)
    assert {(label.user_id, label.attribute) for label in labels} == {
        (p.user_id, n) for p in TOY_PEOPLE for n in TOY.names
    }
    written = (tmp_path / "rollouts.jsonl").read_text()
    assert len(written.splitlines()) == 16
    assert vote_rollouts(toy_student(start), TOY_PEOPLE, settings, cfg, tmp_path) == labels
    assert (tmp_path / "rollouts.jsonl").read_text() == written
    # a run that was killed amid a part draws the rest, and ends with the same votes
    (tmp_path / "rollouts.jsonl").write_text("".join(line + "\n" for line in written.splitlines()[:11]))
    assert vote_rollouts(toy_student(start), TOY_PEOPLE, settings, cfg, tmp_path) == labels
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert len({row["request"] for row in rows}) == len(rows) == 16
    # another student's answers are other rollouts
    other = toy_student(start)
    with torch.no_grad():
        other.model.model.norm.weight.mul_(0.5)
    vote_rollouts(other, TOY_PEOPLE, settings, cfg, tmp_path)
    assert len((tmp_path / "rollouts.jsonl").read_text().splitlines()) == len(rows) + 16


def test_no_more_people_are_voted_than_the_steps_visit(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmprofile.llm.rollouts.PART", 2)
    overrides = ["reinforce.rollouts=2", "reinforce.steps=1", "reinforce.low=0", "reinforce.high=1"]
    cfg = toy_config(*overrides)
    labels = vote_rollouts(toy_student(start), TOY_PEOPLE, recipe_settings(cfg, "ours"), cfg, tmp_path)
    assert len({label.user_id for label in labels}) == 2
    overrides[1] = "reinforce.steps=2"
    cfg = toy_config(*overrides)
    more = vote_rollouts(toy_student(start), TOY_PEOPLE, recipe_settings(cfg, "ours"), cfg, tmp_path)
    assert more[: len(labels)] == labels
    assert len({label.user_id for label in more}) == 4


@pytest.fixture
def stage(start: Path, tmp_path: Path) -> list[str]:
    """A stage's folder with a student of the toy schema; the words that choose it."""
    (tmp_path / "people.jsonl").write_text(
        "".join(
            json.dumps({"user_id": p.user_id, "reviews": list(p.reviews), "split": "train"}) + "\n" for p in TOY_PEOPLE
        )
    )
    shutil.copytree(start, tmp_path / "out" / "people" / "student")
    (tmp_path / "out" / "people" / "student" / "made_of.json").write_text("{}")
    attributes = "[{name: One, values: [a, b], unknown: true}, {name: Two, values: [c, d], unknown: true}]"
    return [
        f"input={tmp_path / 'people.jsonl'}", f"out={tmp_path / 'out'}", "purpose=a test", f"profile.attributes={attributes}",
        "profile.name=toy", "reinforce.rollouts=8", "reinforce.steps=2", "reinforce.low=0", "reinforce.high=1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["ours", "weighted", "majority"])
def test_the_command(name: str, stage: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(toy_config(*stage, f"recipe={name}"))
    printed = capsys.readouterr().out
    assert (
        f"{name}: 4 of 4 people are of moderate difficulty (mean agreement of 8 answers from 0.0 to 1.0); 0 more"
        in printed
    )
    assert "2 steps; reward" in printed
    folder = tmp_path / "out" / "people"
    assert (folder / f"student_{name}" / "model.safetensors").is_file()
    assert not (folder / f"student_{name}.partial").exists()
    labels = FrozenLabels.load(folder / f"frozen_{name}.json")
    assert len({target.weight for of_user in labels.targets.values() for target in of_user.values()}) > 1
    assert len((folder / f"reinforce_{name}.jsonl").read_text().splitlines()) == 2
    assert "for this purpose: a test" in (folder / f"student_{name}" / "README.md").read_text()
    main(toy_config(*stage, f"recipe={name}"))
    assert capsys.readouterr().out == f"{folder}/student_{name}: found\n"
    before = (folder / f"frozen_{name}.json").read_text()
    main(toy_config(*stage, f"recipe={name}", "seed=1"))  # another draw is voted anew
    assert (folder / f"frozen_{name}.json").read_text() != before


def test_overconfidence_is_repaired(stage: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By fine-tuning on the labels, from the student that was reinforced; neither is done twice."""
    folder = tmp_path / "out" / "people"
    values = (("One", "a"), ("Two", "c"))
    save_labels(
        folder / "labels.parquet", [Label(p.user_id, name, value, 0.5) for p in TOY_PEOPLE for name, value in values]
    )
    words = (*stage, "recipe=weighted", "reinforce.repair=20")
    main(toy_config(*words))
    assert "student_weighted: fine-tuned on 80 examples, mean loss" in capsys.readouterr().out
    before, after = (
        load_file(folder / f"student_weighted{end}" / "model.safetensors") for end in ("_before_repair", "")
    )
    assert any(not torch.equal(after[part], before[part]) for part in before)
    shutil.rmtree(folder / "student_weighted")
    main(toy_config(*words))
    assert f"{folder}/student_weighted_before_repair: found" in capsys.readouterr().out
    again = load_file(folder / "student_weighted" / "model.safetensors")
    assert all(torch.equal(again[part], after[part]) for part in after)


def test_ttrl_needs_no_frozen_votes(stage: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(toy_config(*stage, "recipe=ttrl"))
    assert "ttrl: 4 people; 0 more are too long for the student's context of" in capsys.readouterr().out
    folder = tmp_path / "out" / "people"
    assert (folder / "student_ttrl" / "model.safetensors").is_file()
    assert not (folder / "rollouts.jsonl").exists()
    rows = [json.loads(line) for line in (folder / "reinforce_ttrl.jsonl").read_text().splitlines()]
    assert all(0 <= row["reward"] <= 1 for row in rows)


def test_the_recipe_is_an_argument_and_the_configuration_stays(stage: list[str], tmp_path: Path) -> None:
    cfg = toy_config(*stage, "recipe=ours")
    before = OmegaConf.to_yaml(cfg)
    reinforce(cfg, "majority")
    assert OmegaConf.to_yaml(cfg) == before
    made_of = json.loads((tmp_path / "out" / "people" / "student_majority" / "made_of.json").read_text())
    assert made_of["settings"]["recipe"] == "majority"
    assert made_of["settings"]["reward"] == "agreement"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reinforce.reward=confidence"], "reinforce.reward=confidence is not one of expected, weighted, agreement"),
        (["recipe=confidence"], "recipe=confidence is not one of recipes: ours, weighted, credit"),
        (["recipes.ttrl.reward=1", "recipe=ttrl"], "recipes.ttrl.reward=1 is not one of expected"),
        (["+recipes.mine.zero=1", "recipe=mine"], "recipes.mine has no key 'zero'"),
        (["reinforce.group=1"], "reinforce.group=1: give 2 or more"),
        (["reinforce.low=0.9", "reinforce.high=0.3"], r"reinforce.low=0.9 is above reinforce.high=0.3"),
        (
            ["reinforce.low=0.99", "reinforce.high=0.995"],
            "a step is to learn from reinforce.people=2 people, and there are [01]: give less, or widen",
        ),
        (["name=elsewhere"], "no student to start from; run python -m mmprofile.llm.distill first"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, stage: list[str]) -> None:
    with pytest.raises(UserError, match=says):
        main(toy_config(*stage, *arguments))
