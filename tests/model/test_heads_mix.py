"""How the opinions of a head's parts are mixed, and the posterior of a set."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mmprofile.model.heads import CoopNet, Votes, mixture, posterior
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_mixture_is_the_likeliest() -> None:
    rng = np.random.default_rng(0)
    right = torch.from_numpy(rng.uniform(0.05, 0.95, (60, 3)) ** np.array([1.0, 0.7, 1.2]))
    heard = torch.ones(60, 3, dtype=torch.bool)
    heard[:25, 1] = False

    def log_likelihood(weights: Tensor) -> Tensor:
        there = weights[:, None] * heard  # (w, n, 3)
        return ((there * right).sum(-1) / there.sum(-1)).log().sum(-1)

    found = mixture(right, heard)
    assert found.sum().item() == pytest.approx(1)
    assert (found >= 0).all()
    grid = torch.tensor(list(itertools.product(np.linspace(0.001, 1, 41), repeat=3)), dtype=torch.double)
    assert log_likelihood(found[None]) > log_likelihood(grid / grid.sum(1, keepdim=True)).max() - 1e-3
    assert log_likelihood(found[None]) > log_likelihood(torch.ones(1, 3)) + 0.5


def test_a_part_that_is_right_on_dev_gets_all_of_the_mix(schema: Schema) -> None:
    head, rng = CoopNet(schema, 8, 6), np.random.default_rng(0)
    profiles = [
        {a.name: a.canonical(rng.choice(a.values, a.size, replace=False).tolist()) for a in schema.attributes}
        for _ in range(40)
    ]
    targets = head.targets(profiles, torch.device("cpu"))
    targets[:5, head.spans[0]] = 0  # unknown Stars
    logits = torch.randn(40, 3, head.classes, generator=torch.Generator().manual_seed(0))
    for a, span in enumerate(head.spans):
        logits[:, a % 3, span] = 20 * targets[:, span] - 10
    heard = torch.ones(40, 3, dtype=torch.bool)
    heard[30:, 1] = False
    head.fit_mix(Votes(logits, heard), targets)
    for a, shares in enumerate(head.mix):
        assert shares[a % 3] > 0.99
        assert shares.sum().item() == pytest.approx(1)
    # The other parts decide for users without photos, even if vision alone was right on the validation split.
    logits[:, 1] = 20 * targets - 10
    logits[:, ::2] = 10 - 20 * targets[:, None]
    head.fit_mix(Votes(logits, torch.ones_like(heard)), targets)
    assert (head.mix[:, 1] > 0.999).all()
    found = head.decode(Votes(logits, heard), [{}] * 40)
    assert all(0 < share <= 1 for one in found for shares in one.posteriors.values() for share in shares.values())
    untouched = CoopNet(schema, 8, 6)
    untouched.fit_mix(Votes(logits, heard), torch.zeros_like(targets))
    close(untouched.mix, torch.full((6, 3), 1 / 3))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_posterior_of_a_set_is_that_of_independent_classes(size: int) -> None:
    attribute = Attribute("Likes", tuple("abcde"), "set", size)
    shares = torch.tensor([0.2, 0.9, 0.05, 0.9, 0.4], dtype=torch.double)
    weights = {
        values: math.prod(float(p) if v in values else 1 - float(p) for v, p in zip("abcde", shares, strict=True))
        for values in itertools.combinations("abcde", size)
    }
    found = posterior(attribute, shares)
    assert found == pytest.approx({values: w / sum(weights.values()) for values, w in weights.items()})
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert next(iter(found)) == {1: ("b",), 2: ("b", "d"), 3: ("b", "d", "e")}[size]
