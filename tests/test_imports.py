"""The garbage collector rests during heavy imports, and afterwards is what it was."""

import gc

import pytest

from mmprofile.imports import heavy_imports

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_afterwards_what_it_was(enabled: bool) -> None:
    try:
        (gc.enable if enabled else gc.disable)()
        with heavy_imports():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
