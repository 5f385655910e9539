"""The default paradigm follows the data: ``both``, without captions ``multi``, without photos ``text``."""

from collections.abc import Sequence

import yaml

from mmprofile.config.settings import TrainConfig
from mmprofile.inputs.data import find_data
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema


def follow_data(cfg: TrainConfig, words: Sequence[str]) -> list[str]:
    """Return the word that chooses the paradigm, and say why; no word where one was chosen or the default suits the data.

    Args:
        cfg: the configuration that the words give.
        words: a command line of ``train``.

    Raises:
        UserError: the data are not there.
    """
    if is_chosen(words):
        return []
    data = find_data(cfg.data, Schema.from_config(cfg.profile))
    if data.captions and data.photos:
        return []
    lacking, paradigm = ("captions", "multi") if data.photos else ("photos", "text")
    print(f"no {lacking}: paradigm={paradigm}", flush=True)
    return [f"paradigm={paradigm}"]


def is_chosen(words: Sequence[str]) -> bool:
    """Return whether a command line chooses the paradigm, by itself or by an experiment."""
    values = dict(word.lstrip("+~").partition("=")[::2] for word in words)
    if "paradigm" in values:
        return True
    for name in values.get("experiment", "").strip("[]").split(","):
        path = conf_dir() / "experiment" / f"{name.strip()}.yaml"
        parts = yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", []) if path.is_file() else []
        if any(isinstance(part, dict) and "override /paradigm" in part for part in parts):
            return True
    return False
