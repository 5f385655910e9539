"""The command ``forget``: a person removed from all that was made of them, and the models that learned from them named."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from filelock import Timeout

from mmprofile.config.compose import read_run_config, typed
from mmprofile.config.data_settings import ForgetConfig
from mmprofile.config.targets import build
from mmprofile.erasing import Change, Person, changes_in, opened_files
from mmprofile.errors import UserError
from mmprofile.files import lock_of, read_json, read_json_lines
from mmprofile.inputs.data import find_data
from mmprofile.profile.schema import Schema

LEARNED = {"train": "trained on this person", "validation": "chosen and calibrated on this person"}
"""The split of a person -> what that means for a model."""


class Holding(Protocol):
    """What a prepared folder has of a person; ``splits``: split -> the ids of its users."""

    @property
    def folder(self) -> Path: ...
    @property
    def split(self) -> str | None: ...
    @property
    def splits(self) -> Mapping[str, set[str]]: ...


class PreparedData(Protocol):
    """The person in prepared folders; see :class:`datamodules.forgetting.PreparedFolders`."""

    person: Person
    holdings: list[Any]

    def check(self) -> None: ...
    def locked(self) -> ExitStack: ...
    def changes(self) -> Iterator[Change]: ...
    @property
    def sources(self) -> set[str]: ...


def main(cfg: ForgetConfig) -> None:
    """Say what there is of a person and, unless ``dry_run``, remove it.

    Raises:
        UserError: there is nothing of such a person, or a command is at work on what would change.
    """
    data: PreparedData = build(cfg.prepared)(str(cfg.user), [*cfg.folders])
    tops = [Path(path).expanduser() for path in (cfg.out, *cfg.files)]
    _check_folders(data, tops)
    # Prepared data come last: what they say of the person is needed to find the rest, also when this was killed and runs again.
    changes = [*changes_in([top for top in tops if top.exists()], data.person), *data.changes()]
    if not changes:
        looked = ", ".join(str(top) for top in tops)
        raise UserError(f"user={cfg.user}: there is nobody with this id in the prepared data, nor in {looked}")
    runs = [path.parent for top in tops if top.is_dir() for path in sorted(top.rglob("config.yaml"))]
    models = [line for run in runs for line in _learned(run, data)]
    if not cfg.dry_run:
        with data.locked():
            for change in changes:
                change.apply()
    for change in changes:
        print(f"{'would remove' if cfg.dry_run else 'removed'} {change.what}: {change.path}")
    for line in [*models, *_students(changes), *_advice(changes, data, cfg)]:
        print(line)


def _check_folders(data: PreparedData, tops: list[Path]) -> None:
    """Refuse to change what a command is at work on.

    Raises:
        UserError: names it.
    """
    data.check()
    for top in tops:
        for path in sorted(top.rglob("lock")) if top.is_dir() else ():
            try:
                with lock_of(path.parent).acquire(timeout=0):
                    pass
            except Timeout as error:
                raise UserError(
                    f"another process is at work on {path.parent}: forget the person when it has ended"
                ) from error
    if busy := opened_files([top for top in tops if top.exists()]):
        raise UserError(f"another process has {busy[0]} open: forget the person when it has ended")


def _learned(run: Path, data: PreparedData) -> Iterator[str]:
    """Yield what a run's model learned from the person, and the command that trains it without them."""
    if not any((run / name).exists() for name in ("model", "checkpoints")):
        return
    cfg: Any = read_run_config(run)
    if "task" in cfg:
        if any(path.name.startswith("predictions") for path in run.iterdir()) and _trains_on(cfg, data):
            yield f"{run}: its classifier may have been trained on this person's reviews; remove it and run mmprofile.apply again"
        return
    split = _split_in(run, cfg, data)
    if split in LEARNED:
        again = f"name={cfg.name}-again"
        words = shlex.join(["--config-path", str(run.resolve()), "--config-name", "config", again])
        yield f"{run}: its model was {LEARNED[split]}; remove it and train again: python -m mmprofile.train {words}"


def _trains_on(cfg: Any, data: PreparedData) -> bool:
    """Return whether the run whose profiles a classifier was shown learned from the person."""
    run = Path(cfg.run).expanduser()
    path = run / "config.yaml"
    return path.is_file() and _split_in(run, read_run_config(run), data) in LEARNED


def _split_in(run: Path, cfg: Any, data: PreparedData) -> str | None:
    """Return the person's split in a run: by the folder of its data or, where that cannot be told, by its test users."""
    try:
        settings: Any = typed("train", cfg)
        folder = find_data(settings.data, Schema.from_config(settings.profile)).folder
        of_run = [holding for holding in data.holdings if holding.folder.resolve() == folder.resolve()]
    except UserError:
        of_run = []
    if not of_run and (run / "predictions.jsonl").is_file():
        tested = {row.get("user_id") for row in read_json_lines(run / "predictions.jsonl")}
        of_run = [holding for holding in data.holdings if holding.splits["test"] == tested]
    return of_run[0].split if of_run else None


def _students(changes: list[Change]) -> Iterator[str]:
    """Yield the students of the folders in which labels or answers of the person were."""
    for folder in sorted({change.path.parent for change in changes}):
        for student in sorted(folder.glob("student*/made_of.json")):
            purpose = _purpose(student)
            yield (
                f"{student.parent}: this student may have learned from the person's labels (purpose: {purpose}); remove it, "
                "and run mmprofile.llm.vote and mmprofile.llm.distill again"
            )


def _purpose(made_of: Path) -> Any:
    """Return the purpose for which a student was made; None where the file does not say."""
    try:
        facts = read_json(made_of)
    except (OSError, ValueError):
        return None
    return facts.get("purpose") if isinstance(facts, dict) else None


def _advice(changes: list[Change], data: PreparedData, cfg: ForgetConfig) -> Iterator[str]:
    for change in changes:
        if change.path.name == "report.html":
            yield f"a report without the person: python -m mmprofile.report run={shlex.quote(str(change.path.parent))}"
    if data.sources:
        names = ", ".join(sorted(data.sources))
        yield f"remove the person from your own files, too, or a later preparation reads them again: {names}"
    if cfg.dry_run:
        yield "nothing was changed (dry_run=true)"
