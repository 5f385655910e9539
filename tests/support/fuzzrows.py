"""Rows as nobody should write them, the same for a seed: for every reader of ``predict``."""

import json
import os
import random
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

TEXTS = ["fine soup", "", " ", "\n", "\r", "a\u2028b\x85c\x0bd", "\ufeff", "\0", "\ud800", "مطعم 很好 ", "=1+1", '"']
TEXTS += ["\U0001f34c" * 30, "x" * 50_000]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    10**400,
    1.5,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    {"a": 1},
    "",
    "x",
]


def strange_files(folder: Path) -> list[str]:
    """Make files that are no photos, and return paths of these and of others that lead nowhere good."""
    (folder / "folder").mkdir()
    (folder / "folder.jpg").mkdir()
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no photo")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    os.mkfifo(folder / "pipe.jpg")
    for name, target in (("loop", "loop"), ("out", "/etc/passwd"), ("zero", "/dev/zero"), ("fifo", "pipe.jpg")):
        (folder / f"{name}.jpg").symlink_to(target)
    made = [
        "folder",
        "folder.jpg",
        "empty.jpg",
        "text.jpg",
        "cut.jpg",
        "pipe.jpg",
        "loop.jpg",
        "out.jpg",
        "zero.jpg",
        "fifo.jpg",
    ]
    others = [
        "/dev/zero",
        "/dev/stdin",
        "/etc/passwd",
        "../../../etc/passwd",
        "http://example.org/a.jpg",
        "file:///a.jpg",
    ]
    return [*made, *others, "", ".", "/", "~", "a/" * 3000, "x" * 5000, "nul\0l", "\ud800", "C:\\a.jpg", "no.jpg"]


def row(rng: random.Random, number: int, paths: list[str]) -> dict[str, Any]:
    """A user, or one that is spoilt in some places."""
    user: dict[str, Any] = {"user_id": f"u{number}", "reviews": ["a fine place", "nice pizza"][: rng.randint(0, 2)]}
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        key = rng.choice(["user_id", "reviews", "photos", "captions", "more"])
        listed = [rng.choice([*TEXTS, *VALUES]) for _ in range(rng.randint(0, 4))]
        photos = [rng.choice(paths) for _ in range(rng.randint(0, 4))]
        texts = [rng.choice(TEXTS) for _ in range(rng.randint(0, 4))]
        user[key] = rng.choice(
            [rng.choice(VALUES), rng.choice(TEXTS), listed, photos, texts, f"u{rng.randint(0, number)}"]
        )
        if rng.random() < 0.1:
            del user[key]
    return user


def table(seed: int, count: int, paths: list[str]) -> pa.Table:
    """A table with the columns that a Parquet file of users has; some of its texts are not UTF-8."""
    rng = random.Random(seed)
    users = [row(rng, number, paths) for number in range(count)]

    def texts(values: list[Any]) -> pa.Array:
        contents = [None if value is None else str(value).encode("utf-8", "surrogatepass") for value in values]
        return pa.array(contents, pa.large_binary()).view(pa.large_string())

    columns = {"user_id": texts([user.get("user_id") for user in users])}
    for name in ("reviews", "photos", "captions"):
        lists = [value if isinstance(value := user.get(name, []), list) else [] for user in users]
        ends = [0, *accumulate(map(len, lists))]
        columns[name] = pa.LargeListArray.from_arrays(ends, texts([text for texts in lists for text in texts]))
    return pa.table(columns)


def _spoilt(rng: random.Random, line: bytes) -> bytes:
    """A line with bytes that are cut off, changed, put in or repeated; it stays one line."""
    spoil: list[Callable[[], bytes]] = [
        lambda: line[: rng.randint(0, len(line))],
        lambda: line.replace(rng.choice([b'"', b"[", b",", b"u"]), bytes([rng.randrange(256)])),
        lambda: rng.randbytes(rng.randint(0, 60)),
        lambda: b"\xef\xbb\xbf" + line,
        lambda: line.decode("utf-8", "replace").encode("utf-16"),
        lambda: line + line,
        lambda: b"[" * rng.choice([10, 2000, 50_000]) + line,
        lambda: b'{"reviews":' * rng.choice([10, 2000, 20_000]) + line,
        lambda: b"1" * rng.choice([10, 4299, 5000]),
        lambda: line + b"\r",
        lambda: line.replace(b"a", b"\xff", 1),
        lambda: b"\0" * 20,
        lambda: b"   \t",
    ]
    return rng.choice(spoil)().replace(b"\n", b"\r")


def json_lines(seed: int, count: int, paths: list[str]) -> Iterator[bytes]:
    """Yield lines, each with its line feed."""
    rng = random.Random(seed)
    for number in range(count):
        line = json.dumps(row(rng, number, paths), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        yield (_spoilt(rng, line) if rng.random() < 0.4 else line) + b"\n"


def csv_lines(seed: int, count: int, paths: list[str]) -> Iterator[bytes]:
    """Yield the lines of a CSV file, with odd ends and quotes that are not closed, doubled or followed by text."""
    rng = random.Random(seed)
    yield b"user_id,reviews,photos,captions,note\r\n"
    for number in range(count):
        user = row(rng, number, paths)
        cells = []
        for key in ("user_id", "reviews", "photos", "captions", "more"):
            value = user.get(key, "")
            text = value if isinstance(value, str) else json.dumps(value)
            quoted = '"' + text.replace('"', '""') + '"'
            cells.append(rng.choices([quoted, text, f'"{text}', f'{text}"', f"{quoted}x"], [90, 3, 1, 1, 1])[0])
        line = ",".join(cells[: rng.choices([5, rng.randint(0, 9)], [9, 1])[0]]).encode("utf-8", "surrogatepass")
        yield line + rng.choices([b"\r\n", b"\n", b"\r", b"\n\n"], [90, 5, 1, 1])[0]
