"""GRPO on frozen labels, by TRL itself, with a student of a few thousand parameters that has learned to write answers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmprofile.llm.answers import parse_answer
from mmprofile.llm.reinforce.rewards import FrozenLabels, Target
from mmprofile.llm.reinforce.run import describe
from mmprofile.llm.reinforce.training import divergence, train
from mmprofile.llm.student import Student
from tests.support.toyreinforce import TOY, TOY_PEOPLE, toy_config, toy_student


def frozen(weight: float) -> FrozenLabels:
    return FrozenLabels({p.user_id: {"One": Target("a", weight), "Two": Target("Unknown", weight)} for p in TOY_PEOPLE})


def steps(start: Path, labels: FrozenLabels, folder: Path, *overrides: str) -> tuple[Student, list[dict[str, Any]]]:
    pupil = toy_student(start)
    return pupil, train(pupil, TOY_PEOPLE, labels, toy_config(*overrides), folder)


def test_the_start_writes_answers(start: Path) -> None:
    texts = [text for texts in toy_student(start).write(TOY_PEOPLE, 8, 1.0, seed=0) for text in texts]
    assert sum(not parse_answer(text, TOY).faults for text in texts) > 24


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
    assert "40 steps; reward" in describe(history)
    divergences = [row["kl"] for row in history if "kl" in row]
    assert len(divergences) == 4
    assert divergences[-1] > 0.01  # nats a token, most of which are the form of the answer
    assert {row["sample"]["user_id"] for row in history} <= {person.user_id for person in TOY_PEOPLE}


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
