"""The options of prepared data: what a wrong one is told, and that the files of ``conf/data`` are right."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from datamodules.options import SOURCES, Options
from datamodules.prepare import prepare
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from tests.support.preparing import run
from tests.support.rawdata import (
    SMALL,
    city,
    yelp_schema,
)

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPROFILE_USER_KEY", raising=False)
    return tmp_path / "cache"


def test_config_files_prepare_their_data(tmp_path: Path) -> None:
    raw = city(tmp_path / "raw")
    config = OmegaConf.load(conf_dir() / "data" / "yelp.yaml")
    assert config.prepare._target_ == f"{prepare.__module__}.{prepare.__name__}"
    options = {key: value for key, value in config.prepare.items_ex(resolve=False) if key != "_target_"}
    with pytest.raises(UserError, match=r"source\.path is not set"):
        prepare(**options, schema=yelp_schema())
    options["source"] = OmegaConf.merge(config.prepare.source, {"path": [str(raw)]})
    options["selection"] = OmegaConf.merge(config.prepare.selection, SMALL)
    with pytest.raises(UserError, match="asks for 4000 users"):
        prepare(**options, schema=yelp_schema(), progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selection": {"min_word": 3}}, "selection has no key 'min_word' .did you mean min_words"),
        (
            {"selection": {"min_words": "ten"}},
            "data.prepare.selection.min_words: Value 'ten' .* could not be converted to Integer",
        ),
        ({"selection": {"min_words": 9, "max_words": 8}}, "min_words <= max_words"),
        ({"split": {"train": 10, "validation": 0.1, "test": 0.2}}, "three integers"),
        ({"split": {"train": 0.9, "validation": 0.1, "test": 0.2}}, "more than 1"),
        ({"photos": {"policy": "ignore"}}, "choose drop, error or none"),
        ({"photos": {"max_pixels": 10**9}}, "max_pixels <="),
        ({"engine": "sparkle"}, "engine is 'sparkle'"),
        ({"schema": None}, "needs a profile schema"),
    ],
)
def test_wrong_options(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run("anywhere", **changes)


def test_wrong_source() -> None:
    with pytest.raises(UserError, match=r"choose one of demo, yelp, custom .did you mean yelp"):
        prepare({"kind": "yelpp"}, schema=yelp_schema())
    with pytest.raises(UserError, match="source has no key 'folder'"):
        prepare({"kind": "yelp", "folder": "x"}, schema=yelp_schema())


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_what_a_call_from_python_leaves_out_is_as_the_files_have_it(kind: str) -> None:
    """The demo's values are those of the classes; the keys of every kind are those of its file."""
    config: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "data" / f"{kind}.yaml"))
    options = config["prepare"]
    missing = {key: f"{kind}.jsonl" for key, value in options["source"].items() if value == "???"}
    source = options["source"] | missing
    parts = ("selection", "split", "photos")
    given = Options.checked(source, *(options[part] for part in parts), options["engine"])
    assert set(options["source"]) == set(vars(given.source))
    for part in parts:
        assert set(options[part]) == set(vars(getattr(given, part)))
    if kind == "demo":
        assert given == Options.checked({"kind": "demo"}, None, None, None, "duckdb")


def test_whole_numbers_of_users_stay_whole() -> None:
    """Users and shares are told apart by their types, and the name of the folder depends on them."""
    counted = Options.checked({"kind": "demo"}, {}, {"train": 30, "validation": 5, "test": 5}, {}, "duckdb")
    shares = Options.checked({"kind": "demo"}, {}, {"train": 0.5, "validation": 0.25, "test": 0.25}, {}, "duckdb")
    assert (counted.split.counted, shares.split.counted) == (True, False)
    assert [type(size) for size in counted.to_dict()["split"].values()] == [int] * 4
    assert counted.to_dict()["source"] == {"kind": "demo", "users": 1500, "seed": 0}
