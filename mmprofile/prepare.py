"""``python -m mmprofile.prepare data=demo|yelp|custom``"""

from mmprofile.config.command import run_command
from mmprofile.config.settings import PrepareConfig


def run(cfg: PrepareConfig) -> None:
    """Prepare a data set: raw files -> prepared folder, whose path is the last line printed."""
    from mmprofile.inputs.data import prepare_data
    from mmprofile.profile.schema import Schema

    schema = Schema.from_config(cfg.profile)
    print(prepare_data(cfg.data, schema))


if __name__ == "__main__":
    run_command("prepare", run)
