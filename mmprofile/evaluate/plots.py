"""Figures of confidences, reliability diagram and risk-coverage curves, and what all figures share."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmprofile.evaluate.fonts import fit_fonts
from mmprofile.profile.calibration import CalibrationScores, bin_confidences, calibration
from mmprofile.profile.metrics import Array


def clean_axes(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Remove the frame, and draw light lines at the values of the axis ``grid``."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path | IO[bytes]) -> None:
    """Write a figure as PNG; a box stands for a character that no installed font has."""
    fit_fonts(figure)
    FigureCanvasAgg(figure)  # no display is needed, and no global state of pyplot's is touched
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, format="png", dpi=130, metadata={"Software": None})  # no version: same figures, same bytes


# Okabe and Ito's palette: told apart with any colour vision, and by lightness in print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", ":", "-.")


def reliability(confidences: Array, correct: npt.NDArray[np.bool_], bins: int) -> Figure:
    """Draw a reliability diagram: the share of right claims in each bin of confidence, and the number of claims in it.

    Args:
        confidences: of claims, (N,) in 0..1.
        correct: whether each is right, (N,).
        bins: their number; they have equal width.

    Raises:
        ValueError: there are no claims.
    """
    ece = calibration(confidences, correct, bins).ece
    binned = bin_confidences(confidences, correct, bins)
    centres, width = (np.arange(bins) + 0.5) / bins, 0.92 / bins
    figure = Figure(figsize=(4.8, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(centres, np.nan_to_num(binned.accuracy), width, color=COLOURS[0], label="share right")
    upper.plot([0, 1], [0, 1], "--", color="#999999", linewidth=1.0, label="perfect calibration")
    upper.plot(binned.confidence, binned.accuracy, "o", color="#000000", markersize=4, label="mean confidence")
    upper.set_ylabel("share of claims that are right")
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    upper.set_title(f"{len(confidences):,} claims, ECE {ece:.3f}", fontsize=10, loc="left")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8, columnspacing=1.3)
    bars = lower.bar(centres, binned.number, width, color="#bbbbbb")
    lower.bar_label(bars, [f"{number:,}" if number else "" for number in binned.number], fontsize=7, padding=1)
    lower.set_ylabel("claims")
    lower.set_xlabel("confidence")
    lower.margins(y=0.22)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set_xticks(np.linspace(0, 1, 6))
    for axes in (upper, lower):
        clean_axes(axes)
    return figure


def risk_coverage(curves: Mapping[str, CalibrationScores]) -> Figure:
    """Draw risk-coverage curves: the share of errors among the most confident claims, against the share of claims kept.

    Args:
        curves: by name; the first is drawn strongest.
    """
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(
            curve.coverage,
            curve.risk,
            STYLES[(index - 1) // len(COLOURS) % len(STYLES)] if index else "-",
            color=COLOURS[(index - 1) % len(COLOURS)] if index else "#000000",
            linewidth=1.2 if index else 2.2,
            label=f"{name} ({curve.aurc:.3f})",
            zorder=2 if index else 3,
        )
    axes.set_xlabel("coverage: share of claims kept, most confident first")
    axes.set_ylabel("risk: share of kept claims that are wrong")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    clean_axes(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="AURC", title_fontsize=8)
    return figure
