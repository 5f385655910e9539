"""Calibration of confidences: by hand, at the edges, and its bounds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmprofile.profile.calibration import calibration

pytestmark = pytest.mark.fast


def test_ece_brier_and_aurc_by_hand() -> None:
    # Bins (12/15, 13/15]: 0.85 and 0.82, one of two right; (7/15, 8/15]: 0.5, right.
    result = calibration([0.85, 0.5, 0.82], [True, True, False])
    assert result.ece == pytest.approx((abs(0.85 + 0.82 - 1) + 0.5) / 3)
    assert result.brier == pytest.approx((0.15**2 + 0.5**2 + 0.82**2) / 3)
    assert result.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    assert result.coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert result.aurc == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


def test_calibration_ties_share_their_errors_and_edges_fall_into_bins() -> None:
    tied = calibration([0.7, 0.7, 0.7, 0.7], [True, False, False, True])
    assert tied.risk.tolist() == pytest.approx([0.5] * 4)
    edges = calibration([0.0, 1.0], [False, True])
    assert (edges.ece, edges.brier, edges.aurc) == (0.0, 0.0, pytest.approx(0.25))


@pytest.mark.parametrize(("sure", "right"), [([], []), ([0.5], [True, False]), ([1.1], [True]), ([math.nan], [True])])
def test_calibration_refuses_nonsense(sure: list[float], right: list[bool]) -> None:
    with pytest.raises(ValueError):
        calibration(sure, right)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_bounds_and_order(pairs: list[tuple[float, bool]]) -> None:
    one = calibration([p for p, _ in pairs], [r for _, r in pairs])
    back = calibration([p for p, _ in pairs][::-1], [r for _, r in pairs][::-1])
    assert one.risk.tolist() == pytest.approx(back.risk.tolist())
    assert 0 <= one.ece <= 1
    assert one.ece == pytest.approx(back.ece)
    assert one.risk[-1] == pytest.approx(np.mean([not r for _, r in pairs]))
