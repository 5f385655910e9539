"""Files and figures of an inspection: words, photos, effects of changes, and the gates of many users."""

import csv
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmprofile.evaluate.plots import clean_axes, save_figure
from mmprofile.files import write_json
from mmprofile.inputs.reading import Word
from mmprofile.inputs.views import User
from mmprofile.inspection.counterfactuals import Effect, distances_by_change, zero_gate
from mmprofile.model.fusion import Gates

if TYPE_CHECKING:
    from mmprofile.inspection.inspector import Inspection, Inspector

COLUMNS = 92
"""Characters of a line of words."""
MARGIN, SIZE, CHARACTER = 3, 8.5, 0.602
"""Characters beside the lines, size of the letters in points, width of one of Matplotlib's monospaced letters by its size."""
MOST_WORDS = 40
"""Rows of the table of words and photos at most: the words that the photos add most to, in the order of the text."""
LONGEST = 26
"""Characters of a value in a table at most."""
_COLOUR = "#0072b2"


class GateSummary(NamedTuple):
    """Gates of several users.

    Attributes:
        by_view: in each view, (users,) each.
        by_photos: with their own photos and with others in their place, (users,) each.
        by_attribute: total variation of each attribute when the gate is shut, (users,).
    """

    by_view: Mapping[str, Gates]
    by_photos: Mapping[str, Gates]
    by_attribute: Mapping[str, np.ndarray]


def write_inspection(folder: Path, inspection: "Inspection", inspector: "Inspector") -> None:
    """Write ``<user>.npz`` with the arrays and words, and two figures."""
    user, attribute = inspection.user, inspection.attribute
    name = user.user_id if attribute is None else f"{user.user_id}-{attribute}"
    texts = {
        "tokens": inspector.model.tokenizer.convert_ids_to_tokens([token.id for token in inspection.tokens]),
        "sources": [f"{token.source} {token.number}" for token in inspection.tokens],
        "words": [word.text for word in inspection.words],
        "photos": list(user.photos),
    }
    arrays: dict[str, Any] = {key: np.array(values, dtype=str) for key, values in texts.items()}
    arrays |= {key: getattr(inspection, key) for key in ("gate", "visual", "hidden", "attention")}
    arrays["spans"] = np.array([word.span for word in inspection.words], dtype=np.int64).reshape(-1, 2)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    load_photo = inspector.collator.load_photo
    assert load_photo is not None
    save_figure(draw_words(inspection), folder / f"{name}-words.png")
    save_figure(draw_photos(inspection, load_photo), folder / f"{name}-photos.png")


