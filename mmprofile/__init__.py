"""mmprofile: multimodal user profiling. ``python -m mmprofile`` lists the commands.

The public names are loaded when they are first used: ``import mmprofile`` itself imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmprofile.imports import heavy_imports

if TYPE_CHECKING:
    from mmprofile.predict.profiler import Profiler
    from mmprofile.profile.schema import Profile, Schema

__all__ = ["Profile", "Profiler", "Schema"]
_HOMES = {
    "Profiler": "mmprofile.predict.profiler",
    "Profile": "mmprofile.profile.schema",
    "Schema": "mmprofile.profile.schema",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with heavy_imports():
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
