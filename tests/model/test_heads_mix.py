"""How the opinions of a head's parts are mixed, and the posterior of a set."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

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
    targets[:5, head.spans[0]] = -1  # unknown Stars
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
    untouched.fit_mix(Votes(logits, heard), torch.full_like(targets, -1))
    close(untouched.mix, torch.full((6, 3), 1 / 3))


@pytest.mark.parametrize(("least", "size"), [(1, 1), (2, 2), (3, 3), (0, 5), (0, 1), (1, 2), (4, 5)])
def test_posterior_of_a_set_is_that_of_independent_classes(least: int, size: int) -> None:
    attribute = Attribute("Likes", tuple("abcde"), "set", size, min_size=least)
    shares = torch.tensor([0.2, 0.9, 0.05, 0.9, 0.4], dtype=torch.double)
    weights = {
        values or ("None",): math.prod(
            float(p) if v in values else 1 - float(p) for v, p in zip("abcde", shares, strict=True)
        )
        for count in range(least, size + 1)
        for values in itertools.combinations("abcde", count)
    }
    found = posterior(attribute, shares)
    assert found == pytest.approx({values: w / sum(weights.values()) for values, w in weights.items()})
    assert list(found.values()) == sorted(found.values(), reverse=True)
    likeliest = {3: ("b", "d", "e"), 4: ("a", "b", "d", "e")}.get(least, ("b", "d"))
    assert next(iter(found)) == (("b",) if size == 1 else likeliest)
    assert sum(weights.values()) == pytest.approx(1) or (least, size) != (0, 5)


def test_an_empty_set_is_gold_and_unknown_is_not() -> None:
    """The loss of an empty set is that of all of its classes."""
    likes = Attribute("Likes", tuple("abc"), "set", 3, unknown=True, min_size=0)
    head = CoopNet(Schema("one", [likes]), 8, 6)
    targets = head.targets([{"Likes": ("None",)}, {"Likes": ()}, {}, {"Likes": ("b",)}], torch.device("cpu"))
    votes = Votes(torch.randn(4, 1, 3), torch.ones(4, 1, dtype=torch.bool))
    losses, known = head.losses(votes, targets)
    assert known[:, 0].tolist() == [True, False, False, True]
    signs = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [0, 0, 0], [-1, 1, -1]])
    expected = -F.logsigmoid(signs * votes.logits[:, 0]).sum(1) * known[:, 0]
    close(losses[:, 0], expected)
    head.fit_mix(votes, targets)
    assert head.decode(Votes(torch.full((1, 3, 3), -9.0), votes.heard[:1]), [{}])[0].text == "Likes: None"
