"""The engines: what is written for one must pass its tests on the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.engine import Engine
from datamodules.engines import open_engine
from tests.support.extras import extra


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Spark, started once for all tests."""
    made = open_engine("spark", tmp_path_factory.mktemp("spark"))
    yield made
    made.close()


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=extra("spark", "pyspark"))])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "spark":
        request.getfixturevalue("spark")
    made = open_engine(request.param, tmp_path / "work")
    yield made
    made.close()
