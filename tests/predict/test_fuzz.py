"""``predict`` and rows as nobody should write them: nothing stops it, and no row is lost without being counted."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmprofile.predict.rows import BadRow, InputUser, read_rows
from tests.support.fuzzrows import csv_lines, json_lines, strange_files, table

ROWS, PREDICTED = 100_000, 2_000
SEED = 23


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return strange_files(tmp_path)


def count(rows: Iterator[InputUser | BadRow]) -> tuple[int, int]:
    """The number of users and of bad rows; all of them can be written."""
    users = bad = 0
    for row in rows:
        if isinstance(row, BadRow):
            bad += 1
            json.dumps(row._asdict(), ensure_ascii=False).encode()
        else:
            users += 1
            json.dumps([row.user_id, row.reviews, row.photos, row.captions], ensure_ascii=False).encode()
    return users, bad


def write(path: Path, rows: int, paths: list[str]) -> int:
    """Write rows as the name of a file says; return how many of them are not blank."""
    if path.suffix == ".parquet":
        pq.write_table(table(SEED, rows, paths), path)
        return rows
    lines = [*json_lines(SEED, rows, paths)]
    path.write_bytes(b"".join(lines))
    return sum(bool(line.strip()) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["users.jsonl", "users.parquet"])
def test_every_row_is_a_user_or_counted(name: str, tmp_path: Path, paths: list[str]) -> None:
    there = write(tmp_path / name, ROWS, paths)
    users, bad = count(read_rows(str(tmp_path / name)))
    assert users + bad == there
    assert users > 0.1 * there
    assert bad > 0.1 * there


def lies_inside_quotes(text: str, line: str) -> bool:
    """Whether a row that is right as CSV begins above a line and holds the line in a cell."""
    before, after = text.split(line, 1)
    starts = [position for position, sign in enumerate(before) if sign in "\r\n"][-20:]
    for start in starts:
        rest = io.StringIO((before[start:] + line + after[:100_000]).lstrip("\r\n"), newline="")
        try:
            cells = next(csv.reader(rest, strict=True))
        except csv.Error:
            continue
        if any(line in cell for cell in cells):
            return True
    return False


@pytest.mark.slow
def test_a_spoilt_line_of_csv_hides_no_other(tmp_path: Path, paths: list[str]) -> None:
    """Good lines between the others are found, each but those that lie inside the quotes of a row that is right as CSV."""
    with (tmp_path / "users.csv").open("wb") as file:
        for number, line in enumerate(csv_lines(SEED, ROWS // 2, paths)):
            file.write(line + b"good-%d,fine,,,\n" % number if number else line)
    rows = [*read_rows(str(tmp_path / "users.csv"))]
    assert len(rows) > 0.99 * ROWS
    good = {row.user_id for row in rows if isinstance(row, InputUser) and row.user_id.startswith("good-")}
    hidden = [name for name in (f"good-{number}" for number in range(1, ROWS // 2 + 1)) if name not in good]
    assert 0 < len(hidden) < 0.001 * ROWS // 2
    text = (tmp_path / "users.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert [name for name in hidden if not lies_inside_quotes(text, f"{name},fine,,,\n")] == []
    assert not lies_inside_quotes(text, "good-1,fine,,,\n")
    count(iter(rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["users.jsonl", "users.csv", "users.parquet", "-"])
def test_the_command_goes_through(name: str, model_folder: Path, tmp_path: Path, paths: list[str]) -> None:
    source = tmp_path / ("users.jsonl" if name == "-" else name)
    if name == "users.csv":
        source.write_bytes(b"".join(csv_lines(SEED, PREDICTED, paths)))
        there = sum(count(read_rows(str(source))))
    else:
        there = write(source, PREDICTED, paths)
    out = tmp_path / "out.jsonl"
    command = [
        f"run={model_folder}",
        f"input={'-' if name == '-' else source}",
        f"output={out}",
        f"photo_root={tmp_path}",
    ]
    with source.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "mmprofile.predict", *command], stdin=file, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    users = [json.loads(line) for line in out.read_bytes().splitlines()]
    bad = [json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_bytes().splitlines()]
    assert len(users) + len(bad) == there
    assert len({user["user_id"] for user in users}) == len(users)
    assert f"rows left out, which are no users: {len(bad):,}" in done.stderr
    assert not any(user["used"]["photos"] for user in users)  # none of these paths is a photo
