"""How far a student went from where it started."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmprofile.llm.people import Person
from mmprofile.llm.student import Student

Weights = Sequence[tuple[nn.Parameter, Tensor]]
"""Parameters that are trained, each with what it was before. All others are the same before and after."""


def keep_weights(model: nn.Module) -> Weights:
    """Return the weights that are trained as they are now, in the CPU's memory: with an adapter those of the adapter only."""
    return [(weight, weight.detach().to("cpu", copy=True)) for weight in model.parameters() if weight.requires_grad]


@contextmanager
def put_back(start: Weights) -> Iterator[None]:
    """Let a model be what it was, and then again what it is."""
    now = [weight.detach().to("cpu", copy=True) for weight, _ in start]
    try:
        _set(start)
        yield
    finally:
        _set([(weight, after) for (weight, _), after in zip(start, now, strict=True)])


@torch.no_grad()
def _set(weights: Weights) -> None:
    for weight, value in weights:
        weight.copy_(value)


def divergence(student: Student, start: Weights, people: Sequence[Person], seed: int) -> float:
    """Estimate KL(student || start) for each token, in nats, from one answer of the student's about each person.

    It is the mean of log(student / start), which is 0 for the same student and can be a little below 0 for a similar one.
    No second model is loaded: the weights that are trained are put back for the measurement.
    """
    training = student.model.training
    texts = student.write(people, 1, 1.0, seed)
    answers = [(person, text) for person, of_person in zip(people, texts, strict=True) for text in of_person]
    new = student.log_probabilities(answers)
    with put_back(start):
        old = student.log_probabilities(answers)
    student.model.train(training)
    return float(torch.cat([after - before for after, before in zip(new, old, strict=True)]).mean())
