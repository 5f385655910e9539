"""A table: its rows are overrides of a command, and each row asks for runs."""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import MISSING, OmegaConf

from mmprofile.config.compose import difference, load_config, read_run_config
from mmprofile.config.parts import typed_file
from mmprofile.config.settings import SweepConfig, TrainConfig
from mmprofile.errors import UserError, nearest
from mmprofile.paths import conf_dir
from mmprofile.sweep.jobs import Job, quoted, slug
from mmprofile.sweep.locked_run import done

BASELINES = {"majority": "majority class", "tfidf_lr": "TF-IDF + LR", "ceiling": "ceiling (true cues)"}
LAYOUTS = ("list", "grid", "curves")


@dataclass
class RowConfig:
    """A system of a table.

    Attributes:
        system: its name; no other row of the table has it.
        label: its name for readers; None: ``system``.
        command: ``train``, or a command that reads the run that ``after`` describes.
        overrides: of ``python -m mmprofile.<command>``.
        after: overrides of ``train``.
        needs: ways to say what the row cannot do without; the last word of one of them must be given.
        baseline: the row comes from that entry of every run's ``baselines``.
        line: of a grid or a set of curves.
        column: of a grid; None: the row stands in all columns.
        x: place on a curve.
        reference: the system that this row is tested against instead of the table's.
        paper: the paper's figures.
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
        """The row's name for readers."""
        return self.label or self.system


@dataclass
class TableConfig:
    """``conf/table/*.yaml``, ``conf/figure/*.yaml``.

    Attributes:
        title: of the table.
        note: stands below it.
        layout: one of :data:`LAYOUTS`.
        reference: the system that rows are tested against.
        gain: whether a grid shows its second column minus its first.
        rows: the systems.
    """

    title: str = MISSING
    note: str = ""
    layout: str = "list"
    reference: str | None = None
    gain: bool = False
    rows: list[RowConfig] = field(default_factory=list)


class Planned(NamedTuple):
    """A row of a table before its runs are read.

    Attributes:
        row: what is asked.
        jobs: its runs, one per seed.
        error: why it has no runs; None where it has.
        left_out: whether that is no failure.
    """

    row: RowConfig
    jobs: list[Job]
    error: str | None = None
    left_out: bool = False


def conf_file(group: str, name: str) -> Path:
    """Return ``conf/<group>/<name>.yaml``, or the user's YAML file of that name.

    Raises:
        UserError: there is none.
    """
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if is_file else conf_dir() / group / f"{name}.yaml"
    if not path.is_file():
        choices = sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
        known = f"choices: {', '.join(choices)}, or a YAML file"
        raise UserError(f"{group}={name}: there is no such {group}{nearest(name, choices)}; {known}")
    return path


def load_table(group: str, name: str) -> TableConfig:
    """Return a table by its name, or from a file; see :func:`conf_file`.

    Raises:
        UserError: there is none, or it is not complete and consistent.
    """
    path = conf_file(group, name)
    table = typed_file(TableConfig, path)
    systems = [row.system for row in table.rows]
    problems = [f"system {system} is there twice" for system in systems if systems.count(system) > 1]
    for reference in (table.reference, *(row.reference for row in table.rows)):
        if reference not in (None, *systems):
            problems.append(f"reference {reference} is no row")
    if table.layout not in LAYOUTS:
        problems.append(f"layout {table.layout} is not one of {', '.join(LAYOUTS)}")
    if problems:
        raise UserError(f"{group}={name}: {path}: {problems[0]}")
    return table


