"""The script that makes the tiny backbone: its span corruption, and a run of a few steps as a user starts it."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmprofile.model.build import build_model
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_tiny.py"
SENTINELS = list(range(1000, 1040))


@pytest.fixture(scope="module")
def tasks(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("pretraining_tasks")


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(0, 2**32))
def test_spans_put_back_give_the_text(tasks: ModuleType, ids: list[int], seed: int) -> None:
    source, target = tasks.corrupt_spans(ids, SENTINELS, random.Random(seed))
    hidden: dict[int, list[int]] = {}
    for token in target:
        if token >= 1000:
            hidden[token] = span = []
        else:
            span.append(token)
    restored = [t for token in source for t in (hidden[token] if token >= 1000 else [token])]
    assert restored == ids
    assert [token for token in target if token >= 1000] == SENTINELS[: len(hidden)]  # in order, one more at the end
    assert target[-1] == SENTINELS[len(hidden) - 1]


def test_words_of_a_caption_and_its_business(tasks: ModuleType) -> None:
    assert tasks.words_of("A stack of take-out boxes, and a 2nd box's lid") == {
        "a", "stack", "of", "take", "out", "boxes", "and", "2nd", "box's", "lid",
    }  # fmt: skip


def test_a_short_run_writes_a_backbone_that_a_model_loads_and_goes_on_from(
    cities: Sequence[str | Path], tmp_path: Path
) -> None:
    def run(*arguments: str | Path) -> dict:
        command = [sys.executable, SCRIPT, *cities]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads((Path(arguments[1]) / "pretraining.json").read_text())

    first = run("--out", tmp_path / "first", "--minutes", "0.1")
    assert first["steps"] > 0
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    vision = {"name": f"local-dir:{tmp_path / 'first' / 'vision'}", "tokens": "cls", "trainable": False}
    model = build_model(
        text={"name": str(tmp_path / "first" / "text")},
        vision=vision,
        fusion={"kind": "xattn"},
        schema=schema,
        inputs={},
    )
    assert sum(p.numel() for p in model.text.parameters()) == first["parameters"]["text"]
    # Nothing is learned at rate 0, so the same held-out batches give the same loss, but for weights kept in 16 bits.
    again = run("--out", tmp_path / "second", "--start", tmp_path / "first", "--lr", "0", "--minutes", "0.01")
    assert again["text_loss"] == pytest.approx(first["text_loss"], rel=5e-3)
    assert again["photo_loss"] == pytest.approx(first["photo_loss"], rel=5e-3)
