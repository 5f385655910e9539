"""Tests of what an extra of setup.cfg adds: they run where it is installed, and are skipped by name where it is not."""

from importlib.util import find_spec

import pytest


def extra(name: str, *modules: str) -> list[pytest.MarkDecorator]:
    """The marks of tests that need an extra, and may talk to its servers on this machine."""
    missing = [module for module in modules if not _there(module)]
    reason = f"{', '.join(missing)} is not installed: pip install 'mmprofile[{name}]'"
    return [
        pytest.mark.extra,
        pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"]),
        pytest.mark.skipif(bool(missing), reason=reason),
    ]


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
