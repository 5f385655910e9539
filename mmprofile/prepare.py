"""Prepares a data set: ``python -m mmprofile.prepare data=demo|yelp|custom``."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmprofile.config import entry_point
from mmprofile.profile import Schema


def main(cfg: Any) -> None:
    """Entry point: raw files -> prepared folder, whose path is the last line printed."""
    schema = Schema.from_dict(OmegaConf.to_container(cfg.profile))  # type: ignore[arg-type]
    print(instantiate(cfg.data.prepare, _partial_=True)(schema=schema.observed))


if __name__ == "__main__":
    entry_point("prepare", main)
