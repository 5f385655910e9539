"""Figures of a run's confidences: the same figures are the same bytes."""

from pathlib import Path

import numpy as np
import pytest

from mmprofile.evaluate.plots import reliability, risk_coverage, save_figure
from mmprofile.profile.calibration import calibration

pytestmark = pytest.mark.fast


def test_figures_are_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(200).round(2)
    right = rng.random(200) < sure
    curves = {f"system {i}": calibration(sure[i:], right[i:], 10) for i in range(9)}
    for name in ("a", "b"):
        save_figure(reliability(sure, right, 10), tmp_path / f"{name}1.png")
        save_figure(risk_coverage(curves), tmp_path / f"{name}2.png")
    for number in "12":
        assert (tmp_path / f"a{number}.png").read_bytes() == (tmp_path / f"b{number}.png").read_bytes()
    save_figure(reliability(np.array([1.0]), np.array([False]), 10), tmp_path / "one.png")
    with pytest.raises(ValueError):
        reliability(np.array([]), np.array([], dtype=bool), 10)
