"""GRPO on frozen labels, by TRL itself, with a student of a few thousand parameters that has learned to write answers."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, parse_answer, render_answer
from mmprofile.llm.distill.training import Collator
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce import training as reinforce
from mmprofile.llm.reinforce.rewards import Frozen, Target
from mmprofile.llm.student import Student, build_model, build_tokenizer
from mmprofile.llm.student_folder import student_settings
from mmprofile.profile.schema import Attribute, Schema

SCHEMA = Schema("toy", [Attribute("One", ("a", "b"), unknown=True), Attribute("Two", ("c", "d"), unknown=True)])
PEOPLE = [Person(f"u{i}", (f"I am number {i}.",)) for i in range(4)]


def answer(rng: random.Random) -> str:
    claims = {
        a.name: Claim(rng.choice((*a.values, "Unknown")), rng.choice((0.2, 0.9)), "so") for a in SCHEMA.attributes
    }
    return render_answer(claims, SCHEMA)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that writes answers, any answers, of whomever."""
    folder, rng = tmp_path_factory.mktemp("start"), random.Random(0)
    texts = [answer(rng) for _ in range(200)]
    tokenizer = build_tokenizer([*texts, *(person.reviews[0] for person in PEOPLE)], SCHEMA, size=300)
    torch.manual_seed(0)
    build_model(tokenizer, width=32, layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pupil = student(folder)
    adam, collate = torch.optim.Adam(pupil.model.parameters(), lr=1e-2), Collator(tokenizer.pad_token_id)
    for _ in range(80):
        rows = []
        for person in PEOPLE:
            read, written = pupil.prompt(person), pupil.answer(answer(rng))[0]
            rows.append(
                {
                    "input_ids": read + written,
                    "labels": [-100] * len(read) + written,
                    "weights": [1.0] * len(read + written),
                }
            )
        batch = collate(rows)
        adam.zero_grad()
        pupil.model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss.backward()
        adam.step()
    pupil.save(folder)
    return folder


def config(*overrides: str) -> Any:
    read = ["students.tiny.max_new_tokens=60", "progress=false", "reinforce.people=2", "reinforce.group=8", *overrides]
    return load_config("llm", read)


def student(folder: Path) -> Student:
    return Student(str(folder), student_settings(config()), SCHEMA)


def frozen(weight: float) -> Frozen:
    return Frozen({p.user_id: {"One": Target("a", weight), "Two": Target("Unknown", weight)} for p in PEOPLE})


def steps(start: Path, labels: Frozen, folder: Path, *overrides: str) -> tuple[Student, list[dict[str, float]]]:
    pupil = student(start)
    return pupil, reinforce.train(pupil, PEOPLE, labels, config(*overrides), folder)


def test_the_start_writes_answers(start: Path) -> None:
    texts = [text for texts in student(start).write(PEOPLE, 8, 1.0, seed=0) for text in texts]
    assert sum(not parse_answer(text, SCHEMA).faults for text in texts) > 24


def test_a_weight_common_to_all_answers_of_a_group_changes_the_update(start: Path, tmp_path: Path) -> None:
    """The trap of TRL's default, which divides a group's rewards by their deviation: half the weight, half the gradient."""
    norms = [
        steps(start, frozen(weight), tmp_path / str(weight), "reinforce.steps=1")[1][0]["grad_norm"]
        for weight in (0.8, 0.4)
    ]
    assert norms[0] > 0
    assert norms[0] == pytest.approx(2 * norms[1], rel=1e-3)


def test_rewards_rise_and_labels_stay(start: Path, tmp_path: Path) -> None:
    labels = frozen(1.0)
    before = labels.digest()
    _, history = steps(start, labels, tmp_path / "run", "reinforce.steps=40", "students.tiny.rl_lr=3e-3")
    assert len(history) == 40
    first, last = (sum(row["reward"] for row in part) / 8 for part in (history[:8], history[-8:]))
    assert last > first + 0.2
    assert labels.digest() == before
    for name in ("reward", "frac_reward_zero_std", "parse_faults", "entropy", "grad_norm"):
        assert all(name in row for row in history)
    assert "40 steps; reward" in reinforce.describe(history)
    gone = [row["kl"] for row in history if "kl" in row]
    assert len(gone) == 4
    assert gone[-1] > 0.01  # nats a token, most of which are the form of the answer
    assert {row["sample"]["user_id"] for row in history} <= {person.user_id for person in PEOPLE}  # type: ignore[index]


def test_the_divergence_is_that_of_the_tokens_probabilities(start: Path, tmp_path: Path) -> None:
    one, other = student(start), student(start)
    assert reinforce.divergence(one, other, PEOPLE, seed=0) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for part in other.model.parameters():
            part.mul_(1.1)
    texts = [own[0] for own in one.write(PEOPLE, 1, 1.0, seed=0)]
    ratios = []
    for person, text in zip(PEOPLE, texts, strict=True):
        read, written = one.prompt(person), one.answer(text)[0]
        new, old = (
            torch.log_softmax(pupil.model(torch.tensor([read + written])).logits[0], -1) for pupil in (one, other)
        )
        ratios += [(new - old)[len(read) + i - 1, token].item() for i, token in enumerate(written)]
    assert reinforce.divergence(one, other, PEOPLE, seed=0) == pytest.approx(sum(ratios) / len(ratios), abs=1e-5)
    assert abs(sum(ratios)) > 0.1


def test_training_that_was_killed_at_its_end_takes_no_step_more(start: Path, tmp_path: Path) -> None:
    """Neither where a checkpoint falls on the last step, amid a turn through the people."""
    how = ["reinforce.steps=10", "reinforce.people=1", "students.tiny.rl_lr=3e-3"]
    pupil, history = steps(start, frozen(1.0), tmp_path / "run", *how)
    again, repeated = steps(start, frozen(1.0), tmp_path / "run", *how)
    assert [row["reward"] for row in history] == [row["reward"] for row in repeated]
    assert len(history) == 10
    for before, after in zip(pupil.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_rollouts_are_drawn_once(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmprofile.llm.rollouts.PART", 2)
    cfg = config("reinforce.rollouts=4")
    labels = reinforce.vote_rollouts(student(start), PEOPLE, cfg, tmp_path)
    assert {(label.user_id, label.attribute) for label in labels} == {
        (p.user_id, n) for p in PEOPLE for n in SCHEMA.names
    }
    written = (tmp_path / "rollouts.jsonl").read_text()
    assert len(written.splitlines()) == 16
    assert reinforce.vote_rollouts(student(start), PEOPLE, cfg, tmp_path) == labels
    assert (tmp_path / "rollouts.jsonl").read_text() == written
    # a run that was killed amid a part draws the rest, and ends with the same votes
    (tmp_path / "rollouts.jsonl").write_text("".join(line + "\n" for line in written.splitlines()[:11]))
    assert reinforce.vote_rollouts(student(start), PEOPLE, cfg, tmp_path) == labels
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert len({row["request"] for row in rows}) == len(rows) == 16
    # another student's answers are other rollouts
    other = student(start)
    with torch.no_grad():
        other.model.model.norm.weight.mul_(0.5)
    reinforce.vote_rollouts(other, PEOPLE, cfg, tmp_path)
    assert len((tmp_path / "rollouts.jsonl").read_text().splitlines()) == len(rows) + 16


def test_no_more_people_are_voted_than_the_steps_visit(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmprofile.llm.rollouts.PART", 2)
    how = ["reinforce.rollouts=2", "reinforce.steps=1", "reinforce.low=0", "reinforce.high=1"]
    labels = reinforce.vote_rollouts(student(start), PEOPLE, config(*how), tmp_path)
    assert len({label.user_id for label in labels}) == 2
    how[1] = "reinforce.steps=2"
    more = reinforce.vote_rollouts(student(start), PEOPLE, config(*how), tmp_path)
    assert more[: len(labels)] == labels
    assert len({label.user_id for label in more}) == 4


@pytest.fixture
def stage(start: Path, tmp_path: Path) -> list[str]:
    """A stage's folder with a student of the toy schema; the words that choose it."""
    (tmp_path / "people.jsonl").write_text(
        "".join(json.dumps({"user_id": p.user_id, "reviews": list(p.reviews), "split": "train"}) + "\n" for p in PEOPLE)
    )
    shutil.copytree(start, tmp_path / "out" / "people" / "student")
    (tmp_path / "out" / "people" / "student" / "made_of.json").write_text("{}")
    attributes = "[{name: One, values: [a, b], unknown: true}, {name: Two, values: [c, d], unknown: true}]"
    return [
        f"input={tmp_path / 'people.jsonl'}", f"out={tmp_path / 'out'}", "purpose=a test", f"profile.attributes={attributes}",
        "profile.name=toy", "reinforce.rollouts=8", "reinforce.steps=2", "reinforce.low=0", "reinforce.high=1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["confidence", "majority"])
def test_the_command(name: str, stage: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reinforce.main(config(*stage, f"reinforce.reward={name}"))
    printed = capsys.readouterr().out
    assert "4 of 4 people are of moderate difficulty (mean agreement of 8 answers from 0.0 to 1.0); 0 more" in printed
    assert "2 steps; reward" in printed
    folder = tmp_path / "out" / "people"
    assert (folder / f"student_{name}" / "model.safetensors").is_file()
    assert not (folder / f"student_{name}.partial").exists()
    labels = Frozen.load(folder / f"frozen_{name}.json")
    weights = {target.weight for of in labels.targets.values() for target in of.values()}
    assert weights == {1.0} if name == "majority" else len(weights) > 1
    assert len((folder / f"reinforce_{name}.jsonl").read_text().splitlines()) == 2
    assert "for this purpose: a test" in (folder / f"student_{name}" / "README.md").read_text()
    reinforce.main(config(*stage, f"reinforce.reward={name}"))
    assert capsys.readouterr().out == f"{folder}/student_{name}: found\n"
    before = (folder / f"frozen_{name}.json").read_text()
    reinforce.main(config(*stage, f"reinforce.reward={name}", "seed=1"))  # another draw is voted anew
    assert (folder / f"frozen_{name}.json").read_text() != before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reinforce.reward=agreement"], "reinforce.reward=agreement is not one of confidence, majority"),
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
        reinforce.main(config(*stage, *arguments))
