"""A person's rows in files of each kind, and nobody else's, also where the id is as short as a value."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmprofile.erasing import Person, changes_in

HASHED, TEXT = "0123456789abcdef", "the soup was warm and the bread was good, said one of them"
PERSON = Person(
    "4",
    names={HASHED},
    texts={TEXT},
    hashed=lambda raw: {"h" + raw},
)


def after(path: Path) -> str:
    for change in changes_in([path], PERSON):
        change.apply()
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("row", "goes"),
    [
        ({"user_id": "4"}, True),
        ({"user_id": HASHED, "gold": {"Stars": ["4"]}}, True),
        ({"user_id": "5", "gold": {"Stars": ["4"]}, "photos": ["pictures/4/a.jpg"], "4": 4}, False),
        ({"targets": {HASHED: {"Age": [1, 2]}}}, True),
        ({"about": [{"user_id": "4"}]}, True),
        ({"user_id": "9", "answer": "because: the soup was warm and the bread was good, said one of them."}, True),
        ({"user_id": "9", "answer": "the soup was warm"}, False),
        ([4, None, True, 0.4], False),
    ],
)
def test_json_lines(row: object, goes: bool, tmp_path: Path) -> None:
    other = json.dumps({"user_id": "44", "text": "4"})
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{other}\n{json.dumps(row)}\n{other}\n")
    assert after(path) == f"{other}\n" * 2 if goes else f"{other}\n{json.dumps(row)}\n{other}\n"


def test_a_torn_line_of_the_person(tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_text(f'{{"user_id": "5"}}\n{{"user_id": "{HASHED}", "gol')
    assert HASHED not in after(tmp_path / "a.partial")


def test_csv_and_parquet_by_their_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,value\n4,1\n5,4\n")
    assert after(tmp_path / "a.csv").split() == ["user_id,value", "5,4"]
    pq.write_table(pa.table({"user_id": ["4", "5", HASHED], "value": ["1", "4", "4"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"value": ["4"]}), tmp_path / "b.parquet")
    for change in changes_in([tmp_path], PERSON):
        change.apply()
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [{"user_id": "5", "value": "4"}]
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 1


def test_whole_files(tmp_path: Path) -> None:
    for name, content, goes in (
        ("metrics.json", json.dumps({"f1": {"4": 4.0}}), False),
        ("frozen.json", json.dumps({"targets": {HASHED: []}}), True),
        ("report.html", f"<code>{HASHED}</code>", True),
        ("other.html", "<code>4</code>", False),
        (f"{HASHED}-words.png", "x", True),
        ("config.yaml", HASHED, False),
    ):
        (tmp_path / name).write_text(content)
        assert (after(tmp_path / name) == "") == goes, name


def test_the_batch_of_a_step_that_was_no_number(tmp_path: Path) -> None:
    """``trainer.on_nan`` writes whose batch it was; the whole file goes."""
    for name, user in (("step-1-rank-0.pt", HASHED), ("step-2-rank-0.pt", "somebody else")):
        torch.save({"step": 1, "users": ["another", user], "tokens": torch.arange(9)}, tmp_path / name)
    for change in changes_in([tmp_path], PERSON):
        change.apply()
    assert [path.name for path in tmp_path.iterdir()] == ["step-2-rank-0.pt"]
