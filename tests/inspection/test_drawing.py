"""Files and figures of an inspection."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmprofile.evaluate.plots import save_figure
from mmprofile.inputs.reading import Word
from mmprofile.inputs.views import User
from mmprofile.inspection.drawing import (
    GateSummary,
    _place_words,
    draw_gate,
    draw_gates,
    write_counterfactuals,
    write_gates,
    write_inspection,
)
from mmprofile.inspection.inspector import Inspection
from mmprofile.model.fusion import Gates
from tests.support.inspecting import Make, close

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("tokens", ["cls", "patch"])
def test_files_and_figures(tokens: str, make: Make, users: list[User], tmp_path: Path) -> None:
    inspector = make(tokens)
    user = replace(users[0], reviews=("the soup was $5 $ <b>good</b>", "bread"))
    inspector.users_by_id[user.user_id] = user
    (inspection,) = inspector.inspect([user])
    write_inspection(tmp_path, inspection, inspector)
    saved = np.load(tmp_path / "user-0.npz")
    for name in ("gate", "visual", "hidden", "attention"):
        assert np.array_equal(saved[name], getattr(inspection, name))
    assert len(saved["tokens"]) == len(saved["sources"]) == len(inspection.tokens)
    assert saved["words"].tolist() == [word.text for word in inspection.words]
    assert saved["spans"].tolist() == [list(word.span) for word in inspection.words]
    assert saved["photos"].tolist() == ["sign", "plate", "door"]
    rows = inspector.counterfactuals([user])
    write_counterfactuals(tmp_path, rows)
    with (tmp_path / "counterfactuals.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows)
    assert float(read[3]["difference"]) == pytest.approx(rows[3].difference, abs=1e-6)
    save_figure(draw_gate(inspection), tmp_path / "user-0-gate.png")
    write_gates(tmp_path, inspector, inspector.select())
    gates = json.loads((tmp_path / "gates.json").read_text())
    assert gates["users"] == 3
    close(gates["by_photos"]["black"]["added"], inspector.gates_by_photos(inspector.select())["black"].added.mean())
    assert set(gates["by_attribute"]) == set(inspector.model.schema.names)
    for name in ("user-0-words", "user-0-gate", "user-0-photos", "user-0-effects", "gates"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 150
            assert len(set(picture.convert("L").tobytes())) > 10


def test_figures_of_next_to_nothing(make: Make, users: list[User], tmp_path: Path) -> None:
    inspector = make()
    user = User("quiet", ("",), ("car",), (None,))
    (inspection,) = inspector.inspect([user])
    assert inspection.words == []
    write_inspection(tmp_path, inspection, inspector)
    nothing = Gates(*np.zeros((4, 1)))
    summary = GateSummary(
        by_view={"fusion": nothing}, by_photos={"paired": nothing}, by_attribute={"Stars": np.zeros(1)}
    )
    save_figure(draw_gates(summary), tmp_path / "gates.png")
    assert isinstance(inspection, Inspection)


def places_of(*reviews: str) -> list[tuple[int, float]]:
    words = [
        Word(text, "review", number, (0, 1), True) for number, review in enumerate(reviews) for text in review.split()
    ]
    return [place[:2] for place in _place_words(words)]


def test_words_of_arabic_run_from_the_right() -> None:
    assert places_of("ab cd", "مرحبا 12 يا") == [(3, 0), (3, 3), (5, 87), (5, 84), (5, 81)]
    assert places_of("12 مرحبا") == [(3, 90), (3, 84)]  # a number has no direction


def test_chinese_characters_take_an_em_and_accents_nothing() -> None:
    assert places_of("北京 x", "e\u0301 x", "สีี x") == [
        (3, 0),
        (3, pytest.approx(2 / 0.602 + 1)),
        (5, 0),
        (5, 2),
        (7, 0),
        (7, 2),
    ]
    lines = [line for line, _ in places_of(" ".join(["北京"] * 50))]
    assert max(lines) - min(lines) == 50 * (2 / 0.602 + 1) // 92
