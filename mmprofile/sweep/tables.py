"""A table: rows that are overrides of a command, and the runs that they ask for."""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmprofile.config.compose import difference, load_config, nearest
from mmprofile.config.settings import TrainConfig
from mmprofile.errors import UserError
from mmprofile.paths import conf_dir
from mmprofile.sweep.jobs import Job, done, quoted, slug

BASELINES = {"majority": "majority class", "tfidf_lr": "TF-IDF + LR", "ceiling": "ceiling (true cues)"}
LAYOUTS = ("list", "grid", "curves")


@dataclass
class RowConfig:
    """A system of a table.

    ``overrides``: of ``python -m mmprofile.<command>``; a command other than ``train`` reads the run that ``after`` (overrides
    of ``train``) describes. ``needs``: ways to say what the row cannot do without (the last word of one of them
    must be given). ``baseline``: the row comes from that
    entry of every run's ``baselines``. ``line`` and ``column`` place it in a grid (no column: in all), ``line`` and ``x`` on a
    curve. ``reference``: tested against that system instead of the table's. ``paper``: the paper's figures.
    """

    system: str = MISSING
    label: str | None = None
    command: str = "train"
    overrides: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    baseline: str | None = None
    line: str | None = None
    column: str | None = None
    x: float | None = None
    reference: str | None = None
    paper: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return self.label or self.system


@dataclass
class TableConfig:
    """``conf/table/*.yaml``, ``conf/figure/*.yaml``. ``gain``: a grid's second column minus its first."""

    title: str = MISSING
    note: str = ""
    layout: str = "list"
    reference: str | None = None
    gain: bool = False
    rows: list[RowConfig] = field(default_factory=list)


class Planned(NamedTuple):
    """A row and its runs, one per seed; or why it has none."""

    row: RowConfig
    jobs: list[Job]
    error: str | None = None
    left_out: bool = False


def conf_file(group: str, name: str) -> Path:
    """``conf/<group>/<name>.yaml``, or a YAML file of the user's.

    Raises:
        UserError: there is none.
    """
    own = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if own else conf_dir() / group / f"{name}.yaml"
    if not path.is_file():
        choices = sorted(one.stem for one in (conf_dir() / group).glob("*.yaml"))
        known = f"choices: {', '.join(choices)}, or a YAML file"
        raise UserError(f"{group}={name}: there is no such {group}{nearest(name, choices)}; {known}")
    return path


def load_table(group: str, name: str) -> TableConfig:
    """A table by its name, or from a file; see :func:`conf_file`.

    Raises:
        UserError: there is none, or it does not say what a table must.
    """
    path = conf_file(group, name)
    try:
        table: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TableConfig), OmegaConf.load(path)))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{group}={name}: {path}: {str(error).splitlines()[0]}") from error
    systems = [row.system for row in table.rows]
    wrong = [f"system {system} is there twice" for system in systems if systems.count(system) > 1]
    for reference in (table.reference, *(row.reference for row in table.rows)):
        if reference not in (None, *systems):
            wrong.append(f"reference {reference} is no row")
    if table.layout not in LAYOUTS:
        wrong.append(f"layout {table.layout} is not one of {', '.join(LAYOUTS)}")
    if wrong:
        raise UserError(f"{group}={name}: {path}: {wrong[0]}")
    return table


def choose_rows(tables: Iterable[TableConfig], cfg: Any) -> None:
    """Leaves the rows of ``only``, and takes ``reference``.

    Raises:
        UserError: a name in ``only``, ``rows`` or ``reference`` is no row of any of the tables.
    """
    tables = list(tables)
    systems = [row.system for table in tables for row in table.rows]
    references = [] if cfg.reference is None else [cfg.reference]
    for key, asked in (("only", list(cfg.only)), ("rows", list(cfg.rows)), ("reference", references)):
        for system in asked:
            if system not in systems:
                raise UserError(f"{key}: {system!r} is no row{nearest(system, systems)}; rows: {', '.join(systems)}")
    for table in tables:
        table.rows = [row for row in table.rows if row.system in cfg.only or not cfg.only]
        if cfg.reference is not None:
            table.reference = cfg.reference
            table.rows = [replace(row, reference=None) for row in table.rows]


def check_common(tables: Iterable[TableConfig], common: Sequence[str]) -> None:
    """An override of all rows must be one of a row.

    Raises:
        UserError: no row has that key, or every row of a table sets it itself.
    """
    for word, table in ((word, table) for word in common for table in tables):
        rows = [row for row in table.rows if not row.baseline]
        trained = [row.overrides if row.command == "train" else row.after for row in rows]
        own = trained if is_training(word) else [row.overrides for row in rows if row.command != "train"]
        if not own:
            raise UserError(
                f"{word}: unknown config key {_key(word)!r} in {table.title!r}, whose rows are trainings alone"
            )
        if all(_key(word) in map(_key, words) for words in own):
            raise UserError(
                f"{word}: every row of {table.title!r} sets {_key(word)} itself; rows.<row>=[{word}] changes one"
            )


def plan(
    table: TableConfig, common: Sequence[str], extra: Mapping[str, Sequence[str]], seeds: int, out: Path
) -> list[Planned]:
    """The runs of every row. What does not compose, or is left out, is a row with an error.

    Args:
        table: see :class:`TableConfig`.
        common: overrides for all rows, of ``train`` or of the rows' other command; a row's own win over them.
        extra: system -> further overrides of that row.
        seeds: runs per row, of seeds 0, 1, ...
        out: the runs' folders are in its ``runs``.
    """
    planned = []
    for row in table.rows:
        own = [*row.overrides, *extra.get(row.system, [])]
        given = {_key(word) for word in own}
        if row.baseline is not None:
            planned.append(Planned(row, []))
        elif row.needs and not given & {_key(way.split(",")[-1]) for way in row.needs}:
            ways = " or ".join(f"rows.{row.system}=[{way}]" for way in row.needs)
            planned.append(Planned(row, [], f"left out; to run it give {ways}", left_out=True))
        else:
            try:
                planned.append(Planned(row, _jobs(row, own, common, seeds, out)))
            except UserError as error:
                planned.append(Planned(row, [], str(error)))
    return planned


