"""Shards of users in, shards of profiles out: those of the command for one file, whatever fails or is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.predict import run
from mmprofile.predict.shards import main
from tests.support.extras import extra
from tests.support.rawdata import write_lines

SHARDS, USERS = 4, 5


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Shards, one of them with a row that is no user, and a file that is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(SHARDS):
        rows = [{"user_id": f"u{shard}-{i}", "reviews": [f"a fine place {i}", "nice"]} for i in range(USERS)]
        write_lines(folder / f"part-{shard}.jsonl", [*rows, *([{"user_id": "nobody"}] if shard == 1 else [])])
    (folder / "notes.txt").write_text("no shard")
    return folder


def words(model: Path, source: Path, output: Path, *more: str) -> list[str]:
    return [f"run={model}", f"input={source}", f"output={output}", "batch_size=2", *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


@pytest.fixture
def whole(model_folder: Path, source: Path, tmp_path: Path) -> dict[str, bytes]:
    """What the command makes of each file by itself."""
    for path in sorted(source.glob("*.jsonl")):
        run.main(load_config("predict", words(model_folder, path, tmp_path / "whole" / path.name)))
    return contents(tmp_path / "whole")


def test_each_shard_as_by_itself_and_once(
    model_folder: Path, source: Path, tmp_path: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(model_folder, source, tmp_path / "out")
    main(load_config("predict", given))
    assert contents(tmp_path / "out") == whole
    assert "part-1.errors.jsonl" in whole
    (tmp_path / "out" / "part-2.jsonl").unlink()
    (tmp_path / "out" / "part-0.jsonl").write_bytes(b"done")
    capsys.readouterr()
    main(load_config("predict", given))
    assert "4 shards: 3 done, 1 to do" in capsys.readouterr().out
    assert contents(tmp_path / "out") == whole | {"part-0.jsonl": b"done"}


def test_a_shard_that_fails_does_not_hold_up_the_others(
    model_folder: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    good = (source / "part-1.jsonl").read_bytes()
    (source / "part-1.jsonl").write_bytes(b"")
    given = words(model_folder, source, tmp_path / "out")
    with pytest.raises(UserError, match=r"1 of 4 shards failed, the first: part-1.jsonl: .*no rows in it.*goes on"):
        main(load_config("predict", given))
    assert contents(tmp_path / "out").keys() == whole.keys() - {"part-1.jsonl", "part-1.errors.jsonl"}
    (source / "part-1.jsonl").write_bytes(good)
    main(load_config("predict", given))
    assert contents(tmp_path / "out") == whole


def test_what_is_refused(model_folder: Path, source: Path, tmp_path: Path) -> None:
    def refused(match: str, *given: str) -> None:
        with pytest.raises(UserError, match=match):
            main(load_config("predict", list(given)))

    one = words(model_folder, source / "part-0.jsonl", tmp_path / "one", "ray_workers=2")
    refused("ray_workers= shares the files of a folder", *one)
    refused("output= must be a folder", *words(model_folder, source, source / "part-0.jsonl"))
    refused("is the input's folder", *words(model_folder, source, source))
    main(load_config("predict", words(model_folder, source, tmp_path / "out")))
    refused("another model or other settings", *words(model_folder, source, tmp_path / "out", "beams=2"))
    (source / "part-0.csv").write_text("")
    refused("differ in their ending alone", *words(model_folder, source, tmp_path / "out"))
    refused(r"no .jsonl, .csv or .parquet", *words(model_folder, tmp_path / "out" / "..", tmp_path / "out"))


def workers_of_ray(tree: int) -> list[int]:
    """The processes of a command that work on shards."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::MapWorker") and _below(int(path.parent.name), tree):
                found.append(int(path.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def _below(pid: int, top: int) -> bool:
    while pid > 1:
        if pid == top:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the processes to kill in /proc")
@pytest.mark.parametrize("kill", [pytest.param(kill, marks=extra("ray", "ray")) for kill in (False, True)])
def test_rays_workers_share_them(
    kill: bool, model_folder: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """Also when a worker is killed: another one goes on with its shard."""
    given = words(model_folder, source, tmp_path / "out", "ray_workers=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "mmprofile.predict", *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until = time.monotonic() + 240
    while kill and process.poll() is None and time.monotonic() < until:
        if any((tmp_path / "out").glob("*.partial")) and (pids := workers_of_ray(process.pid)):
            os.kill(pids[0], signal.SIGKILL)
            break
        time.sleep(0.01)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert contents(tmp_path / "out") == whole
    assert not (tmp_path / "out" / ".tries").exists()
