"""Captions of a prepared data set's photos: ``python -m mmprofile.caption data=... backend=transformers|lavis|file model=...``.

They go to ``captions.parquet`` in the prepared folder. The paradigms ``uni`` and ``both`` read nothing else of them.
"""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mmprofile.caption.store import CaptionStore
from mmprofile.config.command import quiet
from mmprofile.config.settings import CaptionConfig
from mmprofile.config.targets import build
from mmprofile.errors import UserError
from mmprofile.fleet import by_ray
from mmprofile.inputs.data import prepare_data
from mmprofile.profile.schema import Schema

SHOWN = 5  # ids of a problem
PARTS_OF_A_WORKER = 4  # so that those who are done early help the others, and little is lost with a machine


def main(cfg: CaptionConfig) -> None:
    """Caption what is not captioned yet, or verify.

    Args:
        cfg: the command's configuration.

    Raises:
        UserError: a setting makes no sense, or the backend cannot caption.
    """
    check_settings(cfg)
    schema = Schema.from_config(cfg.profile)
    folder = cfg.folder or prepare_data(cfg.data, schema)
    captions = build(cfg.captions)(folder=folder)
    if cfg.verify:
        verify(captions)
        return
    checkpoint = os.path.expanduser(cfg.checkpoint or MODELS.get(cfg.backend, ""))
    clock = time.perf_counter()
    counts = BACKENDS[cfg.backend](cfg, captions, checkpoint=checkpoint)
    if counts is not None:
        seconds = time.perf_counter() - clock
        path = captions.folder / "captions.parquet"
        print(f"{path}: {counts['ok']:,} captions, {counts['error']:,} failed; {seconds:.1f} s")


def check_settings(cfg: CaptionConfig) -> None:
    """Check the settings before anything is done.

    Raises:
        UserError: one of them makes no sense.
    """
    if cfg.backend not in BACKENDS:
        raise UserError(f"backend={cfg.backend!r} is not one of {', '.join(BACKENDS)}")
    if (cfg.backend == "file") != (cfg.path is not None):
        raise UserError("backend=file and path=... go together: the table to import")
    if cfg.ray_workers is not None and cfg.backend != "transformers":
        raise UserError(f"ray_workers= is for backend=transformers, not for backend={cfg.backend}")
    for key, least in (("batch_size", 1), ("shard", 1), ("workers", 0), ("ray_workers", 1)):
        number = getattr(cfg, key)
        if number is not None and number < least:
            raise UserError(f"{key}={number}: give {least} or more")
    for key in ("num_beams", "max_new_tokens"):
        if not isinstance(cfg.decoding[key], int) or cfg.decoding[key] < 1:
            raise UserError(f"decoding.{key}={cfg.decoding[key]}: give 1 or more")


def by_transformers(cfg: CaptionConfig, captions: CaptionStore, *, checkpoint: str) -> Counter[str] | None:
    """Caption with BLIP-2 in this environment; see :func:`mmprofile.caption.blip2.caption`."""
    from mmprofile.caption.blip2 import caption, identity

    quiet()  # Lightning begins to talk when it is imported
    if cfg.ray_workers is None:
        return caption(cfg, captions, checkpoint=checkpoint)
    maker = identity(cfg, checkpoint)
    captions.todo(maker, cfg.existing, cfg.retry)  # whether these captions may be added is said at once
    parts = PARTS_OF_A_WORKER * cfg.ray_workers
    work = {"cfg": cfg, "folder": captions.folder, "checkpoint": checkpoint, "parts": parts}
    tries = captions.folder / "captions.tries"
    for row in by_ray(CaptionWorker, work, list(range(parts)), cfg.ray_workers, tries):
        if row["error"]:
            raise UserError(row["error"])
    return captions.finish(maker, cfg.existing)


class CaptionWorker:
    """Captions parts of a data set's photos, one after the other, in a process of Ray."""

    def __init__(self, cfg: CaptionConfig, folder: Path, checkpoint: str, parts: int) -> None:
        self.cfg, self.folder, self.checkpoint, self.parts = cfg, folder, checkpoint, parts

    def __call__(self, row: dict[str, Any]) -> None:
        """Caption the part whose number is ``item``.

        Raises:
            UserError: the model cannot be loaded.
        """
        from mmprofile.caption.blip2 import caption

        quiet()
        captions = build(self.cfg.captions)(folder=self.folder)
        caption(self.cfg, captions, checkpoint=self.checkpoint, part=(int(row["item"]), self.parts))


def by_lavis(cfg: CaptionConfig, captions: CaptionStore, *, checkpoint: str) -> Counter[str]:
    """Caption with BLIP-2 in LAVIS's own environment; see :func:`mmprofile.caption.lavis.caption`."""
    from mmprofile.caption.lavis import caption

    return caption(cfg, captions, checkpoint=checkpoint)


def by_file(cfg: CaptionConfig, captions: CaptionStore, *, checkpoint: str) -> Counter[str]:
    """Import captions made elsewhere, and say which rows could not be used; ``checkpoint`` plays no part.

    Raises:
        UserError: the table cannot be read, or no row of it belongs to a photo of the data set.
    """
    imported, counts = captions.import_table(Path(str(cfg.path)).expanduser(), cfg.existing)
    print(
        f"{cfg.path}: {imported.rows:,} rows; {imported.used:,} captions of photos that had none; of no use: "
        f"{len(imported.unmatched):,} of no photo here, {imported.empty:,} empty, {imported.repeated:,} of a photo once more"
    )
    for row in imported.unmatched[:SHOWN]:
        print(f"  no photo here: {json.dumps(row, ensure_ascii=False)}")
    if imported.unmatched:
        print(f"  all {len(imported.unmatched):,}: {imported.report}")
    return counts


def verify(captions: CaptionStore) -> None:
    """Compare the captions with the data set and print the result; exit with status 1 where they do not agree."""
    check = captions.verify()
    print(f"{captions.folder}: {check.captioned:,} of {check.photos:,} photos have a caption")
    for maker, count in check.makers.most_common():
        print(f"  {count:,} by {maker}")
    for problem, ids in check.problems.items():
        print(f"  {len(ids):,} {PROBLEMS[problem]}: {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}")
    if check.problems:
        sys.exit(1)


BACKENDS = {"transformers": by_transformers, "lavis": by_lavis, "file": by_file}
MODELS = {"transformers": "Salesforce/blip2-flan-t5-xl", "lavis": "blip2_t5/pretrain_flant5xl"}  # the same weights
PROBLEMS = {
    "missing": "not captioned yet",
    "failed": "failed (retry=true tries again)",
    "orphaned": "captions of photos that are not in the data set",
    "changed": "photos changed since they were captioned",
    "damaged": "photos are not those that were stored: prepare the data again",
}
