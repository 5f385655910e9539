"""``python -m mmprofile.prepare data=demo|yelp|custom``, or with ``clean=list|true`` what is in the cache"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import PrepareConfig
from mmprofile.errors import UserError


def run(cfg: PrepareConfig) -> None:
    """Prepare a data set: raw files -> prepared folder, whose path is the last line printed. Or suggest a schema."""
    from mmprofile.config.targets import build

    if cfg.suggest is not None:
        print(build(cfg.suggester)(cfg.data.prepare.source.get("labels"), cfg.suggest))
        return
    from mmprofile.inputs.data import prepare_data
    from mmprofile.profile.schema import Schema

    schema = Schema.from_config(cfg.profile)
    if cfg.clean is not False:
        if cfg.clean not in (True, "list"):
            raise UserError(f"clean={cfg.clean}: give list to see the prepared folders, or true to remove old ones")
        print(build(cfg.cleaner)(cfg.data.prepare, schema.observed, remove=cfg.clean is True))
        return
    print(prepare_data(cfg.data, schema))


if __name__ == "__main__":
    run_command("prepare", run)
