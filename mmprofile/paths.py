"""Where things lie: the configuration shipped with the package, and the cache of prepared data."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ASSETS = PACKAGE / "assets"


def conf_dir() -> Path:
    """Return the folder of Hydra configs: inside the installed package, or beside it in a source checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def cache_dir() -> Path:
    """Return the folder for prepared data sets: ``$MMPROFILE_CACHE``, else ``~/.cache/mmprofile``."""
    return Path(os.environ.get("MMPROFILE_CACHE") or Path.home() / ".cache" / "mmprofile")
