"""The demo city's side files, carried over to the prepared folder: captions, true cues, text-only gold labels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from datamodules.prepared import BACKEND_COLUMNS, CAPTION_COLUMNS, save_parquet


def copy_sidecars(raw: Path, result: Path, users: dict[str, str]) -> dict[str, Any]:
    """Write captions.parquet, cues.parquet and gold_text_only.parquet of what was kept, if the raw folder has them.

    Args:
        users: raw user id -> hashed id of the users kept.

    Returns:
        Entries for the manifest.
    """
    counts: dict[str, int] = {}
    photos = datasets.load_from_disk(str(result / "photos"))
    sha256 = dict(
        zip(photos.data.column("photo_id").to_pylist(), photos.data.column("sha256").to_pylist(), strict=True)
    )
    if (raw / "captions.jsonl").is_file():
        counts["captions"] = _captions(raw / "captions.jsonl", result, sha256)
    if (raw / "cues.jsonl").is_file():
        reviews = {
            review_id
            for split in datasets.load_from_disk(str(result)).values()
            for chunk in split.data.column("reviews").chunks
            for review_id in chunk.flatten().field("review_id").to_pylist()
        }
        counts["cues"] = _cues(raw / "cues.jsonl", result, {"review": reviews, "photo": set(sha256)})
    if (raw / "gold_text_only.jsonl").is_file():
        counts["gold_text_only"] = _gold(raw / "gold_text_only.jsonl", result, users)
    return {"sidecars": counts} if counts else {}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _captions(path: Path, result: Path, sha256: dict[str, str]) -> int:
    """Write captions by photo content; of equal photos, the first id's caption counts. Return their number."""
    rows = _rows(path)
    header = next(rows)
    texts = {row["photo_id"]: row["caption"] for row in rows if row["photo_id"] in sha256}
    columns: dict[str, list[Any]] = {name: [] for name in CAPTION_COLUMNS}
    captioned: set[str] = set()
    for photo_id in sorted(texts):
        if sha256[photo_id] in captioned:
            continue
        captioned.add(sha256[photo_id])
        row = {"sha256": sha256[photo_id], "photo_id": photo_id, "caption": texts[photo_id], "status": "ok"}
        row |= {name: header[name] for name in BACKEND_COLUMNS if name in header}
        for name in CAPTION_COLUMNS:
            columns[name].append(row.get(name))
    save_parquet(result / "captions.parquet", columns)
    return len(captioned)


def _cues(path: Path, result: Path, kept: dict[str, set[str]]) -> int:
    columns: dict[str, list[Any]] = {"kind": [], "id": [], "cues": []}
    for row in _rows(path):
        if row["id"] in kept[row["kind"]]:
            columns["kind"].append(row["kind"])
            columns["id"].append(row["id"])
            columns["cues"].append(json.dumps(row["cues"], ensure_ascii=False))
    save_parquet(result / "cues.parquet", columns)
    return len(columns["id"])


def _gold(path: Path, result: Path, users: dict[str, str]) -> int:
    """Write gold values of the text-only attributes, sorted by hashed user id. Return the number of users."""
    rows = sorted(
        ({**row, "user_id": users[row["user_id"]]} for row in _rows(path) if row["user_id"] in users),
        key=lambda row: row["user_id"],
    )
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["user_id"]
    save_parquet(result / "gold_text_only.parquet", {name: [row.get(name) for row in rows] for name in names})
    return len(rows)
