"""Copies of what lies on an object store: what is fetched, what is sent back, and what commands do with URLs."""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from omegaconf import OmegaConf

from datamodules.forgetting import PreparedFolders
from mmprofile import remote
from mmprofile.errors import UserError
from mmprofile.remote import Mirror, RemoteFile, RemoteFolder, is_url, local_copies
from tests.support.extras import extra
from tests.support.objectstore import s3_server
from tests.support.preparing import digests, run
from tests.support.rawdata import city, jpeg

NUMBERS = itertools.count()
S3 = extra("s3", "s3fs", "moto")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", "a key for tests, of some length, 0123456789")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture(params=["memory", pytest.param("s3", marks=S3)])
def url(request: pytest.FixtureRequest) -> str:
    """A folder of a store that nothing is in."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"{request.param}://bucket/{next(NUMBERS)}"


def put(url: str, content: str) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(content.encode())


def there(url: str) -> dict[str, str]:
    store, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return {name.removeprefix(f"{path}/"): store.cat_file(name).decode(errors="replace") for name in store.find(path)}


def elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go to a machine with a cache of its own."""
    monkeypatch.setenv("MMPROFILE_CACHE", str(folder))


def test_what_is_a_url() -> None:
    assert [is_url(place) for place in ("s3://b/k", "gs://b", "/a/b", "a", None, 3)] == [True, True] + [False] * 4


