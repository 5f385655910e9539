"""GRPO on frozen labels, by TRL itself, with a student of a few thousand parameters that has learned to write answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmprofile.llm.answers import Claim, parse_answer, render_answer
from mmprofile.llm.checks import recipe_settings
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce.rewards import FrozenLabels, Target
from mmprofile.llm.reinforce.run import describe
from mmprofile.llm.reinforce.training import attribute_advantages, attribute_of_tokens, train
from mmprofile.llm.student import Student
from tests.support.tinystudent import adapt, save_as
from tests.support.toyreinforce import TOY, TOY_PEOPLE, toy_config, toy_student


def frozen(weight: float) -> FrozenLabels:
    targets = {"One": Target("a", {"a": weight}), "Two": Target("Unknown", {"Unknown": weight})}
    return FrozenLabels({person.user_id: targets for person in TOY_PEOPLE})


def steps(start: Path, labels: FrozenLabels, folder: Path, *overrides: str) -> tuple[Student, list[dict[str, Any]]]:
    pupil, cfg = toy_student(start, *overrides), toy_config(*overrides)
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
    labels = FrozenLabels(
        {
            p.user_id: {name: Target(value, {value: 0.3}) for name, value in (("One", "a"), ("Two", "c"))}
            for p in TOY_PEOPLE
        }
    )
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
    _, history = steps(
        start, frozen(1.0), tmp_path, "reinforce.steps=2", "reinforce.updates=3", "students.tiny.rl_lr=1e-2"
    )
    assert ["reward" in row for row in history] == [True, False, False] * 2
    clipped = [row["clip_ratio/region_mean"] for row in history]
    assert clipped[0] == clipped[3] == 0 < max(clipped)  # the first update is of the student that drew


@pytest.mark.parametrize("recipe", ["ttrl", "rlcr", "scrl", "majority", "credit"])
def test_every_recipe_trains(recipe: str, start: Path, tmp_path: Path) -> None:
    _, history = steps(start, frozen(0.8), tmp_path, f"recipe={recipe}", "reinforce.steps=2")
    assert len(history) == 2
    assert history[0]["grad_norm"] > 0


@pytest.mark.parametrize("number", [10, 13])
def test_training_that_was_killed_ends_as_if_undisturbed(number: int, start: Path, tmp_path: Path) -> None:
    """Whether the last checkpoint, of step 10, falls on the last step or not, and amid the third turn through the four people."""
    overrides = [f"reinforce.steps={number}", "reinforce.people=1", "students.tiny.rl_lr=3e-3"]
    pupil, history = steps(start, frozen(1.0), tmp_path / "run", *overrides)
    resumed, repeated = steps(start, frozen(1.0), tmp_path / "run", *overrides)
    assert [row["reward"] for row in history] == [row["reward"] for row in repeated]
    assert len(history) == number
    for before, after in zip(pupil.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_an_adapter_is_trained_further_and_differs_from_where_it_started(start: Path, tmp_path: Path) -> None:
    """The divergence, and TRL's own (``beta``), are from the student before, not from its base. A killed run ends the same."""
    people = [Person(f"u{i}", (f"I am number {i}.",)) for i in range(12)]  # nobody twice
    labels = FrozenLabels({p.user_id: {"One": Target("a", {"a": 1.0}), "Two": Target("c", {"c": 1.0})} for p in people})
    lora = ["students.tiny.lora=2", "students.tiny.rl_lr=3e-3"]
    first = toy_student(start, *lora)
    adapt(first)
    save_as(first, tmp_path / "student")
    cfg = toy_config(*lora, "reinforce.steps=12", "reinforce.people=1", "reinforce.beta=0.1")
    runs = []
    for _ in range(2):  # the second from the checkpoint of the tenth step
        pupil = toy_student(tmp_path / "student", *lora)
        runs.append((pupil, train(pupil, people, labels, recipe_settings(cfg, "ours"), cfg, tmp_path / "run")))
    (pupil, history), (resumed, repeated) = runs
    assert [(row["reward"], row["kl"]) for row in repeated] == [(row["reward"], row["kl"]) for row in history]
    for weight, same in zip(pupil.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(weight, same)
    before, base = toy_student(tmp_path / "student", *lora), toy_student(start)
    answers = [(person, text) for person, (text,) in zip(people, pupil.write(people, 1, 1.0, seed=0), strict=True)]
    now, then, at_base = (torch.cat(writer.log_probabilities(answers)) for writer in (pupil, before, base))
    assert history[-1]["kl"] == pytest.approx((now - then).mean().item(), abs=1e-5)
    assert (now - then).abs().mean() > 1e-3
    assert (now - at_base).abs().mean() > 0.02


def test_no_second_model_is_loaded(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pupil = toy_student(start)
    monkeypatch.setattr("mmprofile.llm.student.load_model", None)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    cfg = toy_config("reinforce.steps=1")
    train(pupil, TOY_PEOPLE, frozen(1.0), recipe_settings(cfg, "ours"), cfg, tmp_path)


def test_tensorboard_has_a_step_of_each(start: Path, tmp_path: Path) -> None:
    _, history = steps(start, frozen(1.0), tmp_path / "student_confidence.partial", "reinforce.steps=2")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "student_confidence")).Reload()
    rewards = [event.value for event in events.Scalars("train/reward")]
    assert rewards == pytest.approx([row["reward"] for row in history])
    assert [(event.step, event.value) for event in events.Scalars("train/kl")] == [
        (2, pytest.approx(history[-1]["kl"]))
    ]
