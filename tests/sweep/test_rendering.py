"""The files of a table: lists, grids and curves of hand-made runs."""

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from mmprofile.sweep.rendering import grid_cells, tex, write_table
from mmprofile.sweep.results import Result, collect
from mmprofile.sweep.tables import Planned, RowConfig, TableConfig
from tests.support.sweeps import MakeRun, planned

pytestmark = pytest.mark.fast


def test_files_of_a_list(make_run: MakeRun, tmp_path: Path) -> None:
    paper = {"mean": 53.91, "Stars": 53.44}
    rows = [
        planned(RowConfig("good", "A & B_1", paper=paper), make_run("good", 0.9)),
        planned(RowConfig("poor", "poor | x"), make_run("poor", 0.1)),
        Planned(RowConfig("gpt"), [], "left out; give a file", True),
    ]
    results = collect(rows, "good", 200)
    write_table(tmp_path / "t", TableConfig("Table 9: 100 %", note="A note."), results, "make")
    found = json.loads((tmp_path / "t" / "table.json").read_text())
    assert [row["system"] for row in found["rows"]] == ["good", "poor", "gpt"]
    wanted = {"system", "macro_f1", "interval", "p_vs_reference", "parse_fault_rate", "minutes", "paper", "error"}
    assert all(wanted <= set(row) for row in found["rows"])
    assert found["rows"][0]["paper"] == paper
    assert found["rows"][1]["p_vs_reference"] < 0.05
    text = (tmp_path / "t" / "table.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| poor"))
    assert line.startswith(f"| poor \\| x | {results[1].macro_f1:.2f} | ")
    assert f"{results[1].delta:+.2f}\\*\\* (p = 0.0050)" in line
    assert "against A & B_1" in text
    assert "- gpt: left out; give a file" in text
    assert "Data and weights differ" in text
    assert text.count("A note.") == 1
    with (tmp_path / "t" / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[1]["macro_f1"]) == results[1].macro_f1
    assert (table[0]["paper mean"], table[2]["macro_f1"], table[2]["error"]) == ("53.91", "", "left out; give a file")
    latex = (tmp_path / "t" / "table.tex").read_text()
    assert r"A \& B\_1 & " in latex
    assert r"\caption{Table 9: 100 \%}" in latex
    columns = re.search(r"\\begin\{tabular\}\{(l?r*)\}", latex)
    assert columns is not None
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 4
    assert all(len(re.findall(r"(?<!\\)&", line)) + 1 == len(columns[1]) for line in body)
    assert Image.open(tmp_path / "t" / "table.png").size[0] > 600


def test_latex_escapes() -> None:
    assert tex(r"50 % of A&B_c #1 $x^2$ {~\}") == (
        r"50 \% of A\&B\_c \#1 \$x\textasciicircum{}2\$ \{\textasciitilde{}\textbackslash{}\}"
    )


def test_a_grid_has_gains_and_the_papers_figures(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"run{i}", share, i) for i, share in enumerate((0.2, 0.8, 0.5))]
    rows = [
        planned(RowConfig("a0", line="A", column="basic", paper={"mean": 40.0}), runs[0]),
        planned(RowConfig("a1", line="A", column="joint", reference="a0", paper={"mean": 42.5}), runs[1]),
        planned(RowConfig("all", line="B"), runs[2]),
        Planned(RowConfig("c0", line="C", column="basic"), [], "broken"),
    ]
    table = TableConfig("Grid", layout="grid", gain=True)
    results = collect(rows, None, 100)
    cells = grid_cells(table, results)
    assert cells.titles == ["", "basic", "joint", "gain", "basic (paper)", "joint (paper)", "gain (paper)"]
    first = [f"{results[i].macro_f1:.2f}" for i in (0, 1, 2)]
    assert results[0].macro_f1 is not None
    assert results[1].macro_f1 is not None
    assert cells.rows[0][0] == "A"
    assert cells.rows[0][1].startswith(f"{first[0]} (")
    assert cells.rows[0][2].startswith(f"{first[1]}**")
    assert cells.rows[0][3:] == [f"{results[1].macro_f1 - results[0].macro_f1:+.2f}", "40.00", "42.50", "+2.50"]
    assert cells.rows[1][1] == cells.rows[1][2]  # without a column: the same in all
    assert cells.rows[1][1].startswith(first[2])
    assert cells.rows[2][1:4] == ["failed", "-", "-"]
    write_table(tmp_path / "g", table, results, "make")
    assert "## Every cell" in (tmp_path / "g" / "table.md").read_text()
    assert Image.open(tmp_path / "g" / "table.png").size[1] > 200


def test_curves_are_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [planned(RowConfig(f"x{i}", line="photos", x=float(i)), make_run(f"x{i}", 0.2 * i, i)) for i in range(3)]
    rows.append(Planned(RowConfig("x3", line="photos", x=3.0), [], "broken"))
    write_table(tmp_path / "f", TableConfig("Curves", layout="curves"), collect(rows, None, 50), "make")
    assert Image.open(tmp_path / "f" / "table.png").size[0] > 400


def test_no_figure_without_figures(tmp_path: Path) -> None:
    write_table(tmp_path / "n", TableConfig("None"), [Result(RowConfig("a"), error="broken")], "make")
    assert not (tmp_path / "n" / "table.png").exists()
    assert "| a | failed |" in (tmp_path / "n" / "table.md").read_text()