def write_counterfactuals(folder: Path, rows: Sequence[Effect]) -> None:
    """Write ``counterfactuals.csv``, a row per user, change, attribute and value, and a figure of each user."""
    with (folder / "counterfactuals.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Effect._fields)
        writer.writerows((*row[:4], *(f"{number:.6f}" for number in row[4:])) for row in rows)
    for name in dict.fromkeys(row.user_id for row in rows):
        save_figure(draw_effects([row for row in rows if row.user_id == name]), folder / f"{name}-effects.png")


def write_gates(folder: Path, inspector: "Inspector", users: Sequence[User]) -> None:
    """Write ``gates.json``, the means of :func:`gate_summary`, and its figure."""
    summary = gate_summary(inspector, users)
    by_attribute = {name: float(distances.mean()) for name, distances in summary.by_attribute.items()}
    means = {
        "users": len(users),
        "by_view": _means(summary.by_view),
        "by_photos": _means(summary.by_photos),
        "by_attribute": by_attribute,
    }
    write_json(folder / "gates.json", means)
    save_figure(draw_gates(summary), folder / "gates.png")


def _means(gates: Mapping[str, Gates]) -> dict[str, dict[str, float]]:
    return {name: {key: float(part.mean()) for key, part in g._asdict().items()} for name, g in gates.items()}


def gate_summary(inspector: "Inspector", users: Sequence[User]) -> GateSummary:
    """Return the gates of users with photos."""
    effects = inspector.counterfactuals(users, lambda user, _: {"zero gate": zero_gate(user)})
    return GateSummary(
        by_view=inspector.gates_by_view(users),
        by_photos=inspector.gates_by_photos(users),
        by_attribute=distances_by_change(effects)["zero gate"],
    )


def draw_words(inspection: "Inspection") -> Figure:
    """Draw reviews and captions as the model reads them; the larger a word's mean |gate * H*|, the darker it is."""
    words = inspection.words
    shades = inspection.by_word(np.abs(inspection.added).mean(1))
    low, high = float(shades.min(initial=np.inf)), float(shades.max(initial=0.0))
    places = _place_words(words)
    line = places[-1].line if places else 1
    width = MARGIN + COLUMNS + MARGIN
    figure = Figure(figsize=(width * CHARACTER * SIZE / 72, 0.22 * (line + 2)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-MARGIN, width - MARGIN)
    axes.set_ylim(line + 1, -1)
    axes.set_axis_off()
    axes.text(0, 0, f"mean |gate * H*| of each word: {low:.3g} white, {high:.3g} darkest", fontsize=9, va="center")
    for word, shade, (y, x, begins_text) in zip(words, shades, places, strict=True):
        depth = (float(shade) - low) / ((high - low) or 1.0)
        if begins_text:
            axes.text(0, y - 1, f"{word.source} {word.number}", fontsize=7, color="#666666", va="center")
        box = {"boxstyle": "square,pad=0.1", "facecolor": (0.0, 0.447, 0.698, depth), "linewidth": 0}
        colour = "white" if depth > 0.6 else "black"
        axes.text(x, y, _plain(word.text), fontsize=SIZE, family="monospace", va="center", color=colour, bbox=box)
    return figure


class _Place(NamedTuple):
    """Where a word is drawn, and whether a review or caption begins with it."""

    line: int
    column: float
    begins_text: bool


def _place_words(words: Sequence[Word]) -> list[_Place]:
    """Break words into lines; a line is left free above each review and caption. Arabic and Hebrew run from the right."""
    places, line, column, to_left = list[_Place](), 1, 0.0, False
    for k, (before, word) in enumerate(zip([None, *words], words, strict=False)):
        begins_text = before is None or before[1:3] != word[1:3]
        if begins_text:
            to_left = _runs_to_left("".join(other.text for other in words[k:] if other[1:3] == word[1:3]))
        width = _width(word.text)
        if begins_text or column + width > COLUMNS:
            line, column = line + (2 if begins_text else 1), 0
        places.append(_Place(line, COLUMNS - column - width if to_left else column, begins_text))
        column += width + word.space
    return places


def _runs_to_left(text: str) -> bool:
    """Whether a text runs from right to left: its first letter that has a direction says so."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((direction for direction in directions if direction in ("L", "R", "AL")), "L") != "L"


def _width(text: str) -> float:
    """Return a word's width in monospaced letters: a Chinese character or emoji is an em wide, an accent adds nothing."""
    shown = [c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf")]
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in shown)
    return len(shown) - wide + wide / CHARACTER


def draw_photos(inspection: "Inspection", load_photo: Callable[[str], np.ndarray]) -> Figure:
    """Draw the photos with each one's share of attention (with patches: where in it), and a table of words by photos.

    Args:
        inspection: of a user with photos.
        load_photo: photo key -> uint8 (3, H, W).
    """
    photos, count = inspection.user.photos, _rows(inspection)
    shares = inspection.photo_attention
    figure = Figure(figsize=(max(4.5, 2.2 * len(photos) + 1.5), 2.8 + 0.15 * count), layout="constrained")
    grid = figure.add_gridspec(2, len(photos), height_ratios=[2.4, 0.4 + 0.15 * count])
    weights = inspection.attention.mean((0, 1)).reshape(len(photos), -1)
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
    if inspection.words:
        _draw_words_by_photos(figure.add_subplot(grid[1, :]), inspection)
    return figure


def draw_gate(inspection: "Inspection") -> Figure:
    """Draw the gate by dimension, -1 to 1, of the words that the photos add most to, in the order of the text.

    Args:
        inspection: with a word at least.
    """
    chosen = _strongest(inspection)
    figure = Figure(figsize=(9, 1 + 0.15 * len(chosen)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(inspection.by_word(inspection.gate)[chosen], cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axes.set_yticks(range(len(chosen)), [_plain(inspection.words[i].text) for i in chosen], fontsize=6)
    axes.set_xlabel("dimension", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="gate", pad=0.01)
    return figure


def draw_effects(rows: Sequence[Effect]) -> Figure:
    """Draw one user's changes by attributes: total variation, and the new likeliest value where it is another one."""
    changes = list(dict.fromkeys(row.change for row in rows))
    attributes = list(dict.fromkeys(row.attribute for row in rows))
    table = np.zeros((len(changes), len(attributes)))
    figure = Figure(figsize=(1.5 * len(attributes) + 2, 0.9 + 0.34 * len(changes)), layout="constrained")
    axes = figure.add_subplot()
    for i, change in enumerate(changes):
        for j, attribute in enumerate(attributes):
            values = [row for row in rows if (row.change, row.attribute) == (change, attribute)]
            table[i, j] = values[0].total_variation
            before, after = max(values, key=lambda row: row.before).value, max(values, key=lambda row: row.after).value
            text = f"{table[i, j]:.2f}" if before == after else f"{table[i, j]:.2f}\n{_short(after)}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if table[i, j] > 0.6 else "black")
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(attributes)), [name.replace(" ", "\n", 1) for name in attributes], fontsize=8)
    axes.set_yticks(range(len(changes)), changes, fontsize=8)
    axes.set_title("total variation, and the new likeliest value where it is another", fontsize=9, loc="left")
    axes.spines[:].set_visible(False)
    return figure


def draw_gates(summary: GateSummary) -> Figure:
    """Draw mean |gate * H*| by view and by photos, and the total variation of each attribute when the gate is shut.

    Bars are means over users, lines the middle 80 % of them.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[4, 4, 6])
    for axes, by_name, title in ((left, summary.by_view, "by view"), (middle, summary.by_photos, "by photos")):
        _bars(axes, {name: gates.added for name, gates in by_name.items()}, f"{title}: mean |gate * H*|")
    _bars(right, summary.by_attribute, "gate shut: total variation")
    return figure


def _bars(axes: Axes, values: Mapping[str, np.ndarray], title: str) -> None:
    names = [name.replace("_", " ").replace(" ", "\n", 1) for name in values]
    means = np.array([of_users.mean() for of_users in values.values()])
    low, high = (np.array([np.quantile(of_users, q) for of_users in values.values()]) for q in (0.1, 0.9))
    reach = np.maximum(0, [means - low, high - means])
    axes.bar(range(len(names)), means, color=_COLOUR, yerr=reach, error_kw={"elinewidth": 1.0, "capsize": 2.5})
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_title(title, fontsize=9, loc="left")
    clean_axes(axes)


def _rows(inspection: "Inspection") -> int:
    return min(MOST_WORDS, len(inspection.words))


def _strongest(inspection: "Inspection") -> np.ndarray:
    """Return the places of the words with the largest mean |gate * H*|, in the order of the text: (rows,) long."""
    strength = inspection.by_word(np.abs(inspection.added).mean(1))
    return np.sort(np.argsort(-strength, kind="stable")[: _rows(inspection)])


def _draw_words_by_photos(axes: Axes, inspection: "Inspection") -> None:
    chosen = _strongest(inspection)
    table = inspection.by_word(inspection.photo_attention)[chosen]
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(chosen)), [_plain(inspection.words[i].text) for i in chosen], fontsize=6)
    axes.set_xticks(range(table.shape[1]), [f"photo {k}" for k in range(table.shape[1])], fontsize=7)
    axes.spines[:].set_visible(False)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _plain(text: str) -> str:
    """Return the text such that Matplotlib takes none of it for a formula."""
    return text.replace("$", r"\$")
