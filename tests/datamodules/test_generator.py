"""What a generated city depends on: the default one keeps its place in the cache, one with hints has its own."""

from typing import Any

from datamodules.generator import HINTS, PACKAGE, generator_hashes
from datamodules.prepare import prepare
from mmprofile.config.compose import load_config
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema


def test_every_source_counts_but_hints_that_nobody_gives() -> None:
    sources = sorted(PACKAGE.rglob("*.py"))
    plain, hinting = generator_hashes(0.0), generator_hashes(0.5)
    assert HINTS in sources
    assert len(hinting) == len(sources) == len(plain) + 1
    assert set(plain) < set(hinting)


def cache_name(*words: str) -> str:
    given: dict[str, Any] = {**load_config("llm", list(words)).data.prepare}
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    options = {key: given[key] for key in ("source", "selection", "split", "photos", "engine")}
    return prepare(**options, schema=schema, look=True).folder.name


def test_the_default_city_keeps_its_place_in_the_cache() -> None:
    """All published figures and caches stand on it; a change of the generator that keeps its bytes goes into UNCHANGED."""
    assert cache_name("data=demo") == cache_name("data=demo_indirect", "data.prepare.source.indirect=0")
    assert cache_name("data=demo") == "demo-89d22bbf407f"
    assert cache_name("data=demo_indirect") not in ("demo-89d22bbf407f", cache_name("data.prepare.source.indirect=0.3"))
