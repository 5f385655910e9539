"""Numbers in bins: edges cut as quantiles do, in the fewest digits, and each bin stands for its median."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmprofile.profile.numbers import bin_names, bin_of, is_number, quantile_edges, typical_numbers

pytestmark = pytest.mark.fast


def test_bins_in_words() -> None:
    assert bin_names([10, 20.0, 50]) == ("below 10", "10 to 20", "20 to 50", "50 and more")
    assert bin_names([-2.5, 1_000_000]) == ("below -2.5", "-2.5 to 1000000", "1000000 and more")
    assert [bin_of([10, 20], number) for number in (-1, 9.99, 10, 19, 20, 1e9)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="nan is no number"):
        bin_of([10], math.nan)
    assert [is_number(value) for value in (1, 2.5, True, "1", None, math.inf)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_edges_have_the_fewest_digits() -> None:
    assert quantile_edges([1, 2, 3, 4], 2) == (3,)
    assert quantile_edges([18.37, 18.92, 3.01, 31.4], 2) == (18.9,)
    assert quantile_edges([0, 0, 0, 0, 7], 4) == (7,)
    assert quantile_edges([-5.5, -5.2], 2) == (-5.2,)
    assert quantile_edges([4, 4], 3) == ()


@settings(max_examples=200)
@given(st.lists(st.integers(-50, 50) | st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=1), st.integers(2, 6))
def test_edges_cut_as_the_quantiles_do(numbers: list[float], bins: int) -> None:
    edges = quantile_edges(numbers, bins)
    assert list(edges) == sorted(set(edges))
    counts = np.bincount([bin_of(edges, number) for number in numbers], minlength=len(edges) + 1)
    assert counts.all()
    cuts = np.quantile(numbers, np.arange(1, bins) / bins)
    below: Callable[[float], int] = lambda edge: sum(number < edge for number in numbers)  # noqa: E731
    least = numbers.count(min(numbers))
    assert {below(edge) for edge in edges} == {below(cut) or least for cut in cuts} - {len(numbers)}


def test_a_bin_stands_for_its_median() -> None:
    assert typical_numbers([10, 20, 40]) == (10, 15, 30, 40)
    assert typical_numbers([10, 20, 40], [1, 2, 6, 40, 90]) == (2, 15, 30, 65)
