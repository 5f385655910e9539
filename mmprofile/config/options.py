"""The options of each command, as ``--help`` and the completion of shells show them.

Nothing is said twice: keys and defaults are those of ``conf/``, choices are its files, and a description is the comment that
stands beside a key there. A key without a comment has that of the same key in another choice of its group, or of ``train``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from mmprofile.config.compose import CONFIGS, compose_config
from mmprofile.config.words import SHORT, translate
from mmprofile.paths import conf_dir

LONGEST = 60
"""Characters of a default that are shown."""


class Option(NamedTuple):
    """What may stand on a command line as ``key=value``.

    Attributes:
        key: in front of the sign.
        default: its value as it would be typed; empty where one must be given.
        description: what it means.
        described: the key that the comment stands beside: this one, or a mapping that it is in.
        choices: the values that are files of ``conf/``; empty: others.
        group: whether a choice sets further options.
    """

    key: str
    default: str
    description: str
    described: str
    choices: tuple[str, ...] = ()
    group: bool = False


class _Group(NamedTuple):
    """An entry of a configuration's defaults: its key there, the folder in ``conf/``, where its keys stand, the choice."""

    key: str
    folder: str
    node: str
    choice: str | None


def options(name: str, words: Sequence[str] = ()) -> list[Option]:
    """Return the options of a command: groups, its own keys, those of the groups' choices.

    Args:
        name: of the configuration: the file in ``conf/``.
        words: overrides; another choice of a group has other options.
    """
    words = translate(name, words)
    cfg, groups = compose_config(name, words), _groups(name, words)
    says = _descriptions(name, groups)
    typed = {long: key for key, long in SHORT.get(name, {}).items()}
    found = []
    for group in groups:
        key, text = typed.get(group.key, group.key), says.get(f"defaults.{group.key}", "")
        found.append(Option(key, _shown(group.choice), text, key, _choices(group.folder), True))
    chosen = {group.node for group in groups if group.folder == "profile"}  # a schema is no option
    chosen |= {group.folder for group in groups if not group.node}  # apply: the task's name
    own: list[Option] = []
    of_groups: list[Option] = []
    node: Any = OmegaConf.to_container(cfg)
    for long, value in _leaves(node, CONFIGS[name]):
        top = long.split(".")[0]
        if top in chosen:
            continue
        described = long
        while described not in says and "." in described:
            described = described.rpartition(".")[0]
        key, text = typed.get(long, long), says.get(described, "")
        described = key if described == long else described
        option = Option(key, _shown(_resolved(cfg, long, value)), text, described, _choices(long))
        (of_groups if any(top == group.node for group in groups) else own).append(option)
    return found + own + of_groups


def _groups(name: str, words: Sequence[str]) -> list[_Group]:
    """Return the groups of a configuration, with what the words choose."""
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    found = []
    for entry in _defaults(name):
        if isinstance(entry, dict):
            [(key, choice)] = entry.items()
            folder, _, node = key.partition("@")
            first = next((conf_dir() / folder).glob("*.yaml")).read_text(encoding="utf-8")
            node = "" if first.startswith("# @package _global_") else node or folder
            found.append(_Group(key, folder, node, chosen.get(key, choice)))
    return found


def _defaults(name: str) -> list[Any]:
    data = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"))
    defaults: list[Any] = data.get("defaults", [])
    return defaults


def _choices(folder: str) -> tuple[str, ...]:
    """Return the files of a folder of ``conf/``, by name; none where a key is not called like one."""
    return tuple(sorted(path.stem for path in (conf_dir() / folder).glob("*.yaml"))) if "." not in folder else ()


def _descriptions(name: str, groups: Sequence[_Group]) -> dict[str, str]:
    """Return key -> comment; the command's own comments first, then those of the chosen files, then of others."""
    found = _comments(conf_dir() / f"{name}.yaml")
    for entry in _defaults(name):
        if str(entry).endswith("@_here_"):  # a file that is a part of this one
            found = _comments(conf_dir() / f"{entry.removesuffix('@_here_')}.yaml") | found
    for group in groups:
        folder = conf_dir() / group.folder
        files = sorted(
            folder.rglob("*.yaml"), key=lambda path: (path.stem != group.choice, path.parent == folder, path)
        )
        for path in files:
            found = {f"{group.node}.{key}".lstrip("."): text for key, text in _comments(path).items()} | found
    return found if name == "train" else _descriptions("train", _groups("train", [])) | found


@cache
def _comments(path: Path) -> dict[str, str]:
    """Return key -> the comment beside it in a YAML file, else the lines above it (but not those on top of the file)."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    ends: dict[int, int] = {}
    for token in yaml.scan(text):
        ends[token.end_mark.line] = token.end_mark.column  # the last one of a line stays
    found = {}
    for key, first, last in _keys(yaml.compose(text)):
        beside = lines[last][ends.get(last, 0) :].partition("#")[2].strip()
        above: list[str] = []
        while first - len(above) > 0 and lines[first - len(above) - 1].lstrip().startswith("#"):
            above.insert(0, lines[first - len(above) - 1].strip(" #"))
        if beside or (above and len(above) < first):
            found[key] = beside or " ".join(above)
    return found


def _keys(node: Any, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield the keys of a YAML mapping, each with its line and the line that its comment stands on."""
    if isinstance(node, yaml.SequenceNode) and prefix == "defaults.":
        for item in node.value:
            yield from _keys(item, prefix)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        block = value.flow_style is False if isinstance(value, yaml.CollectionNode) else value.style in ("|", ">")
        yield f"{prefix}{key.value}", key.start_mark.line, (key if block else value).end_mark.line
        if block:
            yield from _keys(value, f"{prefix}{key.value}.")


def _leaves(node: Mapping[str, Any], kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys that are set and their values; a mapping whose keys are free (sizes, students) is a value."""
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    for key, value in node.items():
        if key.startswith("_"):
            continue
        if isinstance(value, dict) and value and get_origin(hints.get(key)) is not dict:
            yield from _leaves(value, hints.get(key), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _resolved(cfg: DictConfig, key: str, written: Any) -> Any:
    """Return a value without references, or as it is written where it refers to what other choices have."""
    try:
        value = written if written == "???" else OmegaConf.select(cfg, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except InterpolationResolutionError:
        return written


def _shown(value: Any) -> str:
    """Return a value as it would be typed, if it is not too long; nothing where one must be given."""
    if value == "???":
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1e9, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
