"""What :mod:`mmprofile.inspection.inspector` found, as files and figures: words, photos, effects, gates of many users."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmprofile.evaluate.plots import clean_axes, save_figure
from mmprofile.inputs.views import User
from mmprofile.inspection.counterfactuals import Effect, moved, zero_gate
from mmprofile.model.fusion import Gates

if TYPE_CHECKING:
    from mmprofile.inspection.inspector import Inspection, Inspector


COLUMNS = 92
"""Characters of a line of words."""
MARGIN, SIZE, CHARACTER = 3, 8.5, 0.602
"""Characters beside the lines, points of the letters, and how wide one of Matplotlib's own monospaced letters is for its size."""
MOST_WORDS = 40
"""Rows of the table of words and photos at most: those that the photos add most to, in the order of the text."""
LONGEST = 26
"""Characters of a value in a table at most."""
_COLOUR = "#0072b2"


class GateSummary(NamedTuple):
    """Gates of some users by view and by photos; total variation of each attribute, (users,), when the gate is shut."""

    by_view: Mapping[str, "Gates"]
    by_photos: Mapping[str, "Gates"]
    by_attribute: Mapping[str, np.ndarray]


def write_inspection(folder: Path, found: "Inspection", inspector: "Inspector") -> None:
    """``<user>.npz`` with the arrays and words, and two figures."""
    name = found.user.user_id if found.attribute is None else f"{found.user.user_id}-{found.attribute}"
    texts = {
        "tokens": inspector.model.tokenizer.convert_ids_to_tokens([token.id for token in found.tokens]),
        "sources": [f"{token.source} {token.number}" for token in found.tokens],
        "words": [word.text for word in found.words],
        "photos": list(found.user.photos),
    }
    arrays: dict[str, Any] = {key: np.array(some, dtype=str) for key, some in texts.items()}
    arrays |= {key: getattr(found, key) for key in ("gate", "visual", "hidden", "attention")}
    arrays["spans"] = np.array([word.span for word in found.words], dtype=np.int64).reshape(-1, 2)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    load_photo = inspector.collator.load_photo
    assert load_photo is not None
    save_figure(draw_words(found), folder / f"{name}-words.png")
    save_figure(draw_photos(found, load_photo), folder / f"{name}-photos.png")