def choose_rows(tables: Iterable[TableConfig], cfg: SweepConfig) -> None:
    """Keep the rows of ``only`` in the tables, and set their ``reference``.

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
    """Check that every override of all rows changes at least one row of each table.

    Raises:
        UserError: no row has that key, or every row of a table sets it itself.
    """
    for word, table in ((word, table) for word in common for table in tables):
        rows = [row for row in table.rows if not row.baseline]
        trained = [row.overrides if row.command == "train" else row.after for row in rows]
        concerned = trained if is_training(word) else [row.overrides for row in rows if row.command != "train"]
        if not concerned:
            raise UserError(
                f"{word}: unknown config key {_key(word)!r} in {table.title!r}, whose rows are trainings alone"
            )
        if all(_key(word) in map(_key, words) for words in concerned):
            raise UserError(
                f"{word}: every row of {table.title!r} sets {_key(word)} itself; rows.<row>=[{word}] changes one"
            )


def plan(
    table: TableConfig, common: Sequence[str], extra: Mapping[str, Sequence[str]], seeds: int, out: Path
) -> list[Planned]:
    """Return the runs of every row; a row that does not compose, or is left out, has an error.

    Args:
        table: whose rows.
        common: overrides for all rows, of ``train`` or of the rows' other command; a row's own overrides win over them.
        extra: system -> further overrides of that row.
        seeds: runs per row, of seeds 0, 1, ...
        out: the runs' folders are in its ``runs``.
    """
    planned = []
    for row in table.rows:
        own = [*row.overrides, *extra.get(row.system, [])]
        keys = {_key(word) for word in own}
        if row.baseline is not None:
            planned.append(Planned(row, []))
        elif row.needs and not keys & {_key(way.split(",")[-1]) for way in row.needs}:
            ways = " or ".join(f"rows.{row.system}=[{way}]" for way in row.needs)
            planned.append(Planned(row, [], error=f"left out; to run it give {ways}", left_out=True))
        else:
            try:
                planned.append(Planned(row, _jobs(row, own, common, seeds, out)))
            except UserError as error:
                planned.append(Planned(row, [], error=str(error)))
    return planned


def _jobs(row: RowConfig, own: Sequence[str], common: Sequence[str], seeds: int, out: Path) -> list[Job]:
    """Return the jobs of a row, whose overrides are ``own``; see :func:`plan`."""
    training = [word for word in common if is_training(word)]
    trained = own if row.command == "train" else row.after
    runs = _seeds("train", common=training, own=trained, seeds=seeds, out=out)
    if row.command == "train":
        return runs
    other = [word for word in common if not is_training(word)]
    return _seeds(row.command, common=other, own=own, seeds=seeds, out=out, needs=runs)


def _seeds(
    command: str, *, common: Sequence[str], own: Sequence[str], seeds: int, out: Path, needs: Sequence[Job] = ()
) -> list[Job]:
    """Return a job per seed; each reads the run of ``needs`` that has its seed."""
    placeholder = ["run=-"] if needs else []
    cfg, words = effective(command, common, [*own, *placeholder])
    words = [word for word in words if word not in placeholder]
    jobs = []
    for seed in range(seeds):
        numbered, need = (*words, f"seed={seed}"), tuple(needs[seed : seed + 1])
        name = slug(command, [*numbered, *(f"run={job.folder.name}" for job in need)])
        read = tuple(f"run={quoted(str(job.folder))}" for job in need)
        jobs.append(Job(command, (*read, *numbered), out / "runs" / name, need))
        check_same(jobs[-1], cfg)
    return jobs


def is_training(word: str) -> bool:
    """Return whether an override is one of ``train``; an override that ``apply`` has as well goes to ``train``."""
    return re.split(r"[./]", _key(word))[0] in {*TrainConfig.__dataclass_fields__, "experiment"}


def _key(word: str) -> str:
    return word.strip().lstrip("+~").split("=", 1)[0]


def effective(command: str, common: Sequence[str], own: Sequence[str]) -> tuple[Any, list[str]]:
    """Compose a row's overrides and drop those of ``common`` that change nothing, so that they do not name another run.

    Args:
        command: of the row.
        common: overrides of all rows.
        own: overrides of this row.

    Returns:
        The composed configuration, and the overrides that matter.

    Raises:
        UserError: they do not compose.
    """
    # "++": a model's file need not list the key; the dataclass still says whether there is such a key.
    needed = [f"++{word}" if word.startswith("model.") else word for word in common]
    cfg = load_config(command, [*needed, *own])
    # All at once, as data=demo model.size=tiny; else one by one.
    for words in ([needed] if len(needed) > 1 else []) + [[word] for word in needed]:
        fewer = [word for word in needed if word not in words]
        try:
            if needed != fewer and load_config(command, [*fewer, *own]) == cfg:
                needed = fewer
        except UserError:  # the rest makes no sense without it
            continue
    return cfg, [*needed, *own]


def check_same(job: Job, cfg: Any) -> None:
    """Check that a finished run was made with the configuration ``cfg``, but for name and seed, or with the job's own.

    Raises:
        UserError: it was made with another one.
    """
    if not done(job.folder):
        return
    seed = job.overrides[-1].partition("=")[2]
    old, quick = read_run_config(job.folder), {"seed": int(seed), "name": job.folder.name}
    if not difference(old, OmegaConf.merge(cfg, quick), shared=True):
        return
    asked = load_config(
        job.command, [*job.overrides, f"name={quoted(job.folder.name)}"]
    )  # other keys may go by the seed
    changed = difference(old, asked, shared=True)
    if changed:
        raise UserError(
            f"{job.folder} holds a run with other settings ({'; '.join(changed[:3])}): delete it, or choose another out="
        )


def of_runs(patterns: Sequence[str]) -> tuple[TableConfig, dict[str, list[Job]]]:
    """Make a table of runs that are there: runs that differ in nothing but their seed are one row.

    Args:
        patterns: folders of runs, with ``*`` and ``?`` as in a shell.

    Returns:
        The table, and the runs of each of its systems.

    Raises:
        UserError: a pattern has no finished run, or a run no configuration of one.
    """
    groups = list[tuple[Any, list[Path]]]()  # a configuration without its seed, and its runs
    for folder in _finished(patterns):
        cfg: Any = OmegaConf.merge(read_run_config(folder), {"name": "", "seed": 0})
        if not all(OmegaConf.is_dict(cfg.get(part)) and "name" in cfg[part] for part in ("model", "paradigm")):
            raise UserError(
                f"{folder / 'config.yaml'}: it names no model or paradigm; a run is a folder that mmprofile.train wrote"
            )
        same = [folders for other, folders in groups if not difference(other, cfg)]
        if same:
            same[0].append(folder)
        else:
            groups.append((cfg, [folder]))
    labels = _distinct_labels(groups)
    first = [RowConfig(key, label, baseline=key) for key, label in BASELINES.items() if key != "ceiling"]
    rows = [*first, *map(RowConfig, labels), RowConfig("ceiling", BASELINES["ceiling"], baseline="ceiling")]
    jobs = {
        label: [Job("train", (), folder) for folder in folders]
        for label, (_, folders) in zip(labels, groups, strict=True)
    }
    return TableConfig("Runs", rows=rows), jobs


def _finished(patterns: Sequence[str]) -> list[Path]:
    """Return the folders of finished runs, each once, in the order of the patterns.

    Raises:
        UserError: a pattern has none.
    """
    folders = list[Path]()
    for pattern in patterns:
        matches = [Path(name) for name in sorted(glob.glob(str(Path(pattern).expanduser())))]
        finished = [folder for folder in matches if done(folder)]
        if not finished:
            raise UserError(f"runs={pattern}: no finished run there (a folder with metrics.json)")
        folders += [folder for folder in finished if folder not in folders]
    return folders


def _distinct_labels(groups: Sequence[tuple[Any, list[Path]]]) -> list[str]:
    """Return a label per configuration: its paradigm, else its model and paradigm, else the name of its first run."""
    labels = [cfg.paradigm.name for cfg, _ in groups]
    if len(set(labels)) < len(labels):
        labels = [f"{cfg.model.name} {cfg.paradigm.name}" for cfg, _ in groups]
    if len(set(labels)) < len(labels):
        labels = [folders[0].name for _, folders in groups]
    return labels
