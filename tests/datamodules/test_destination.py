"""A prepared folder is whole or absent, whatever happens on the way."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules import selection
from datamodules.prepare import open_prepared
from mmprofile.errors import UserError
from mmprofile.profile.schema import Schema
from tests.support.preparing import run
from tests.support.rawdata import (
    SMALL,
    SPLIT,
    city,
    yelp_schema,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPROFILE_USER_KEY", raising=False)
    return tmp_path / "cache"


# The start of a script that a test runs as a process of its own; arguments: two import paths, raw folder, folder.
SCRIPT = """
import os, sys
sys.path[:0] = sys.argv[1:3]
from tests.support.rawdata import *
import datamodules.prepare as p
def run():
    source = {"kind": "yelp", "path": sys.argv[3]}
    p.prepare(source, SMALL, SPLIT, schema=yelp_schema(), folder=sys.argv[4], progress=False)
"""
PATHS = (Path(selection.__file__).parents[1], Path(__file__).parents[2])


def test_second_run_does_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = city(tmp_path / "raw")
    folder = run(str(raw))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(str(raw), progress=True) == folder
    assert f"using prepared data in {folder}" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert run(str(raw), split=SPLIT | {"seed": 1}) != folder


def test_explicit_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    raw, folder = city(tmp_path / "raw"), tmp_path / "mine"
    folder.mkdir()
    run(str(raw), folder=folder)  # an empty folder is fine
    with pytest.raises(UserError, match=r"selection.min_reviews was 4, now 3.*remove it or choose another"):
        run(str(raw), folder=folder, selection=SMALL | {"min_reviews": 3})
    schema = Schema("other", yelp_schema().attributes[:3])
    with pytest.raises(UserError, match="another profile schema"):
        run(str(raw), folder=folder, schema=schema)
    (raw / "photos.json").touch()
    with pytest.raises(UserError, match="source files have changed"):
        run(str(raw), folder=folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UserError, match="exists and is no prepared data set"):
        run(str(raw), folder=tmp_path / "full")


def test_killed_run_leaves_nothing_half_done(tmp_path: Path) -> None:
    raw, folder = city(tmp_path / "raw"), tmp_path / "out"
    script = tmp_path / "dies.py"  # when everything but the card is written
    script.write_text(SCRIPT + "p.dataset_card = lambda *a: os._exit(9)\nrun()\n")
    died = subprocess.run([sys.executable, script, *PATHS, raw, folder], check=False)
    assert died.returncode == 9
    drafts = list(tmp_path.glob("out.tmp-*"))
    assert len(drafts) == 1
    assert not folder.exists()
    alive = tmp_path / f"out.tmp-{os.getppid()}"
    alive.mkdir()
    elsewhere = tmp_path / "out.tmp-999999999"
    elsewhere.mkdir()
    (elsewhere / "host").write_text("another machine")
    run(str(raw), folder=folder)
    assert open_prepared(folder).manifest["splits"]["train"] == 4
    assert not drafts[0].exists()
    assert alive.exists()
    assert elsewhere.exists()


def test_error_leaves_no_draft(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw", photos={"p1": b"broken", "p2": b""})
    with pytest.raises(
        UserError, match=r"not one photo is usable \(wanted 2, empty 1, unreadable 1\): looked in .*photos"
    ):
        run(str(raw), folder=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot read or write .*file: (File exists|Not a directory)"):
        run(str(raw), folder=tmp_path / "file" / "out")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_disk(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission stops: the system's error is raised in its place."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    raw = city(tmp_path / "raw")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        UserError, match=f"{os.strerror(code)}: choose another data.prepare.folder or set MMPROFILE_CACHE"
    ):
        run(str(raw), folder=tmp_path / "out")


def test_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: both end in an error from the system."""
    raw = city(tmp_path / "raw")
    script = tmp_path / "fills.py"
    script.write_text(
        "import resource, signal\n"
        + SCRIPT
        + "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        + "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n"
        + "try: run()\n"
        + "except p.UserError as error: print('said:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, script, *PATHS, raw, tmp_path / "out"], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("said:")
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
