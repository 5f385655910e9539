"""Tiny random BLIP-2 models and a prepared folder of real photos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmprofile.profile.schema import Schema
from tests.support.realphotos import prepare_photos
from tests.support.tinyblip import save_blip2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]) -> dict[str, Path]:
    return {kind: save_blip2(tmp_path_factory.mktemp(kind), kind, make_tokenizer) for kind in ("opt", "t5")}


@pytest.fixture
def prepared(tmp_path: Path, schema: Schema) -> Path:
    return prepare_photos(tmp_path, schema)
