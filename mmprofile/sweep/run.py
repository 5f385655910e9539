"""Whole tables: ``python -m mmprofile.sweep table=2 seeds=3 data=demo model.size=tiny``.

Each run is a process of its own, started by Hydra's launcher: one after the other, or with ``hydra/launcher=joblib``.
The same command again does only what is not done yet, and renders the table in ``<out>/table2``.
"""

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmprofile.config.compose import CONFIGS, explain
from mmprofile.config.settings import SweepConfig
from mmprofile.errors import UserError, nearest
from mmprofile.paths import conf_dir
from mmprofile.remote import is_url
from mmprofile.sweep.jobs import check_launcher, run_jobs
from mmprofile.sweep.rendering import print_table, write_table
from mmprofile.sweep.results import collect
from mmprofile.sweep.tables import Planned, TableConfig, check_common, choose_rows, load_table, of_runs, plan

KINDS = ("table", "figure")


class SweepCommand(NamedTuple):
    """A command line.

    Attributes:
        cfg: the sweep's own keys.
        common: overrides for all rows, of ``train`` or of the rows' other command.
        launcher: words for Hydra.
    """

    cfg: SweepConfig
    common: list[str]
    launcher: list[str]


def main(words: Sequence[str]) -> int:
    """Run a sweep.

    Args:
        words: the command line.

    Returns:
        The exit status: 1 if a row has failed, else 0.

    Raises:
        UserError: nothing can be run or rendered.
    """
    cfg, common, launcher = read_words(words)
    check_launcher(launcher)
    if is_url(cfg.out):
        raise UserError(
            f"out={cfg.out}: a sweep locks its runs, which no object store can: give a folder that all machines see"
        )
    out = Path(cfg.out).expanduser()
    command = shlex.join(["python", "-m", "mmprofile.sweep", *words])
    if cfg.search is not None:
        if find_spec("optuna") is None:
            raise UserError("search= needs optuna: pip install 'mmprofile[sweep]'")
        from mmprofile.sweep.search import search

        return search(cfg, common, launcher, out, command)
    if cfg.runs is not None:
        table, runs = of_runs(names(cfg.runs))
        choose_rows([table], cfg)
        planned = [Planned(row, runs.get(row.system, [])) for row in table.rows]
        return render(out / "runs-table", table, planned, cfg, command)
    return make_tables(cfg, common, launcher, out, command)


def make_tables(cfg: SweepConfig, common: Sequence[str], launcher: Sequence[str], out: Path, command: str) -> int:
    """Run what is missing of the tables and figures that are asked for, and render them.

    Args:
        cfg: with ``table``, ``figure`` or both.
        common: overrides for all rows.
        launcher: words for Hydra.
        out: the tables' folders are in it.
        command: the command line that makes the tables again.

    Returns:
        1 if a row has failed, else 0.

    Raises:
        UserError: nothing can be run or rendered.
    """
    asked = [(kind, name) for kind, value in (("table", cfg.table), ("figure", cfg.figure)) for name in names(value)]
    tables = {f"{kind}{name}" if name.isalnum() else Path(name).stem: load_table(kind, name) for kind, name in asked}
    choose_rows(tables.values(), cfg)
    check_common(tables.values(), common)
    planned_rows = {name: plan(table, common, cfg.rows, cfg.seeds, out) for name, table in tables.items()}
    every = [planned for rows in planned_rows.values() for planned in rows]
    jobs = [job for planned in every for job in planned.jobs]
    errors = {planned.row.name: planned.error for planned in every if planned.error}
    if errors and not jobs:
        raise UserError("; ".join(dict.fromkeys(errors.values())))
    for name, error in errors.items():
        print(f"{name}: {error}", flush=True)
    run_jobs(jobs, launcher, cfg.threads, out)
    return max(render(out / name, tables[name], rows, cfg, command) for name, rows in planned_rows.items())


def read_words(words: Sequence[str]) -> SweepCommand:
    """Sort the words of a command line.

    Raises:
        UserError: an unknown key, or a value that makes no sense.
    """
    settings, common, launcher = list[str](), list[str](), list[str]()
    keys = set(SweepConfig.__dataclass_fields__)
    row_keys = {"experiment", *(key for config in CONFIGS.values() for key in get_type_hints(config))}
    for word in words:
        key, equals, _ = word.partition("=")
        head = key.lstrip("+~").replace("/", ".").split(".")[0]
        if not equals or word.startswith("-"):
            raise UserError(f"the command line cannot be read: {word}; give key=value, e.g. table=2")
        if head == "hydra":
            launcher.append(word)
        elif head in keys:
            settings.append(word)
        elif key in ("seed", "name", "run"):
            raise UserError(
                f"{word}: a sweep names and chooses its runs itself and numbers their seeds; give seeds=..."
            )
        elif head in row_keys:
            common.append(word)
        else:
            raise UserError(f"unknown config key {key!r}{nearest(key, sorted(keys | row_keys))}")
    cfg: Any = OmegaConf.merge(OmegaConf.structured(SweepConfig), OmegaConf.load(conf_dir() / "sweep.yaml"))
    for word in settings:
        try:
            cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist([word]))
        except OmegaConfBaseException as error:
            raise UserError(explain(error, "sweep")) from error
        except yaml.YAMLError as error:
            raise UserError(f"the command line cannot be read: {word}") from error
    check_settings(cfg)
    return SweepCommand(cfg, common, launcher)


def check_settings(cfg: SweepConfig) -> None:
    """Check the sweep's own keys.

    Raises:
        UserError: a number is too small, or the keys do not go together.
    """
    for key in ("seeds", "resamples", "trials", "threads"):
        number = getattr(cfg, key)
        if number is not None and number < 1:
            raise UserError(f"{key}={number}: give 1 or more")
    asked = [key for key in ("search", "runs", *KINDS) if getattr(cfg, key) is not None]
    if not asked:
        raise UserError("nothing to do: give table=..., figure=..., search=... or runs=...")
    if len(asked) > 1 and set(asked) != set(KINDS):
        raise UserError(f"{' and '.join(f'{key}=' for key in asked)} do not go together: give one of them")


def names(value: Any) -> list[str]:
    """Return ``2``, ``2,3`` or ``[2, 3]`` as a list of texts."""
    if value is None:
        return []
    items = value if OmegaConf.is_list(value) else [value]
    return [part.strip() for item in items for part in str(item).split(",")]


def render(folder: Path, table: TableConfig, planned: Sequence[Planned], cfg: SweepConfig, command: str) -> int:
    """Write and print a table.

    Args:
        folder: of its files.
        table: what is asked.
        planned: its rows and their runs.
        cfg: the sweep's own keys.
        command: the command line that makes it again.

    Returns:
        1 if one of its rows has failed, else 0.

    Raises:
        UserError: the runs cannot be compared, or the folder cannot be written.
    """
    results = collect(planned, cfg.reference or table.reference, cfg.resamples)
    try:
        write_table(folder, table, results, command)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another out=") from error
    print_table(table, results)
    print(f"{folder}/table.md, .csv, .json, .tex, .png\n", flush=True)
    return int(any(result.error and not result.left_out for result in results))
