"""Other names of keys: short ones on a command line, and those of earlier versions in old configurations."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmprofile.errors import UserError
from mmprofile.files import read_schema_file
from mmprofile.paths import conf_dir

_PHOTOS = {"photos": "data.prepare.photos.policy"}
SHORT = {
    "train": _PHOTOS,
    "prepare": _PHOTOS,
    "caption": {"model": "checkpoint"},
    "llm": {"teacher": "llm/teacher@teacher"} | _PHOTOS,
}
"""What users write on a command line -> the key or group it stands for.

``model=`` of ``caption`` is a hub id or folder. Hydra would look for it in the group ``conf/model``, so the key is called
``checkpoint`` in ``conf/caption.yaml``; documentation and messages say ``model=``. The teachers of ``llm`` are in
``conf/llm/teacher``. ``photos=none`` prepares data without photos.
"""
FLAGS = {"caption": {"--verify": "verify=true"}}
"""Flags of our own, which Hydra does not know -> the override that each stands for."""
RENAMED = {"train": {"evaluation.dev_beams": "evaluation.validation_beams"}}
"""Keys of earlier versions -> today's, on command lines and in the ``config.yaml`` of old runs."""
PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[a-z_./][\w./-]*", re.ASCII | re.IGNORECASE)
"""Texts that need no quotes on a command line."""

WITH_SCHEMA = ("train", "prepare", "caption", "llm")
"""Commands that have the group ``conf/profile``."""


def translate(command: str, words: Sequence[str]) -> list[str]:
    """Return the words of a command line with today's keys in place of short and old ones.

    ``profile=`` may be the path of a YAML file, or name one in ``conf/profile`` of the folder that the command runs in.
    """
    return [new for word in words for new in _schema_words(command, _translated(command, word))]


def _schema_words(command: str, word: str) -> list[str]:
    """Return what chooses a schema, or several in a multirun. A file that Hydra does not compose stands as a path.

    Raises:
        UserError: a file cannot be read, or stands beside a name of ours: Hydra would look for them in different places.
    """
    name, _, value = word.partition("=")
    if name != "profile" or command not in WITH_SCHEMA:
        return [word]
    values = [value] if Path(value).is_file() else value.split(",")
    paths = [path for choice in values if (path := _schema_file(choice))]
    if not paths:
        return [word]
    if len(paths) < len(values):
        raise UserError(
            f"{word}: give files only or names only; a shipped schema is also a file, in {conf_dir() / 'profile'}"
        )
    return ["~profile", f"+profile.path={','.join(json.dumps(str(path), ensure_ascii=False) for path in paths)}"]


def _schema_file(choice: str) -> Path | None:
    """Return the file of a schema; None where Hydra composes it."""
    if Path(choice).suffix.lower() in (".yaml", ".yml"):
        return Path(choice)
    path = Path("conf", "profile", f"{choice}.yaml")
    return path if path.is_file() and "defaults" not in read_schema_file(path) else None


def _translated(command: str, word: str) -> str:
    """Return a word of a command line with today's key in place of a short or an old one."""
    if word in FLAGS.get(command, {}):
        return FLAGS[command][word]
    name, equals, value = word.partition("=")
    key = name.lstrip("+~")
    keys = SHORT.get(command, {}) | RENAMED.get(command, {})
    if key not in keys or not (equals or name.startswith("~")):
        return word
    return name.removesuffix(key) + keys[key] + equals + value


def rename_keys(command: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration, as plain data, with today's keys in place of those of earlier versions."""
    config = copy.deepcopy(config)
    for old, new in RENAMED.get(command, {}).items():
        *path, key = old.split(".")
        node: Any = config
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and key in node:
            value = node.pop(key)
            *path, key = new.split(".")
            node = config
            for part in path:
                node = node.setdefault(part, {})
            node.setdefault(key, value)
    return config


def as_words(key: str, value: Any) -> list[str]:
    """Return the words of a command line that set a key to a value; those of a mapping set the keys below it."""
    if isinstance(value, Mapping):
        return [word for name, part in value.items() for word in as_words(f"{key}.{name}", part)]
    return [f"{key}={_written(value)}"]


def _written(value: Any) -> str:
    """Return a value in the grammar of a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str | Path):
        return str(value) if PLAIN.fullmatch(str(value)) else json.dumps(str(value), ensure_ascii=False)
    return str(value)
