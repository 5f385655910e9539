"""Profilers from and to a hub, by the hub's own client."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from mmprofile import Profiler
from mmprofile.errors import UserError
from tests.support.hubserver import TOKEN, Hub, connect, serving

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
NAME = "ann/shops"
REVIEWS = ["a fine place", "late lunch"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub-cache"


@pytest.fixture
def hub(model_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has an exported model, which this process asks, in a folder of its own."""
    monkeypatch.chdir(cache.parent)
    with serving() as hub:
        hub.add(NAME, model_folder)
        connect(monkeypatch, hub.url, cache)
        yield hub


def test_a_model_of_a_hub_predicts_as_its_folder_does(hub: Hub, model_folder: Path) -> None:
    expected = Profiler.from_pretrained(model_folder).predict(REVIEWS)
    assert Profiler.from_pretrained(NAME).predict(REVIEWS) == expected


def test_a_folder_wins_over_a_hub_id(hub: Hub, model_folder: Path) -> None:
    shutil.copytree(model_folder, NAME)
    Profiler.from_pretrained(NAME)
    assert hub.asked == []
    assert repr(Profiler.from_pretrained(NAME)).endswith(f"Service Preference, from {NAME}>")


def test_a_revision_a_token_and_a_cache(hub: Hub, model_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "purpose": "a study"}))
    hub.add("ann/private", model_folder, gated=True)
    hub.add("ann/private", other, revision="v2", gated=True)
    profiler = Profiler.from_pretrained("ann/private", revision="v2", token=TOKEN, cache_dir=tmp_path / "elsewhere")
    assert profiler.model.settings["purpose"] == "a study"
    assert (tmp_path / "elsewhere" / "models--ann--private").is_dir()
    assert not (tmp_path / "hub-cache").exists()
    with pytest.raises(UserError, match="ann/private cannot be loaded: it is gated"):
        Profiler.from_pretrained("ann/private", cache_dir=tmp_path / "nobody")


def test_without_the_hub_its_snapshot_in_the_cache_is_taken(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Profiler.from_pretrained(NAME).predict(REVIEWS)
    connect(monkeypatch, hub.url, cache, offline=True)
    assert Profiler.from_pretrained(NAME).predict(REVIEWS) == expected
    asked = len(hub.asked)
    assert Profiler.from_pretrained(NAME, local_files_only=True).predict(REVIEWS) == expected
    assert len(hub.asked) == asked
    with pytest.raises(
        UserError, match=r"ann/other cannot be loaded: it is no folder here, HF_HUB_OFFLINE is set, and the"
    ):
        Profiler.from_pretrained("ann/other")


def test_only_what_a_model_needs_is_fetched(hub: Hub, model_folder: Path, tmp_path: Path, cache: Path) -> None:
    more = shutil.copytree(model_folder, tmp_path / "more")
    for name in ("pytorch_model.bin", "modeling.py", "text/training_args.pt"):
        (more / name).write_bytes(b"?")
    (more / "README.md").write_text("a card")
    hub.add("ann/more", more)
    folder = Profiler.from_pretrained("ann/more").folder
    assert folder is not None
    fetched = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert fetched == {
        path.relative_to(more).as_posix() for path in more.rglob("*") if path.is_file()
    } - {"pytorch_model.bin", "modeling.py", "text/training_args.pt"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ann/nothing", "ann/nothing cannot be loaded: there is no such folder here, and http.* has no such model"),
        (
            "ann/other",
            r"ann/other cannot be loaded: this is no exported model of mmprofile \(it has no text/config\.json\)",
        ),
        ("a/b/c", r"a/b/c: there is no such folder, and it is no hub id \(such as ann/shops\)"),
    ],
)
def test_what_no_hub_can_give(hub: Hub, tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    save_file({}, tmp_path / "other" / "model.safetensors")
    hub.add("ann/other", tmp_path / "other")
    with pytest.raises(UserError, match=says):
        Profiler.from_pretrained(name)


def test_what_is_pushed_can_be_had_again(hub: Hub, model_folder: Path, tmp_path: Path) -> None:
    """The same files: also the card and the calibration, which are no part of the model itself."""
    hub.store = tmp_path / "store"
    own = shutil.copytree(model_folder, tmp_path / "own")
    (own / "README.md").write_text("a card")
    profiler = Profiler.from_pretrained(own)
    address = profiler.push_to_hub("ann/pushed", token=TOKEN)
    assert str(address).startswith(f"{hub.url}/ann/pushed/commit/")
    assert hub.private == {"ann/pushed": True}
    pushed = tmp_path / "store" / "ann" / "pushed"
    names = sorted(path.relative_to(own) for path in own.rglob("*") if path.is_file())
    assert sorted(path.relative_to(pushed) for path in pushed.rglob("*") if path.is_file()) == names
    assert (pushed / "README.md").read_text() == "a card"
    assert Profiler.from_pretrained("ann/pushed").predict(REVIEWS) == profiler.predict(REVIEWS)


def test_a_push_that_is_refused(hub: Hub, model_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    profiler = Profiler.from_pretrained(model_folder)
    with pytest.raises(UserError, match=r"ann/pushed cannot be pushed: http.* refuses it; log in \(hf auth login\)"):
        profiler.push_to_hub("ann/pushed", token="hf_wrong")
    with pytest.raises(UserError, match="a/b/c cannot be pushed: HFValidationError: Repo id must"):
        profiler.push_to_hub("a/b/c", token=TOKEN)
    connect(monkeypatch, hub.url, cache, offline=True)
    with pytest.raises(UserError, match=r"ann/pushed cannot be pushed: "):
        profiler.push_to_hub("ann/pushed", token=TOKEN)


def test_a_model_may_be_saved_where_it_is(model_folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(model_folder, tmp_path / "own")
    (own / "README.md").write_text("a card")
    expected = Profiler.from_pretrained(own).predict(REVIEWS)
    Profiler.from_pretrained(own).save_pretrained(own)
    Profiler.from_pretrained(own).save_pretrained(tmp_path / "new")
    for folder in (own, tmp_path / "new"):
        assert (folder / "README.md").read_text() == "a card"
        assert Profiler.from_pretrained(folder).predict(REVIEWS) == expected


def test_a_model_without_a_card_gets_one_that_claims_nothing(model_folder: Path, tmp_path: Path) -> None:
    Profiler.from_pretrained(model_folder).save_pretrained(tmp_path)
    assert "## Scores\n\nNot known.\n" in (tmp_path / "README.md").read_text()
