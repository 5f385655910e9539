"""Work that Ray's workers share: on this machine, or on the cluster that ``RAY_ADDRESS`` names."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmprofile.errors import UserError

RETRIES = 3
"""How often an item is begun again whose worker or machine is gone."""


Worker = Callable[[dict[str, Any]], None]


def by_ray(
    worker: Callable[..., Worker], arguments: Mapping[str, Any], items: Sequence[Any], workers: int, tries: Path
) -> Iterator[dict[str, Any]]:
    """Yield what workers return for each item, in any order: the item, and ``error``, which is empty or says why it failed.

    Ray begins an item again whose worker or machine is gone, on and on; here it is given up after :data:`RETRIES` times.

    Args:
        worker: is made once in each process, and called with ``{"item": item}``.
        arguments: of its constructor.
        items: texts or numbers.
        workers: processes; each has a GPU to itself if the cluster has any.
        tries: a folder that all machines see; it is gone afterwards.

    Raises:
        UserError: Ray is not installed, or stops.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before it is imported: it sends nothing home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("ray_workers= needs Ray: pip install 'mmprofile[ray]'") from error
    shutil.rmtree(tries, ignore_errors=True)
    tries.mkdir(parents=True)
    try:
        if not ray.is_initialized():
            here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers + 1}  # one is for the data
            ray.init(include_dashboard=False, logging_level=logging.ERROR, **here)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        shared = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items)).map(
            Tried,
            fn_constructor_kwargs={"worker": worker, "arguments": dict(arguments), "folder": tries},
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
            num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
        )
        yield from shared.iter_rows()
    except (ray.exceptions.RayError, ConnectionError) as error:
        said = str(error).strip().splitlines()
        raise UserError(
            f"Ray stopped: {said[-1] if said else type(error).__name__}: run the same command again"
        ) from error
    finally:
        shutil.rmtree(tries, ignore_errors=True)


class Tried:
    """A worker that remembers, in a file, which items have ended its process."""

    def __init__(self, worker: Callable[..., Worker], arguments: Mapping[str, Any], folder: Path) -> None:
        self.worker, self.folder = worker(**arguments), folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the item and why it failed, if it did."""
        path = self.folder / f"{row['item']}.tries"
        before = len(path.read_bytes()) if path.is_file() else 0
        if before > RETRIES:
            return {"item": row["item"], "error": f"its process has ended {before} times without a word"}
        with path.open("ab") as file:
            file.write(b".")
        try:
            self.worker(row)
        except UserError as error:
            return {"item": row["item"], "error": str(error)}
        finally:
            path.unlink()
        return {"item": row["item"], "error": ""}