def write_counterfactuals(folder: Path, rows: Sequence[Effect]) -> None:
    """``counterfactuals.csv``, a row per user, change, attribute and value, and a figure of each user."""
    with (folder / "counterfactuals.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Effect._fields)
        writer.writerows((*row[:4], *(f"{number:.6f}" for number in row[4:])) for row in rows)
    for name in dict.fromkeys(row.user_id for row in rows):
        save_figure(draw_effects([row for row in rows if row.user_id == name]), folder / f"{name}-effects.png")


def write_gates(folder: Path, inspector: "Inspector", users: Sequence[User]) -> None:
    """``gates.json``, the means of :func:`gate_summary`, and its figure."""
    summary = gate_summary(inspector, users)
    means: dict[str, Any] = {
        what: {
            name: {key: float(part.mean()) for key, part in gates._asdict().items()} for name, gates in found.items()
        }
        for what, found in (("by_view", summary.by_view), ("by_photos", summary.by_photos))
    }
    means["by_attribute"] = {name: float(distances.mean()) for name, distances in summary.by_attribute.items()}
    (folder / "gates.json").write_text(json.dumps({"users": len(users), **means}, indent=2) + "\n", encoding="utf-8")
    save_figure(draw_gates(*summary), folder / "gates.png")


def gate_summary(inspector: "Inspector", users: Sequence[User]) -> GateSummary:
    """The gates of some users, who have photos."""
    shut = moved(inspector.counterfactuals(users, lambda user, _: {"zero gate": zero_gate(user)}))["zero gate"]
    return GateSummary(inspector.gates_by_view(users), inspector.gates_by_photos(users), shut)


def draw_words(found: "Inspection") -> Figure:
    """Reviews and captions as they are read, each word the darker the larger the mean of its |gate * H*|."""
    shades = found.by_word(np.abs(found.added).mean(1))
    low, high = float(shades.min(initial=np.inf)), float(shades.max(initial=0.0))
    places, line, column = [], 1, 0
    for before, word in zip([None, *found.words], found.words, strict=False):
        new = before is None or (before.source, before.number) != (word.source, word.number)
        if new or column + len(word.text) > COLUMNS:
            line, column = line + (2 if new else 1), 0
        places.append((line, column, new))
        column += len(word.text) + word.space
    width = MARGIN + COLUMNS + MARGIN
    figure = Figure(figsize=(width * CHARACTER * SIZE / 72, 0.22 * (line + 2)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-MARGIN, width - MARGIN)
    axes.set_ylim(line + 1, -1)
    axes.set_axis_off()
    axes.text(0, 0, f"mean |gate * H*| of each word: {low:.3g} white, {high:.3g} darkest", fontsize=9, va="center")
    for word, shade, (y, x, new) in zip(found.words, shades, places, strict=True):
        depth = (float(shade) - low) / ((high - low) or 1.0)
        if new:
            axes.text(0, y - 1, f"{word.source} {word.number}", fontsize=7, color="#666666", va="center")
        box = {"boxstyle": "square,pad=0.1", "facecolor": (0.0, 0.447, 0.698, depth), "linewidth": 0}
        colour = "white" if depth > 0.6 else "black"
        axes.text(x, y, _plain(word.text), fontsize=SIZE, family="monospace", va="center", color=colour, bbox=box)
    return figure


def draw_photos(found: "Inspection", load_photo: Callable[[str], np.ndarray]) -> Figure:
    """The photos with the share of attention that goes to each (with patches: where in it), and a table words by photos.

    Args:
        found: of a user with photos.
        load_photo: photo key -> uint8 (3, H, W).
    """
    photos = found.user.photos
    shares = found.photo_attention
    figure = Figure(figsize=(max(4.5, 2.2 * len(photos) + 1.5), 2.8 + 0.15 * _rows(found)), layout="constrained")
    grid = figure.add_gridspec(2, len(photos), height_ratios=[2.4, 0.4 + 0.15 * _rows(found)])
    weights = found.attention.mean((0, 1)).reshape(len(photos), -1)
    for k in range(len(photos)):
        axes = figure.add_subplot(grid[0, k])
        axes.imshow(load_photo(photos[k]).transpose(1, 2, 0))
        side = int(np.sqrt(weights.shape[1] - 1))
        if side > 1 and side * side == weights.shape[1] - 1:  # behind a class state
            height, width = load_photo(photos[k]).shape[1:]
            square = weights[k, 1:].reshape(side, side)
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(square, cmap="magma", alpha=0.55, extent=extent, vmin=0, vmax=float(weights.max()))
        axes.set_axis_off()
        axes.set_title(f"photo {k}: {100 * shares[:, k].mean():.0f} % of attention", fontsize=8)
    if found.words:
        _words_by_photos(figure.add_subplot(grid[1, :]), found)
    return figure


def draw_gate(found: "Inspection") -> Figure:
    """The gate by dimension, -1 to 1, of the words that the photos add most to, in the order of the text.

    Args:
        found: of a user of whom a word is read.
    """
    chosen = _strongest(found)
    figure = Figure(figsize=(9, 1 + 0.15 * len(chosen)), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(found.by_word(found.gate)[chosen], cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axes.set_yticks(range(len(chosen)), [_plain(found.words[i].text) for i in chosen], fontsize=6)
    axes.set_xlabel("dimension", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, label="gate", pad=0.01)
    return figure


def draw_effects(rows: Sequence[Effect]) -> Figure:
    """One user's changes by attributes: total variation, and what becomes the likeliest value where that is another."""
    changes, attributes = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("change", "attribute"))
    table = np.zeros((len(changes), len(attributes)))
    figure = Figure(figsize=(1.5 * len(attributes) + 2, 0.9 + 0.34 * len(changes)), layout="constrained")
    axes = figure.add_subplot()
    for i, change in enumerate(changes):
        for j, attribute in enumerate(attributes):
            here = [row for row in rows if (row.change, row.attribute) == (change, attribute)]
            table[i, j] = here[0].total_variation
            first, last = max(here, key=lambda row: row.before).value, max(here, key=lambda row: row.after).value
            text = f"{table[i, j]:.2f}" if first == last else f"{table[i, j]:.2f}\n{_short(last)}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if table[i, j] > 0.6 else "black")
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(attributes)), [name.replace(" ", "\n", 1) for name in attributes], fontsize=8)
    axes.set_yticks(range(len(changes)), changes, fontsize=8)
    axes.set_title("total variation, and the new likeliest value where it is another", fontsize=9, loc="left")
    axes.spines[:].set_visible(False)
    return figure


def draw_gates(
    by_view: Mapping[str, Gates], by_photos: Mapping[str, Gates], by_attribute: Mapping[str, np.ndarray]
) -> Figure:
    """Mean |gate * H*| by view and by photos, and total variation of each attribute when the gate is shut.

    Bars are means over users, lines the middle 80 % of them.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[4, 4, 6])
    for axes, found, title in ((left, by_view, "by view"), (middle, by_photos, "by photos")):
        _bars(axes, {name: gates.added for name, gates in found.items()}, f"{title}: mean |gate * H*|")
    _bars(right, by_attribute, "gate shut: total variation")
    return figure


def _bars(axes: Axes, values: Mapping[str, np.ndarray], title: str) -> None:
    names = [name.replace("_", " ").replace(" ", "\n", 1) for name in values]
    means = np.array([some.mean() for some in values.values()])
    low, high = (np.array([np.quantile(some, q) for some in values.values()]) for q in (0.1, 0.9))
    reach = np.maximum(0, [means - low, high - means])
    axes.bar(range(len(names)), means, color=_COLOUR, yerr=reach, error_kw={"elinewidth": 1.0, "capsize": 2.5})
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_title(title, fontsize=9, loc="left")
    clean_axes(axes)


def _rows(found: "Inspection") -> int:
    return min(MOST_WORDS, len(found.words))


def _strongest(found: "Inspection") -> np.ndarray:
    """Places of the words with the largest mean |gate * H*|, in the order of the text."""
    strength = found.by_word(np.abs(found.added).mean(1))
    return np.sort(np.argsort(-strength, kind="stable")[: _rows(found)])


def _words_by_photos(axes: Any, found: "Inspection") -> None:
    chosen = _strongest(found)
    table = found.by_word(found.photo_attention)[chosen]
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(chosen)), [_plain(found.words[i].text) for i in chosen], fontsize=6)
    axes.set_xticks(range(table.shape[1]), [f"photo {k}" for k in range(table.shape[1])], fontsize=7)
    axes.spines[:].set_visible(False)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _plain(text: str) -> str:
    """Text that is no formula to Matplotlib."""
    return text.replace("$", r"\$")
