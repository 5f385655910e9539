"""Numbers in a profile: the bins that a model writes, where they are cut, and the number that each stands for."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

DIGITS = 17
"""Decimal places that are tried for an edge."""


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number_text(number: float) -> str:
    """Return a number in plain digits: 10, 2.5, -3."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def bin_names(edges: Sequence[float]) -> tuple[str, ...]:
    """Return the words of the bins: ``below 10``, ``10 to 20``, ``20 and more`` for the edges 10 and 20.

    A bin has its lower edge in it, and not its upper one.
    """
    texts = [number_text(edge) for edge in edges]
    between = (f"{low} to {high}" for low, high in pairwise(texts))
    return (f"below {texts[0]}", *between, f"{texts[-1]} and more")


def bin_of(edges: Sequence[float], number: float) -> int:
    """Return the place of the bin that a number is in.

    Raises:
        ValueError: the number is not finite.
    """
    if not math.isfinite(number):
        raise ValueError(f"{number} is no number")
    return bisect_right(edges, number)


def quantile_edges(numbers: Sequence[float], bins: int) -> tuple[float, ...]:
    """Return edges that cut numbers into bins of about the same size.

    Each edge is the shortest decimal between two of the numbers that cuts them as the quantile does: whole numbers have
    whole edges. Equal quantiles give one edge, so there may be fewer bins than asked for; no edge is only where all numbers
    are equal, since a quantile that is the least number cuts above it.

    Args:
        numbers: at least one.
        bins: at least two.
    """
    ordered = sorted(numbers)
    edges: list[float] = []
    for quantile in np.quantile(ordered, np.arange(1, bins) / bins).tolist():
        place = bisect_left(ordered, quantile) or bisect_right(ordered, ordered[0])
        if place < len(ordered) and (not edges or ordered[place - 1] >= edges[-1]):
            edges.append(_shortest(ordered[place - 1], ordered[place]))
    return tuple(edges)


def _shortest(low: float, high: float) -> float:
    """Return the number with the fewest decimal places that is above ``low`` and not above ``high``."""
    for digits in range(DIGITS):
        number: float = math.floor(high * 10**digits) / 10**digits
        if low < number <= high:
            return number
    return high


def typical_numbers(edges: Sequence[float], numbers: Sequence[float] = ()) -> tuple[float, ...]:
    """Return the number that stands for each bin: the median of the numbers in it.

    Of a bin without numbers it is the middle, and of the first and the last, which have no end, their edge.
    """
    ends = [edges[0], *edges, edges[-1]]
    in_bin: list[list[float]] = [[] for _ in ends[1:]]
    for number in numbers:
        in_bin[bin_of(edges, number)].append(number)
    return tuple(
        float(np.median(found)) if found else (low + high) / 2
        for found, (low, high) in zip(in_bin, pairwise(ends), strict=True)
    )