def test_a_folder_there_and_back(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(f"{url}/a.txt", "one")
    put(f"{url}/deep/b.txt", "two")
    mirror = Mirror(url)
    path = mirror.fetch()
    assert (path / "a.txt").read_text() == "one"
    assert (path / "deep" / "b.txt").read_text() == "two"
    (path / "a.txt").write_text("three")
    (path / "deep" / "b.txt").unlink()
    (path / "new").mkdir()
    (path / "new" / "c.txt").write_text("four")
    (path / "draft.tmp").write_text("of no use to others")
    mirror.send()
    assert there(url) == {"a.txt": "three", "new/c.txt": "four"}
    elsewhere(monkeypatch, tmp_path / "other")
    other = Mirror(url).fetch()
    assert other != path
    assert {p.name: p.read_text() for p in other.rglob("*.txt")} == {"a.txt": "three", "c.txt": "four"}


def test_a_file_of_its_own(url: str) -> None:
    put(f"{url}/users.jsonl", "{}")
    path = Mirror(f"{url}/users.jsonl").fetch()
    assert path.name == "users.jsonl"
    assert path.read_text() == "{}"


def test_what_was_changed_here_and_not_sent_yet_stays(url: str) -> None:
    """A training that was killed is ahead of what it has sent."""
    put(f"{url}/last.ckpt", "epoch 1")
    put(f"{url}/notes.txt", "old")
    path = Mirror(url).fetch()
    (path / "last.ckpt").write_text("epoch 2")
    put(f"{url}/notes.txt", "newer there")
    Mirror(url).fetch()
    assert (path / "last.ckpt").read_text() == "epoch 2"
    assert (path / "notes.txt").read_text() == "newer there"


def test_what_was_removed_there_goes(url: str) -> None:
    put(f"{url}/a", "1")
    put(f"{url}/b", "2")
    path = Mirror(url).fetch()
    store, place = fsspec.core.url_to_fs(f"{url}/a")
    store.rm_file(place)
    Mirror(url).fetch()
    assert sorted(p.name for p in path.iterdir()) == ["b"]


def test_the_file_that_says_that_all_is_there_is_sent_last(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(url)
    path = mirror.fetch(needed=False)
    path.mkdir()
    for name in ("manifest.json", "zebra", "apple"):
        (path / name).write_text(name)
    sent = []
    store, _ = fsspec.core.url_to_fs(url, use_listings_cache=False)
    put_file = store.put_file  # fsspec has one of each store
    monkeypatch.setattr(store, "put_file", lambda here, name: sent.append(name) or put_file(here, name))
    mirror.send()
    assert [name.rpartition("/")[2] for name in sent] == ["apple", "zebra", "manifest.json"]


def test_changes_are_sent_while_work_goes_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SEND_SECONDS", 0.05)
    with pytest.raises(RuntimeError, match="killed"), Mirror(url).sent() as path:  # noqa: PT012
        path.mkdir(parents=True)
        (path / "first").write_text("1")
        for _ in range(200):
            if there(url):
                break
            threading.Event().wait(0.05)
        assert there(url) == {"first": "1"}
        (path / "second").write_text("2")
        raise RuntimeError("killed")
    assert there(url) == {"first": "1", "second": "2"}


def test_nothing_there_and_names_that_lead_elsewhere(url: str) -> None:
    with pytest.raises(UserError, match=r"nothing is there"):
        Mirror(url).fetch()
    with pytest.raises(UserError, match=r"can be no file's name"):
        Mirror(f"{url}/../../etc")
    with pytest.raises(UserError, match=r"nope://a/b: .*pip install"):
        Mirror("nope://a/b")


def test_a_store_that_holds_a_name_that_leads_elsewhere(tmp_path: Path) -> None:
    store, root = fsspec.core.url_to_fs(f"memory://bucket/{next(NUMBERS)}")
    store.store[f"{root}/../../escaped"] = store.store.get(root) or _memory_file(store, root)
    with pytest.raises(UserError, match="can be no file's name"):
        Mirror(f"memory:/{root}").fetch()


def _memory_file(store: Any, root: str) -> Any:
    with store.open(f"{root}/good", "wb") as file:
        file.write(b"x")
    return store.store[f"{root}/good"]


def test_files_that_are_read_where_they_lie(url: str) -> None:
    put(f"{url}/photos/a.jpg", "content")
    folder = RemoteFolder.of(f"{url}/photos")
    assert list(folder.stamps) == ["a.jpg"]
    assert (folder / "a.jpg").read_bytes() == b"content"
    with pytest.raises(FileNotFoundError):
        RemoteFile(f"{url}/photos/b.jpg").read_bytes()


def test_a_command_works_on_copies(url: str) -> None:
    put(f"{url}/runs/both/model/config.json", "{}")
    put(f"{url}/in/users.jsonl", "[]")
    cfg = OmegaConf.create(
        {"run": f"{url}/runs/both", "input": f"{url}/in/users.jsonl", "output": f"{url}/out.jsonl", "photo_root": None}
    )
    with local_copies(cfg):
        assert Path(cfg.run, "model", "config.json").is_file()
        assert Path(cfg.input).read_text() == "[]"
        assert cfg.photo_root == f"{url}/in"
        Path(cfg.output).write_text("result")
        Path(cfg.run, "report.html").write_text("report")
    assert there(url)["out.jsonl"] == "result"
    assert there(f"{url}/runs")["both/report.html"] == "report"
    cfg = OmegaConf.create({"out": f"{url}/runs", "name": "new"})
    with local_copies(cfg):
        Path(cfg.out, "new").mkdir(parents=True)
        Path(cfg.out, "new", "metrics.json").write_text("{}")
    assert there(f"{url}/runs/new") == {"metrics.json": "{}"}


def test_raw_data_and_the_prepared_folder_on_a_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = city(tmp_path / "raw")
    here = run(str(raw), folder=tmp_path / "here")
    store, path = fsspec.core.url_to_fs(url)
    store.put(str(raw) + "/", f"{path}/raw/", recursive=True)
    copy = run(f"{url}/raw", folder=f"{url}/prepared")
    different = {name for name, digest in digests(copy).items() if digests(here).get(name) != digest}
    assert different <= {".fingerprint", ".origin", "manifest.json"}  # the times of the files, and where they lie
    assert not list(Path(os.environ["MMPROFILE_CACHE"]).rglob("*.jpg"))  # photos were read where they lie
    assert copy in PreparedFolders("u1", []).looked  # what forgets a person finds copies
    elsewhere(monkeypatch, tmp_path / "other")
    again = run(f"{url}/raw", folder=f"{url}/prepared")  # nothing to prepare: it is fetched
    assert again != copy
    assert digests(again) == digests(copy)


def _command(name: str, words: list[str], cache: Path) -> str:
    """Run a command on a machine with a cache of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"mmprofile.{name}", *words],
        env=os.environ | {"MMPROFILE_CACHE": str(cache)},
        cwd=cache.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.extra
@pytest.mark.parametrize("kind", [pytest.param("s3", marks=S3)])
def test_commands_on_s3(kind: str, s3: None, tmp_path: Path) -> None:
    """Train with data and run on the store; on another machine, find the run finished, predict, and forget somebody."""
    words = ["paradigm=both", "name=both", "out=s3://bucket/runs", "experiment=smoke", "trainer.progress=false"]
    words.append("data.prepare.folder=s3://bucket/city")
    _command("train", words, tmp_path / "first")
    run = there("s3://bucket/runs/both")
    assert {"metrics.json", "model/model.safetensors", "report.html"} <= run.keys()
    assert "manifest.json" in there("s3://bucket/city")
    _command("train", words, tmp_path / "second")
    assert there("s3://bucket/runs/both")["metrics.json"] == run["metrics.json"]
    store, _ = fsspec.core.url_to_fs("s3://bucket")
    store.pipe_file("bucket/in/pizza.jpg", jpeg())
    row = {"user_id": "u", "reviews": ["the pizza was good"], "photos": ["pizza.jpg", "../gone.jpg"]}
    put("s3://bucket/in/users.jsonl", json.dumps(row) + "\n")
    words = ["run=s3://bucket/runs/both", "input=s3://bucket/in/users.jsonl", "output=s3://bucket/out/profiles.jsonl"]
    _command("predict", words, tmp_path / "third")
    [line] = there("s3://bucket/out")["profiles.jsonl"].splitlines()
    used = json.loads(line)["used"]
    assert (used["photos"], used["unusable_photos"]) == (1, {"../gone.jpg": "outside"})
    user = json.loads(run["predictions.jsonl"].splitlines()[0])["user_id"]
    _command("forget", [f"user={user}", "out=s3://bucket/runs"], tmp_path / "first")
    left = there("s3://bucket/runs/both")
    assert {"metrics.json", "model/model.safetensors"} <= left.keys()
    assert [name for name, content in left.items() if user in content] == []
