"""Shards of users in, shards of profiles out: ``input=`` and ``output=`` are folders, and each file is a command of its own.

A shard that is done is not computed again, one that was begun goes on where it stopped, and one that fails does not hold the
others up. Without ``ray_workers=`` one follows the other; with it Ray's workers share them.
"""

import json
from pathlib import Path
from typing import Any

from mmprofile.config.settings import PredictConfig
from mmprofile.errors import UserError, counted
from mmprofile.evaluate.runs import load_predictor
from mmprofile.files import write_json
from mmprofile.fleet import by_ray
from mmprofile.predict import run
from mmprofile.predict.output import OutputFile
from mmprofile.predict.ranks import Ranks
from mmprofile.predict.rows import LINES

ABOUT = "shards.json"
"""What the profiles in an output folder were made with."""


def main(cfg: PredictConfig) -> None:
    """Write the profiles of a file's users, or of the shards in a folder.

    Raises:
        UserError: the folders cannot be used, or shards have failed; the others are done then.
    """
    if not Path(cfg.input).expanduser().is_dir():
        if cfg.ray_workers is not None:
            raise UserError(f"input={cfg.input}: ray_workers= shares the files of a folder: give a folder")
        run.main(cfg)
        return
    names = todo(cfg)
    if failed := _failed(cfg, names):
        name, error = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {counted(len(names), 'shard')} failed, the first: {name}: {error}; "
            "the same command goes on with them"
        )
    print(f"{counted(len(names), 'shard')} written to {cfg.output}")


def todo(cfg: PredictConfig) -> list[str]:
    """Return the names of the shards that are not done; the output folder is ready for them.

    Raises:
        UserError: there are none, two would have the same output, or the folder holds profiles made otherwise.
    """
    source = Path(cfg.input).expanduser()
    names = sorted(path.name for path in source.iterdir() if path.suffix.lower() in (*LINES, ".csv", ".parquet"))
    if not names:
        raise UserError(f"input={cfg.input}: no .jsonl, .csv or .parquet in this folder")
    if len({Path(name).stem for name in names}) < len(names):
        raise UserError(f"input={cfg.input}: two files differ in their ending alone, and would have the same output")
    if cfg.output is None or Path(cfg.output).expanduser().is_file():
        raise UserError("the input is a folder of shards: output= must be a folder, too")
    target = Path(cfg.output).expanduser()
    if target.resolve() == source.resolve():
        raise UserError(f"output={cfg.output} is the input's folder: give another one")
    target.mkdir(parents=True, exist_ok=True)
    first = source / names[0]
    identity = OutputFile.of(_of_shard(cfg, names[0])).identity
    assert identity is not None
    identity["files"].pop(str(first.resolve()))
    about = target / ABOUT
    if about.is_file() and json.loads(about.read_text(encoding="utf-8")) != identity:
        raise UserError(f"output={cfg.output} holds profiles of another model or other settings: give another folder")
    write_json(about, identity)
    left = [name for name in names if not _target(cfg, name).is_file()]
    print(f"{counted(len(names), 'shard')}: {len(names) - len(left)} done, {len(left)} to do", flush=True)
    return left


class ShardWorker:
    """Writes the profiles of one shard after the other with a model that is loaded once."""

    def __init__(self, cfg: PredictConfig) -> None:
        self.cfg, self.predictor = cfg, load_predictor(cfg.run)

    def __call__(self, row: dict[str, Any]) -> None:
        """Write the shard that ``item`` names.

        Raises:
            UserError: it cannot be read or written.
        """
        run.write(_of_shard(self.cfg, row["item"]), Ranks(0, 1), self.predictor)


def _failed(cfg: PredictConfig, names: list[str]) -> dict[str, str]:
    """Write shards; return why some have failed, by their names."""
    if not names:
        return {}
    if cfg.ray_workers is not None:
        tries = Path(str(cfg.output)).expanduser() / ".tries"
        rows = by_ray(ShardWorker, {"cfg": cfg}, names, cfg.ray_workers, tries)
        return {row["item"]: row["error"] for row in rows if row["error"]}
    worker, failed = ShardWorker(cfg), {}
    for name in names:
        try:
            worker({"item": name})
        except UserError as error:
            failed[name] = str(error)
    return failed


def _target(cfg: PredictConfig, name: str) -> Path:
    return Path(str(cfg.output)).expanduser() / f"{Path(name).stem}.jsonl"


def _of_shard(cfg: PredictConfig, name: str) -> PredictConfig:
    """Return the command of one shard."""
    source = Path(cfg.input).expanduser()
    shard = cfg.copy()  # type: ignore[attr-defined]
    shard.input, shard.output = str(source / name), str(_target(cfg, name))
    return shard
