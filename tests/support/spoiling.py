"""Files as nobody should write them: good ones, spoilt in one place; the same for a seed."""

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DEEP, DIGITS = "\ue000", "\ue001"
"""Stand for what no encoder of JSON writes, in quotes: nesting, and a number of 5,000 digits."""
VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 2**63, 10**30, float("inf"), float("nan"), [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": {}},
    "", " ", "a", "Unknown", "???", "${name}", "${oc.env:HOME}", "{{}}", "nul\0", "\ud800", "\ufeff", "a\u2028b\x85c",
    "/dev/zero", "../../../../etc/passwd", "~", "x" * 50_000, DEEP, DEEP, DIGITS,
]  # fmt: skip
LITERALS = [
    "{{}}", "{[]: 1}", "{'a': {[]}}", "(" * 200 + ")" * 200, "[" * 5000, "-" * 5000 + "1", "1" * 5000, "1e999", "{1: 2}",
    "u'free'", "b'a'", "1 + 2j", "'\\ud800'", "'\\x00'", "f'{a}'", "...", "{'lunch': True, 'lunch': [None]}", "\0", "0777",
    "{**{}}", "'\\N{BULLET}'", "'\\xzz'", "not True", "{'a': 1", "set()", "1_0", "'a' 'b'", "'" + "a" * 5000 + "'",
]  # fmt: skip
YAML = [
    "&a [*a]", "&a {b: *a}", "[&a [1, 1], *a, *a]", "!!python/object/apply:os.mkdir [made]", "!!python/name:os.mkdir",
    "!!binary a", "!!timestamp 2020-99-99", "2020-99-99", "2020-01-01", "!!int x", "!!float x", "!!set {a, b}",
    "!!omap [a: 1]", "{? [a, b] : 1}", "0b", "0x", "1:99:1", ".inf", "- ", "? ", "%YAML 9.9", "|", "@", "\t", "<<: 1",
    "[" * 3000, "{a: " * 3000, "${a", "${a}", "${oc.env:HOME}", "${oc.decode:x}", "${.}", "${..name}", "???", "=",
    "{_target_: os.mkdir, path: made}", "{_target_: }", "{_args_: [1]}", "1" * 5000,
]  # fmt: skip


def spoilt(rng: random.Random, path: Path) -> bytes:
    """The content of a file, spoilt as suits what it is."""
    content = path.read_bytes()
    if rng.random() < 0.3:
        return spoil_bytes(rng, content)
    kind = SPOILERS.get(path.suffix, spoil_bytes)
    try:
        return kind(rng, content)
    except (ValueError, KeyError, TypeError, IndexError, NotImplementedError):  # the seed does not suit this way
        return spoil_bytes(rng, content)


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """A content with bytes that are cut off, changed, put in or repeated."""
    place, size = rng.randint(0, len(content)), rng.choice([1, 1, 1, 2, 4, 8, 64])
    before, after = content[:place], content[place + size :]
    ways: list[Callable[[], bytes]] = [
        lambda: before,
        lambda: before + rng.randbytes(size) + after,
        lambda: before + rng.randbytes(size) + after,
        lambda: before + bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])]) * size + after,
        lambda: before + after,
        lambda: before + content[place : place + 64] * rng.choice([2, 100]) + after,
        lambda: before + rng.choice([b'"', b"[", b"{", b",", b"\n", b"\r", b"\0", b"\\", b"'", b":"]) + after,
        lambda: rng.choice([b"", b"\n", b"null", b"[]", b"{}", b"0", b'""', b"\0" * 100, b"\xff\xfe", content * 2]),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.decode("utf-8", "replace").encode("utf-16"),
    ]
    return rng.choice(ways)()


def spoil_value(rng: random.Random, value: Any) -> Any:
    """A value of JSON with one place in it that is replaced, removed, renamed or added."""
    nodes: list[Any] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list) and node:
            nodes.append(node)
            waiting += node.values() if isinstance(node, dict) else node
    if not nodes or rng.random() < 0.05:
        return rng.choice(VALUES)
    node = rng.choice(nodes)
    key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    way = rng.random()
    if way < 0.75:
        node[key] = rng.choice(VALUES)
    elif way < 0.9:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice(["", "_target_", "a", "nul\0", str(key) + "s"])] = node.pop(key)
    else:
        node.append(rng.choice(VALUES))
    return value


