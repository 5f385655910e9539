"""GRPO on frozen labels, by TRL itself, with a student of a few thousand parameters that has learned to write answers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmprofile.llm.answers import Claim, parse_answer, render_answer
from mmprofile.llm.checks import recipe_settings
from mmprofile.llm.reinforce.rewards import FrozenLabels, Target
from mmprofile.llm.reinforce.run import describe
from mmprofile.llm.reinforce.training import attribute_advantages, attribute_of_tokens, divergence, train
from mmprofile.llm.student import Student
from tests.support.toyreinforce import TOY, TOY_PEOPLE, toy_config, toy_student


def frozen(weight: float) -> FrozenLabels:
    targets = {"One": Target("a", {"a": weight}), "Two": Target("Unknown", {"Unknown": weight})}
    return FrozenLabels({person.user_id: targets for person in TOY_PEOPLE})


def steps(start: Path, labels: FrozenLabels, folder: Path, *overrides: str) -> tuple[Student, list[dict[str, Any]]]:
    cfg = toy_config(*overrides)
    pupil = Student(str(start), cfg.students.tiny, TOY)
    return pupil, train(pupil, TOY_PEOPLE, labels, recipe_settings(cfg, cfg.recipe), cfg, folder)


def test_the_start_writes_answers(start: Path) -> None:
    texts = [text for texts in toy_student(start).write(TOY_PEOPLE, 8, 1.0, seed=0) for text in texts]
    assert sum(not parse_answer(text, TOY).faults for text in texts) > 24


def test_a_weight_common_to_all_answers_of_a_group_changes_the_update(start: Path, tmp_path: Path) -> None:
    """The trap of TRL's default, which divides a group's rewards by their deviation: half the weight, half the gradient."""
    norms = [
        steps(start, frozen(weight), tmp_path / str(weight), "reinforce.steps=1", "recipe=weighted")[1][0]["grad_norm"]
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
    assert "40 steps; reward" in describe(history)
    divergences = [row["kl"] for row in history if "kl" in row]
    assert len(divergences) == 4
    assert divergences[-1] > 0.01  # nats a token, most of which are the form of the answer
    assert {row["sample"]["user_id"] for row in history} <= {person.user_id for person in TOY_PEOPLE}


def test_each_attribute_answers_for_itself() -> None:
    earned = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.5], [1.0, 0.5]])
    expected = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert torch.equal(attribute_advantages(earned, 2, scaled=False), expected)
    deviation = torch.tensor([[0.5**0.5, 1.0]] * 2 + [[2**0.5, 1.0]] * 2)
    assert torch.allclose(attribute_advantages(earned, 2, scaled=True), expected / deviation, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        render_answer({"One": Claim("a", 0.9, "naïve 🍜"), "Two": Claim("c", 0.2, "so")}, TOY),
        'I think: {"two": {"value": "c"}, "ONE" : {"value": "a"}} or so',
        '{"One": {"value": "b"}} rather {"One": {"value": "a"}, "Two": {"value": "d"}}',
        "no JSON at all",
        "",
    ],
)
def test_the_tokens_of_an_attribute_are_those_of_its_characters(text: str, start: Path) -> None:
    """Against the characters of each token: a token belongs to the attribute in which its last character stands."""
    student = toy_student(start)
    ids, spans = student.answer(text)
    begins = {name: max((text.lower().rfind(f'"{name.lower()}"'), -1)) for name in TOY.names}
    expected = []
    for _, end in spans[:-1]:
        behind = {begin: name for name, begin in begins.items() if 0 <= begin < end}
        expected.append(TOY.names.index(behind[max(behind)]) if behind else len(TOY.names))
    padded = torch.tensor(ids + [student.tokenizer.pad_token_id] * 3)
    owners = attribute_of_tokens(padded, student.tokenizer, TOY)
    assert owners[: len(expected)] == expected
    assert owners[len(expected) :] == [len(TOY.names)] * 4  # the end, and what fills up


def test_an_unlikely_value_is_unlearned(start: Path, tmp_path: Path) -> None:
    """A target that is more likely wrong than right: ours learns to say Unknown, the reward of before to repeat it."""
    labels = FrozenLabels({p.user_id: {name: Target(value, {value: 0.3}) for name, value in (("One", "a"), ("Two", "c"))} for p in TOY_PEOPLE})
    said = {}
    for recipe in ("ours", "weighted"):
        words = (f"recipe={recipe}", "reinforce.steps=40", "students.tiny.rl_lr=1e-3")
        pupil, _ = steps(start, labels, tmp_path / recipe, *words)
        texts = [text for of_person in pupil.write(TOY_PEOPLE, 16, 1.0, seed=1) for text in of_person]
        values = [claim.value for text in texts for claim in parse_answer(text, TOY).claims.values()]
        said[recipe] = {value: values.count(value) / len(values) for value in set(values)}
    assert said["ours"]["Unknown"] > 0.6
    assert said["weighted"].get("a", 0) + said["weighted"].get("c", 0) > 0.6


def test_a_draw_can_be_learned_from_twice(start: Path, tmp_path: Path) -> None:
    _, history = steps(start, frozen(1.0), tmp_path, "reinforce.steps=2", "reinforce.updates=3", "students.tiny.rl_lr=1e-2")
    assert ["reward" in row for row in history] == [True, False, False] * 2
    clipped = [row["clip_ratio/region_mean"] for row in history]
    assert clipped[0] == clipped[3] == 0 < max(clipped)  # the first update is of the student that drew


@pytest.mark.parametrize("recipe", ["ttrl", "rlcr", "scrl", "majority", "credit"])
def test_every_recipe_trains(recipe: str, start: Path, tmp_path: Path) -> None:
    _, history = steps(start, frozen(0.8), tmp_path, f"recipe={recipe}", "reinforce.steps=2")
    assert len(history) == 2
    assert history[0]["grad_norm"] > 0


def test_the_divergence_is_that_of_the_tokens_probabilities(start: Path, tmp_path: Path) -> None:
    student, start_student = toy_student(start), toy_student(start)
    assert divergence(student, start_student, TOY_PEOPLE, seed=0) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for part in start_student.model.parameters():
            part.mul_(1.1)
    texts = [answers[0] for answers in student.write(TOY_PEOPLE, 1, 1.0, seed=0)]
    ratios = []
    for person, text in zip(TOY_PEOPLE, texts, strict=True):
        prompt, answer = student.prompt(person), student.answer(text)[0]
        new, old = (
            torch.log_softmax(pupil.model(torch.tensor([prompt + answer])).logits[0], -1)
            for pupil in (student, start_student)
        )
        ratios += [(new - old)[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
    assert divergence(student, start_student, TOY_PEOPLE, seed=0) == pytest.approx(sum(ratios) / len(ratios), abs=1e-5)
    assert abs(sum(ratios)) > 0.1


def test_training_that_was_killed_at_its_end_takes_no_step_more(start: Path, tmp_path: Path) -> None:
    """Neither where a checkpoint falls on the last step, amid a turn through the people."""
    overrides = ["reinforce.steps=10", "reinforce.people=1", "students.tiny.rl_lr=3e-3"]
    pupil, history = steps(start, frozen(1.0), tmp_path / "run", *overrides)
    resumed, repeated = steps(start, frozen(1.0), tmp_path / "run", *overrides)
    assert [row["reward"] for row in history] == [row["reward"] for row in repeated]
    assert len(history) == 10
    for before, after in zip(pupil.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(before, after)