def _jobs(row: RowConfig, own: Sequence[str], common: Sequence[str], seeds: int, out: Path) -> list[Job]:
    training = [word for word in common if is_training(word)]
    runs = _seeds("train", training, own if row.command == "train" else row.after, seeds, out)
    if row.command == "train":
        return runs
    return _seeds(row.command, [word for word in common if not is_training(word)], own, seeds, out, runs)


def _seeds(
    command: str, common: Sequence[str], own: Sequence[str], seeds: int, out: Path, needs: Sequence[Job] = ()
) -> list[Job]:
    """A job per seed; each reads the run of ``needs`` that has its seed."""
    reads = ["run=-"] if needs else []
    cfg, words = effective(command, common, [*own, *reads])
    words = [word for word in words if word not in reads]
    jobs = []
    for seed in range(seeds):
        numbered, need = (*words, f"seed={seed}"), tuple(needs[seed : seed + 1])
        name = slug(command, [*numbered, *(f"run={one.folder.name}" for one in need)])
        read = tuple(f"run={quoted(str(one.folder))}" for one in need)
        jobs.append(Job(command, (*read, *numbered), out / "runs" / name, need))
        check_same(jobs[-1], cfg)
    return jobs


def is_training(word: str) -> bool:
    """Whether an override is one of ``train``; one that ``apply`` has, too, is not for it."""
    return re.split(r"[./]", _key(word))[0] in {*TrainConfig.__dataclass_fields__, "experiment"}


def _key(word: str) -> str:
    return word.strip().lstrip("+~").split("=", 1)[0]


def effective(command: str, common: Sequence[str], own: Sequence[str]) -> tuple[Any, list[str]]:
    """The overrides of a row without those of ``common`` that change nothing, so that they do not name another run.

    Returns:
        The composed configuration, and the words.

    Raises:
        UserError: they do not compose.
    """
    # "++": a model's file need not list the key; the dataclass still says whether there is such a key.
    kept = [f"++{word}" if word.startswith("model.") else word for word in common]
    cfg = load_config(command, [*kept, *own])
    # All at once, as data=demo model.size=tiny; else one by one.
    for words in ([kept] if len(kept) > 1 else []) + [[word] for word in kept]:
        fewer = [word for word in kept if word not in words]
        try:
            if kept != fewer and load_config(command, [*fewer, *own]) == cfg:
                kept = fewer
        except UserError:  # it is needed for the rest to make sense
            continue
    return cfg, [*kept, *own]


def check_same(job: Job, cfg: Any) -> None:
    """A finished run stands for a job only if it had the configuration ``cfg``, but for name and seed, or the job's own.

    Raises:
        UserError: it had another.
    """
    if not done(job.folder):
        return
    seed = job.words[-1].partition("=")[2]
    old, quick = OmegaConf.load(job.folder / "config.yaml"), {"seed": int(seed), "name": job.folder.name}
    if not difference(old, OmegaConf.merge(cfg, quick), shared=True):
        return
    asked = load_config(job.command, [*job.words, f"name={quoted(job.folder.name)}"])  # other keys may go by the seed
    changed = difference(old, asked, shared=True)
    if changed:
        raise UserError(
            f"{job.folder} holds a run with other settings ({'; '.join(changed[:3])}): delete it, or choose another out="
        )


def of_runs(patterns: Sequence[str]) -> tuple[TableConfig, dict[str, list[Job]]]:
    """A table of runs that are there: those that differ in nothing but their seed are one row.

    Returns:
        The table, and the runs of each of its systems.

    Raises:
        UserError: a pattern has no finished run.
    """
    folders = list[Path]()
    for pattern in patterns:
        found = [Path(name) for name in sorted(glob.glob(str(Path(pattern).expanduser())))]
        finished = [folder for folder in found if (folder / "metrics.json").is_file()]
        if not finished:
            raise UserError(f"runs={pattern}: no finished run there (a folder with metrics.json)")
        folders += [folder for folder in finished if folder not in folders]
    groups = list[tuple[Any, list[Path]]]()
    for folder in folders:
        cfg: Any = OmegaConf.merge(OmegaConf.load(folder / "config.yaml"), {"name": "", "seed": 0})
        same = [group for other, group in groups if not difference(other, cfg)]
        if same:
            same[0].append(folder)
        else:
            groups.append((cfg, [folder]))
    labels = [cfg.paradigm.name for cfg, _ in groups]
    for label in (lambda cfg: f"{cfg.model.name} {cfg.paradigm.name}", None):
        if len(set(labels)) < len(labels):
            labels = [label(cfg) for cfg, _ in groups] if label else [group[0].name for _, group in groups]
    first = [RowConfig(key, label, baseline=key) for key, label in BASELINES.items() if key != "ceiling"]
    rows = [*first, *map(RowConfig, labels), RowConfig("ceiling", BASELINES["ceiling"], baseline="ceiling")]
    jobs = {
        label: [Job("train", (), folder) for folder in group] for label, (_, group) in zip(labels, groups, strict=True)
    }
    return TableConfig("Runs", rows=rows), jobs