def as_json(rng: random.Random, value: Any, **options: Any) -> bytes:
    """JSON with what no encoder writes."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, **options)
    mark = rng.choice(['"[', '"{']) if DEEP in text or "\\ue000" in text else ""
    depth = rng.choice([100, 1000, 20_000])
    deep = "[" * depth + "]" * depth if mark != '"{' else '{"a":' * depth + "1" + "}" * depth
    for name, instead in ((DEEP, deep), (DIGITS, "1" * 5000)):
        for spelled in (name, name.encode("ascii", "backslashreplace").decode()):
            text = text.replace(f'"{spelled}"', instead)
    return text.encode("utf-8", "surrogatepass")


def spoil_json(rng: random.Random, content: bytes) -> bytes:
    """JSON with one value spoilt."""
    return as_json(rng, spoil_value(rng, json.loads(content)))


def spoil_lines(rng: random.Random, content: bytes) -> bytes:
    """JSON lines with one row spoilt, or in all rows the same."""
    lines = content.split(b"\n")[:-1]
    seed = rng.random()
    for place in range(len(lines)) if rng.random() < 0.3 else [rng.randrange(len(lines))]:
        again = random.Random(seed)
        lines[place] = as_json(again, spoil_value(again, json.loads(lines[place])))
    return b"".join(line + b"\n" for line in lines)


def spoil_yaml(rng: random.Random, content: bytes) -> bytes:
    """YAML with one value or key replaced by something of its grammar, or as JSON with one value spoilt."""
    text = content.decode()
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    key, colon, _ = lines[place].partition(":")
    way = rng.random()
    if way < 0.7:
        lines[place] = f"{key}{colon} {rng.choice(YAML)}"
    elif way < 0.8:
        lines[place] = re.sub(r"\w+", lambda _: rng.choice(YAML), lines[place], count=1)
    elif way < 0.9:
        lines.insert(place, lines[rng.randrange(len(lines))])
    else:
        del lines[place]
    return "\n".join(lines).encode()


def spoil_csv(rng: random.Random, content: bytes) -> bytes:
    """CSV with one cell or row spoilt."""
    rows = [line.split(b",") for line in content.split(b"\n")]
    row = rng.choice(rows)
    value = rng.choice(VALUES)
    text = (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")
    row[rng.randrange(len(row))] = rng.choice([text, b'"' + text, b'"' + text + b'"', text + b",", b"", b"\xff"])
    return b"\n".join(b",".join(row) for row in rows)


def spoil_parquet(rng: random.Random, content: bytes) -> bytes:
    """Parquet with a column that is gone, renamed, or of other values and types."""
    table = pq.read_table(io.BytesIO(content))
    place = rng.randrange(table.num_columns)
    name, rows = table.column_names[place], len(table)
    values: list[Callable[[], pa.Array]] = [
        lambda: pa.nulls(rows),
        lambda: pa.nulls(rows, pa.string()),
        lambda: pa.array([rng.choice(["", "nul\0", "Unknown", "a"]) for _ in range(rows)]),
        lambda: pa.array([b"\xff\xfe"] * rows, pa.binary()).view(pa.string()),
        lambda: pa.array([b"a"] * rows, pa.binary()),
        lambda: pa.array([rng.choice([0, 2**62, -1, None]) for _ in range(rows)], pa.int64()),
        lambda: pa.array([rng.choice([0.5, float("nan"), float("inf"), None]) for _ in range(rows)], pa.float64()),
        lambda: pa.array([[None, "a"]] * rows),
        lambda: pa.array([[[1]]] * rows),
        lambda: pa.array([{"a": None}] * rows),
        lambda: pa.array([2**62] * rows, pa.timestamp("us")),
        lambda: pa.array(["a"] * rows).dictionary_encode(),
        lambda: pa.array([True] * rows),
    ]
    way = rng.random()
    if way < 0.8:
        table = table.set_column(place, name, rng.choice(values)())
    elif way < 0.9:
        table = table.remove_column(place)
    else:
        table = table.rename_columns(
            [n if n != name else rng.choice(["", n + "s", n.upper()]) for n in table.column_names]
        )
    out = io.BytesIO()
    pq.write_table(table.slice(0, rng.choice([rows, rows, 0])), out)
    return out.getvalue()


def spoil_literals(rng: random.Random, content: bytes) -> bytes:
    """Lines of attribute literals."""
    return rng.choice(LITERALS).encode("utf-8", "surrogatepass") if rng.random() < 0.5 else spoil_bytes(rng, content)


SPOILERS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    ".json": spoil_json,
    ".jsonl": spoil_lines,
    ".yaml": spoil_yaml,
    ".csv": spoil_csv,
    ".parquet": spoil_parquet,
    ".literal": spoil_literals,
}
