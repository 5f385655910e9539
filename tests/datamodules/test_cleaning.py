"""What is listed of the cache, and what goes: only what no command leads to any more."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datamodules.cleaning import clean
from datamodules.options import Options
from datamodules.prepare import Preparation, open_prepared, prepare
from datamodules.progress import Progress
from mmprofile.errors import UserError
from tests.support.rawdata import TEXT, jpeg, write_lines, yelp_schema

REST: dict[str, Any] = {
    "selection": {"min_words": 1, "max_words": 300, "min_reviews": 1, "photo_reviews": 0},
    "split": {"train": 1, "validation": 1, "test": 1},
    "photos": {},
    "engine": "duckdb",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")
    return tmp_path / "cache" / "prepared"


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    """The options of a command on files in a folder, which are made on first use."""
    if not folder.exists():
        folder.mkdir()
        (folder / "1.jpg").write_bytes(jpeg())
        write_lines(folder / "reviews.jsonl", [{"user_id": n, "text": TEXT, "photos": ["1.jpg"]} for n in "abc"])
    return {"source": {"kind": "custom", "reviews": str(folder / "reviews.jsonl")}, **REST, **changes}


def made(given: dict[str, Any]) -> Path:
    return prepare(**given, schema=yelp_schema(), progress=False)


def verdicts(given: dict[str, Any], remove: bool = False) -> dict[str, str]:
    """Folder -> the last column of the table."""
    lines = clean(given, yelp_schema(), remove).splitlines()
    start = lines[1].index("age") + len("age")
    return {line.split()[0]: line[start:].strip() for line in lines[2:-1]}


def test_what_nothing_leads_to_goes(tmp_path: Path, cache: Path) -> None:
    mine, other = options(tmp_path / "mine"), options(tmp_path / "other")
    old, elsewhere = made(mine), made(other)
    old_options = made(mine | {"split": {"train": 2, "validation": 1, "test": 0}})
    (tmp_path / "mine" / "1.jpg").write_bytes(jpeg((1, 2, 3)))
    now, other_options = made(mine), made(mine | {"split": {"train": 1, "validation": 2, "test": 0}})
    for name in ("thesis", "custom-0.tmp-999999", f"custom-0.tmp-{os.getppid()}"):
        (cache / name).mkdir()
    changed = "its files or the generator have changed since"
    expected = {
        old.name: changed,
        old_options.name: changed,
        "custom-0.tmp-999999": "left by a command that was killed",
    }
    kept = {
        now.name: "this command's",
        other_options.name: "kept: other options lead to it",
        elsewhere.name: "kept: made of other files",
        f"custom-0.tmp-{os.getppid()}": "being prepared",
    }
    assert verdicts(mine) == {name: f"may go: {why}" for name, why in expected.items()} | kept
    assert {path.name for path in cache.iterdir()} == {*expected, *kept, "thesis"}
    assert "clean=true removes 3 of 7 folders, " in clean(mine, yelp_schema(), False)
    assert verdicts(mine, remove=True) == {name: f"removed: {why}" for name, why in expected.items()} | kept
    assert {path.name for path in cache.iterdir()} == {*kept, "thesis"}
    assert clean(mine, yelp_schema(), True).splitlines()[-1] == "nothing to remove"


def test_what_a_preparation_does_not_make_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = options(tmp_path / "mine")
    old = made(mine)
    (tmp_path / "mine" / "1.jpg").write_bytes(jpeg((1, 2, 3)))
    for file, why in (("captions.parquet", "it has captions"), ("text_only.parquet", "it has text-only labels")):
        (old / file).touch()
        assert verdicts(mine, remove=True)[old.name] == f"kept: {why}"
        (old / file).unlink()
    monkeypatch.setenv("MMPROFILE_USER_KEY", "somebody else 5d81 c3f9 72b6")
    assert verdicts(mine, remove=True)[old.name] == "kept: another key for user ids"
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")
    (old / ".origin").rename(tmp_path / "origin")
    assert verdicts(mine, remove=True)[old.name] == "kept: made by an earlier version, of files that are not known"
    (tmp_path / "origin").rename(old / ".origin")
    assert verdicts(mine, remove=True)[old.name].startswith("removed")


@pytest.mark.skipif(sys.platform == "win32", reason="it does not remove open files by itself")
def test_a_folder_that_is_open_stays(tmp_path: Path) -> None:
    """Here or in another process; as soon as it is closed it may go."""
    mine = options(tmp_path / "mine")
    old = made(mine)
    (tmp_path / "mine" / "1.jpg").write_bytes(jpeg((1, 2, 3)))
    data = open_prepared(old)
    assert verdicts(mine, remove=True)[old.name] == "kept: in use"
    del data
    script = (
        "import sys; from datamodules.prepare import open_prepared; data = open_prepared(sys.argv[1]); print(); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(old)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        assert verdicts(mine, remove=True)[old.name] == "kept: in use"
        reader.communicate(b"\n")
    assert verdicts(mine, remove=True)[old.name].startswith("removed")
    assert not old.exists()


def test_a_city_of_an_earlier_generator_goes(tmp_path: Path, cache: Path) -> None:
    mine = options(tmp_path / "mine")
    city = cache / "demo-1"
    shutil.copytree(made(mine), city)
    manifest = json.loads((city / "manifest.json").read_text())
    source = {"kind": "demo", "users": 24, "seed": 1, "keep_raw": False}
    manifest["config"]["source"] = {"kind": "demo", "users": 24, "seed": 1}
    (city / "manifest.json").write_text(json.dumps(manifest))
    checked = Options.checked(source, **REST)
    (city / ".fingerprint").write_text(
        Preparation(checked, yelp_schema(), None, Progress(False)).destination.fingerprint
    )
    assert verdicts(mine)["demo-1"] == "kept: other options lead to it"
    (city / ".fingerprint").write_text("of other code")
    assert verdicts(mine)["demo-1"].startswith("may go")
    manifest["format_version"] = 99
    (city / "manifest.json").write_text(json.dumps(manifest))
    assert verdicts(mine)["demo-1"] == "kept: of a later version"


def test_an_empty_cache_and_wrong_options(tmp_path: Path) -> None:
    assert clean(options(tmp_path / "mine"), yelp_schema(), True).splitlines()[-1] == "nothing to remove"
    with pytest.raises(UserError, match=r"data\.prepare\.source\.kind is ''"):
        clean({}, yelp_schema(), True)
