"""GRPO on frozen labels, by TRL itself, with a student of a few thousand parameters that has learned to write answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmprofile.llm.answers import parse_answer
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.rewards import FrozenLabels, Target
from mmprofile.llm.reinforce.run import describe
from mmprofile.llm.reinforce.training import train
from mmprofile.llm.student import Student
from tests.support.tinystudent import adapt, save_as
from tests.support.toyreinforce import TOY, TOY_PEOPLE, toy_config, toy_student


def frozen(weight: float) -> FrozenLabels:
    return FrozenLabels({p.user_id: {"One": Target("a", weight), "Two": Target("Unknown", weight)} for p in TOY_PEOPLE})


def steps(start: Path, labels: FrozenLabels, folder: Path, *overrides: str) -> tuple[Student, list[dict[str, Any]]]:
    pupil = toy_student(start, *overrides)
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


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_in_parts_is_the_step_at_once(checkpointing: bool, start: Path, tmp_path: Path) -> None:
    words = ["reinforce.steps=2", "students.tiny.rl_lr=3e-3"]
    in_memory = ["students.tiny.micro_batch_size=4", f"students.tiny.gradient_checkpointing={checkpointing}"]
    at_once, (first, *_) = steps(start, frozen(1.0), tmp_path / "whole", *words)
    in_parts, (same, *_) = steps(start, frozen(1.0), tmp_path / "parts", *words, *in_memory)
    assert same["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
    assert same["reward"] == first["reward"]
    before = toy_student(start).model.state_dict()
    for (name, weight), part in zip(
        at_once.model.state_dict().items(), in_parts.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(part, weight, rtol=0, atol=3e-4)
        assert (weight - before[name]).abs().max() > 1e-3


def test_training_that_was_killed_at_its_end_takes_no_step_more(start: Path, tmp_path: Path) -> None:
    """Neither where a checkpoint falls on the last step, amid a turn through the people."""
    overrides = ["reinforce.steps=10", "reinforce.people=1", "students.tiny.rl_lr=3e-3"]
    pupil, history = steps(start, frozen(1.0), tmp_path / "run", *overrides)
    resumed, repeated = steps(start, frozen(1.0), tmp_path / "run", *overrides)
    assert [row["reward"] for row in history] == [row["reward"] for row in repeated]
    assert len(history) == 10
    for before, after in zip(pupil.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_an_adapter_is_trained_further_and_differs_from_where_it_started(start: Path, tmp_path: Path) -> None:
    """The divergence, and TRL's own (``beta``), are from the student before, not from its base. A killed run ends the same."""
    people = [Person(f"u{i}", (f"I am number {i}.",)) for i in range(12)]  # nobody twice
    labels = FrozenLabels({p.user_id: {"One": Target("a", 1.0), "Two": Target("c", 1.0)} for p in people})
    lora = ["students.tiny.lora=2", "students.tiny.rl_lr=3e-3"]
    first = toy_student(start, *lora)
    adapt(first)
    save_as(first, tmp_path / "student")
    words = [*lora, "reinforce.steps=12", "reinforce.people=1", "reinforce.beta=0.1"]
    runs = []
    for _ in range(2):  # the second from the checkpoint of the tenth step
        pupil = toy_student(tmp_path / "student", *lora)
        runs.append((pupil, train(pupil, people, labels, toy_config(*words), tmp_path / "run")))
    (pupil, history), (resumed, repeated) = runs
    assert [(row["reward"], row["kl"]) for row in repeated] == [(row["reward"], row["kl"]) for row in history]
    for weight, same in zip(pupil.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(weight, same)
    before, base = toy_student(tmp_path / "student", *lora), toy_student(start)
    answers = [(person, text) for person, (text,) in zip(people, pupil.write(people, 1, 1.0, seed=0), strict=True)]
    now, then, at_base = (torch.cat(writer.log_probabilities(answers)) for writer in (pupil, before, base))
    assert history[-1]["kl"] == pytest.approx((now - then).mean().item(), abs=1e-5)
    assert (now - then).abs().mean() > 1e-3
    assert (now - at_base).abs().mean() > 0.1


def test_no_second_model_is_loaded(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pupil = toy_student(start)
    monkeypatch.setattr("mmprofile.llm.student.load_model", None)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    train(pupil, TOY_PEOPLE, frozen(1.0), toy_config("reinforce.steps=1"), tmp_path)


def test_tensorboard_has_a_step_of_each(start: Path, tmp_path: Path) -> None:
    _, history = steps(start, frozen(1.0), tmp_path / "student_confidence.partial", "reinforce.steps=2")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "student_confidence")).Reload()
    rewards = [event.value for event in events.Scalars("train/reward")]
    assert rewards == pytest.approx([row["reward"] for row in history])
    assert [(event.step, event.value) for event in events.Scalars("train/kl")] == [
        (2, pytest.approx(history[-1]["kl"]))
    ]
