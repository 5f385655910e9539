"""The figures of ``benchmarks/gpu.py`` as Markdown."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from common import table

MODALITIES = ("multi", "both")
PEERS, OURS = ("literal", "good"), ("joint", "segments")
GOALS = {"matmul_share": 0.35, "vs_good": 4.0}


def cell(value: Any, form: str = ",.1f") -> str:
    """Return a figure of a table as text."""
    return "not measured" if value is None else format(value, form)


def training(figures: Mapping[str, Any]) -> list[str]:
    """Return the table of training steps, and a line on the goals."""
    forms = {"users": "d", "users_per_s": ",.1f", "peak_mb": ",d", "matmul_share": ".1%"}
    forms |= {"vs_literal": ".2f", "vs_good": ".2f"}
    rows, goals = [], []
    for modality, batch, name in product(MODALITIES, ("same", "best"), (*PEERS, *OURS)):
        side = figures[modality][name]
        measured = side["best"] if batch == "best" else side
        most = f"{side['largest']} ({side['largest_ended_by']})" if side["largest"] else cell(None)
        shown = [cell(measured[key], form) for key, form in forms.items()]
        rows.append([f"{modality}, {name}, {batch} batch", *shown, most if batch == "best" else ""])
        if batch == "best" and name in OURS:
            for key, goal in GOALS.items():
                value = measured[key]
                verdict = "" if value is None else " (reached)" if value >= goal else " (missed)"
                goals.append(f"{modality}, {name}, {key}: {cell(value, forms[key])}{verdict}")
    head = ["users", "users/s", "peak, MB", "of matmul", "times (a)", "times (b)", "largest batch (ended by)"]
    goal_line = "Goals, each side at its best batch: >= 35 % of the matmul's rate, >= 4 times (b)."
    return [table(["paradigm, side, batch", *head], rows), f"{goal_line} {'; '.join(goals)}."]


def render(figures: Mapping[str, Any]) -> str:
    """Return everything as Markdown."""
    parts = training(figures)
    if decoding := figures["decode"]:
        head = ["decoding", "ours, users/s", "generate, beam 5", "with prefix_allowed_tokens_fn", "times", "times"]
        keys = ("ours_users_per_s", "generate_users_per_s", "prefix_users_per_s", "vs_generate", "vs_prefix_fn")
        size = f"{decoding['users']} users, {decoding['states']} states"
        parts.append(table(head, [[size, *(cell(decoding[key]) for key in keys)]]))
    if compiled := figures["compile"]:
        forms = {"users_per_s": ",.1f", "vs_eager": ".2f", "matmul_share": ".1%"}
        rows = [[name, *(cell(step[key], form) for key, form in forms.items())] for name, step in compiled.items()]
        parts.append(table(["torch.compile", "users/s", "times eager", "of matmul"], rows))
    parts.append(f"The large bf16 product: {cell(figures['matmul_tflops'])} TFLOP/s.")
    for modality, difference in figures["loss_difference"].items():
        parts[-1] += (
            f" {modality}: losses of (a), (b), joint differ by {difference['fp32']:.0e}, in bf16 by {difference['bf16']:.0e}."
        )
    return "\n\n".join([*parts, *(f"{name}: {why}." for name, why in figures["not_measured"].items())])
