"""Generated cities that the runs of the scripts share: the first makes them."""

from collections.abc import Sequence
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str | Path]:
    """The options that name them, with as few users as leave something for every task in what is held out."""
    return "--cities", tmp_path_factory.mktemp("cities"), "--users", "60"
