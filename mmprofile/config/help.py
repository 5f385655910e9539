"""What ``--help`` prints."""

import shutil
import textwrap
from collections.abc import Sequence
from itertools import groupby, takewhile
from operator import attrgetter

from mmprofile.config.options import Option, options
from mmprofile.config.words import FLAGS
from mmprofile.paths import conf_dir

WIDEST = 36
"""Characters of ``key=default`` that a description stands beside."""


def print_help(name: str, command: str, purpose: str, words: Sequence[str] = ()) -> None:
    """Print all options of a command with their defaults and what they mean.

    Args:
        name: of the configuration.
        command: what is typed, such as ``mmprofile.train``.
        purpose: a sentence.
        words: overrides.
    """
    found = options(name, words)
    width = max(60, shutil.get_terminal_size((110, 24)).columns)
    print(f"usage: python -m {command} [key=value ...]\n\n{purpose}")
    lines = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").split("\n")
    examples = [line[2:] for line in takewhile(lambda line: line.startswith("# "), lines)]
    if examples:
        print("".join(f"\n  {line}" for line in examples))
    for title, group in (("groups: a choice sets further keys", True), ("options", False)):
        rows = [option for option in found if option.group == group]
        if rows:
            print(f"\n{title}")
        for described, together in groupby(rows, key=attrgetter("described")):
            _print_options(described, [*together], width)
    flags = {word: f"the same as {stands}" for word, stands in FLAGS.get(name, {}).items()}
    if name != "sweep":
        flags |= {"-m": "run all combinations of key=a,b,c", "--cfg job": "print the configuration and end"}
    flags |= {"--help": "print this; with key=value it shows the options of other choices"}
    print("\nflags")
    for flag, meaning in flags.items():
        _print_row(flag, meaning, width)


def _print_options(described: str, options: Sequence[Option], width: int) -> None:
    """Print options that one comment describes: an option, or those of a mapping together."""
    [option, *_] = options
    left = f"{option.key}={option.default or '...'}"
    if option.key != described:
        inside = (f"{option.key.removeprefix(f'{described}.')}: {option.default or '...'}" for option in options)
        left = f"{described}={{{', '.join(inside)}}}"
    must = "" if option.default else "(required)"
    choices = f"[{', '.join(option.choices)}]" if option.choices else ""
    _print_row(left, f"{must} {option.description} {choices}".strip(), width)


def _print_row(left: str, right: str, width: int) -> None:
    """Print two columns; a left one that is too wide has a line of its own."""
    lines = textwrap.wrap(right, width - WIDEST - 4) or [""]
    if len(left) > WIDEST:
        print(f"  {left}")
    else:
        print(f"  {left:<{WIDEST}}  {lines.pop(0)}".rstrip())
    for line in lines:
        print(f"  {'':<{WIDEST}}  {line}")
