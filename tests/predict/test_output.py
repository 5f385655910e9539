"""The output file of ``predict``, shared by processes that were killed at any place."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmprofile.config.compose import load_config
from mmprofile.predict.output import OutputFile, whole_batches
from mmprofile.predict.ranks import Ranks

BATCH, USERS = 2, 11


@pytest.fixture
def output(tmp_path: Path) -> OutputFile:
    (tmp_path / "users.jsonl").touch()
    words = [f"run={tmp_path}", f"input={tmp_path / 'users.jsonl'}", f"output={tmp_path / 'out.jsonl'}"]
    return OutputFile.of(load_config("predict", words))


def write(output: OutputFile, start: int, ranks: Ranks, most: int) -> None:
    """Write what a process would, at most so many rows."""
    share = [*ranks.share(range(start, USERS), BATCH)]
    with output.rows(output.part(start, ranks)) as file:
        file.writelines(json.dumps({"n": number}) + "\n" for number in share[:most])


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("before", [2, 3])
@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("cut", [(0, 0, 0), (1, 9, 9), (9, 1, 9), (3, 2, 1), (4, 4, 2), (9, 9, 9)])
def test_any_number_of_processes_goes_on(before: int, after: int, cut: tuple[int, ...], output: OutputFile) -> None:
    added: list[Any] = []
    start = output.resume(BATCH, Ranks(0, before), added.append)
    assert start == 0
    for rank in range(before):
        write(output, start, Ranks(rank, before), cut[rank])
    start = output.resume(BATCH, Ranks(0, after), added.append)
    assert (start == 0) == (after == before or cut[0] < BATCH)
    assert [row["n"] for row in added] == [*range(start)]
    for ranks in (Ranks(rank, after) for rank in range(after)):
        if not ranks.first:
            assert output.resume(BATCH, ranks, added.append) == start
        part = output.part(start, ranks)
        done = start if ranks.alone else whole_batches(part, BATCH)
        share = [*range(start, USERS)] if ranks.alone else [*ranks.share(range(start, USERS), BATCH)][done:]
        with output.rows(part) as file:
            file.writelines(json.dumps({"n": number}) + "\n" for number in share)
    if after > 1:
        assert output.join(start, after, BATCH, added.append) == USERS
    output.finish(0)
    assert numbers(output.target) == [*range(USERS)]
    assert {path.name for path in output.target.parent.iterdir()} == {"users.jsonl", "out.jsonl"}
