"""``python -m mmprofile.prepare data=demo|yelp|custom``"""

from typing import Any

from mmprofile.config.command import run_command


def run(cfg: Any) -> None:
    """Prepare a data set: raw files -> prepared folder, whose path is the last line printed."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from mmprofile.profile.schema import Schema

    schema = Schema.from_dict(OmegaConf.to_container(cfg.profile))  # type: ignore[arg-type]
    print(instantiate(cfg.data.prepare, _partial_=True)(schema=schema.observed))


if __name__ == "__main__":
    run_command("prepare", run)
