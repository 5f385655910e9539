"""Prepare the small raw city of :mod:`tests.support.rawdata`, and compare prepared folders."""

import hashlib
from pathlib import Path
from typing import Any

from datamodules.prepare import open_prepared, prepare
from tests.support.rawdata import SMALL, SPLIT, yelp_schema


def run(path: Any, **changes: Any) -> Path:
    options: dict[str, Any] = {"selection": SMALL, "split": SPLIT, "schema": yelp_schema(), "progress": False}
    return prepare({"kind": "yelp", "path": path}, **(options | changes))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: list(rows) for name, rows in open_prepared(folder).datasets.items()}
