"""What the tests of the scripts share: the scripts as modules, and generated cities, which the first run makes."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="session")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script by its name, as another script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield import_module


@pytest.fixture(scope="session")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str | Path]:
    """The options that name them, with as few users as leave something for every task in what is held out."""
    return "--cities", tmp_path_factory.mktemp("cities"), "--users", "60"
