"""The divergence from the start, against two models."""

from pathlib import Path

import pytest
import torch

from mmprofile.llm.reinforce.divergence import divergence, keep_weights
from tests.support.toyreinforce import TOY_PEOPLE, toy_student


@pytest.mark.parametrize("frozen", [False, True])
def test_the_divergence_is_that_of_the_tokens_probabilities(frozen: bool, start: Path) -> None:
    """Also where some weights are not trained. Afterwards the student is what it was, to the bit."""
    student, start_student = toy_student(start), toy_student(start)
    if frozen:
        student.model.get_input_embeddings().weight.requires_grad_(False)
    kept = keep_weights(student.model)
    assert divergence(student, kept, TOY_PEOPLE, seed=0) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for weight in student.model.parameters():
            if weight.requires_grad:
                weight.mul_(0.9)
    moved = {name: weight.clone() for name, weight in student.model.state_dict().items()}
    texts = [answers[0] for answers in student.write(TOY_PEOPLE, 1, 1.0, seed=0)]
    ratios = []
    for person, text in zip(TOY_PEOPLE, texts, strict=True):
        prompt, answer = student.prompt(person), student.answer(text)[0]
        new, old = (
            torch.log_softmax(pupil.model(torch.tensor([prompt + answer])).logits[0], -1)
            for pupil in (student, start_student)
        )
        ratios += [(new - old)[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
    student.model.train()
    assert divergence(student, kept, TOY_PEOPLE, seed=0) == pytest.approx(sum(ratios) / len(ratios), abs=1e-5)
    assert abs(sum(ratios)) > 0.1
    assert student.model.training
    for name, weight in student.model.state_dict().items():
        assert torch.equal(weight, moved[name])
