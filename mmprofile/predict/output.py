"""The output file of ``predict``: written beside its place, continued after a kill, renamed at the end.

Several processes (:mod:`mmprofile.predict.ranks`) each write a file of their own, which are joined at the end.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from mmprofile.config.settings import PredictConfig
from mmprofile.errors import UserError
from mmprofile.files import parse_json, read_json, whole, write_json
from mmprofile.predict.ranks import Ranks

AddRow = Callable[[Mapping[str, Any]], object]
"""Is called with each row that is found written."""


def photo_root(cfg: PredictConfig) -> Path:
    """Return the folder that photos must lie in: by default that of the input, or the current one for standard input."""
    return Path(cfg.photo_root or ("." if cfg.input == "-" else Path(cfg.input).parent)).expanduser()


@dataclass(frozen=True)
class OutputFile:
    """The output of one command.

    Attributes:
        target: the file; until it is whole, its rows are in ``<target>.partial``, and ``<target>.partial.json`` says what of.
        identity: what its rows depend on; None: unknown (standard input), so nothing can be continued.
    """

    target: Path
    identity: dict[str, Any] | None

    @classmethod
    def of(cls, cfg: PredictConfig) -> "OutputFile":
        """Return the output of a command.

        Raises:
            UserError: it is the input, or a folder.
        """
        target = Path(str(cfg.output)).expanduser().resolve()  # of a link, the file that it leads to
        if target.is_dir():
            raise UserError(f"output={cfg.output}: this is a folder; give the name of a file")
        output = cls(target, None)
        if cfg.input == "-":
            return output
        source, run = Path(cfg.input).expanduser().resolve(), Path(cfg.run).expanduser()
        if source in (target, output.errors, output._partial, output._about):
            raise UserError(f"output={cfg.output} writes the input, which would be lost: give another name")
        model = (run / "config.yaml", run / "model.safetensors", run / "model" / "model.safetensors")
        stats = {str(path.resolve()): path.stat() for path in (source, *model) if path.is_file()}
        return replace(
            output,
            identity={
                "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
                "photo_root": str(photo_root(cfg).resolve()),
                "photos": OmegaConf.to_container(cfg.photos),
                "beams": cfg.beams,
                "risk": cfg.risk,
                "purpose": cfg.purpose,
                "captioner": OmegaConf.to_container(cfg.captioner),
                "batch_size": cfg.batch_size,
            },
        )

    @property
    def errors(self) -> Path:
        """The file that lists the rows that are no users."""
        return self.target.with_name(f"{self.target.stem}.errors.jsonl")

    @property
    def _partial(self) -> Path:
        return self.target.with_name(f"{self.target.name}.partial")

    @property
    def _about(self) -> Path:
        return self.target.with_name(f"{self.target.name}.partial.json")

    def resume(self, batch_size: int, ranks: Ranks, add: AddRow) -> int:
        """Return the number of users whose rows a killed command has written, in whole batches; the rest is cut off.

        The files of another number of processes are joined first, as far as no batch is missing.

        Args:
            batch_size: users of a batch.
            ranks: the processes of this command; the first calls this before the others.
            add: is called with each of these rows.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            if not ranks.first:
                return whole_batches(self._partial, batch_size, add)
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if self._said() is None or self._said() != self.identity:
                self.discard()
            if self.identity is not None:
                write_json(self._about, self.identity)
            start = whole_batches(self._partial, batch_size, add)
            for path, (begun, count) in self._parts().items():
                if begun != start:  # is in the joined file already
                    path.unlink()
                elif count != ranks.count:
                    for rank in range(count):
                        whole_batches(self.part(start, Ranks(rank, count)), batch_size)
                    return self.join(start, count, batch_size, add)
        except OSError as error:
            raise UserError(f"output={self.target}: cannot be written ({error.strerror})") from error
        return start

    def part(self, start: int, ranks: Ranks) -> Path:
        """Return the file that a process writes its rows into, those of users from number ``start`` on."""
        name = self._partial.name
        return self._partial if ranks.alone else self.target.with_name(f"{name}.{start}.{ranks.rank}of{ranks.count}")

    def _parts(self) -> dict[Path, tuple[int, int]]:
        """Return the files of several processes, each with the user it begins from and the number of processes."""
        name = re.compile(rf"{re.escape(self._partial.name)}\.(\d+)\.\d+of(\d+)")
        found = {path: name.fullmatch(path.name) for path in self.target.parent.iterdir()}
        return {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}

    def join(self, start: int, count: int, batch_size: int, add: AddRow) -> int:
        """Join what ``count`` processes have written from user ``start`` on; return the number of users that are there now."""
        parts = [self.part(start, Ranks(rank, count)) for rank in range(count)]
        users = start
        with self._writing(), whole(self._partial) as joined, ExitStack() as stack:
            shutil.copyfile(self._partial, joined)
            target = stack.enter_context(joined.open("ab"))
            for file in cycle([stack.enter_context(part.open("rb")) for part in parts]):
                batch = [*islice(file, batch_size)]
                users += len(batch)
                target.writelines(batch)
                for line in batch:
                    add(parse_json(line))
                if len(batch) < batch_size:
                    break
        for part in parts:
            part.unlink()
        return users

    def _said(self) -> Any:
        """Return what the rows there are of; None where that is not known."""
        try:
            return read_json(self._about)
        except (OSError, ValueError):
            return None

    @contextmanager
    def rows(self, part: Path) -> Iterator[TextIO]:
        """Give the file that rows are added to; ``part``: see :meth:`part`."""
        with self._writing(), part.open("a", encoding="utf-8") as file:
            yield file

    @contextmanager
    def bad_rows(self) -> Iterator[TextIO]:
        """Give the file that lists rows that are no users; it is written anew, as the input is read anew."""
        with self._writing(), self.errors.open("w", encoding="utf-8") as file:
            yield file

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"output={self.target}: cannot be written ({error.strerror}); the same command goes on from there"
            ) from error

    def discard(self) -> None:
        """Remove what a killed command has left."""
        for path in (self._partial, self._about, *self._parts()):
            path.unlink(missing_ok=True)

    def finish(self, bad: int) -> None:
        """Put the rows in their place; an empty list of bad rows goes away."""
        self._partial.replace(self.target)
        self._about.unlink(missing_ok=True)
        if not bad:
            self.errors.unlink(missing_ok=True)


def whole_batches(path: Path, batch_size: int, add: AddRow = len) -> int:
    """Return the number of rows in a file that is made if it is not there, in whole batches; the rest is cut off."""
    end = rows = 0
    batch: list[dict[str, Any]] = []
    path.touch()
    with path.open("r+b") as file:
        for line in file:
            try:
                batch.append(parse_json(line if line.endswith(b"\n") else b""))
            except ValueError:  # cut off, or damaged when the machine went down
                break
            if len(batch) == batch_size:
                rows, end = rows + batch_size, file.tell()
                for row in batch:
                    add(row)
                batch = []
        file.truncate(end)
    return rows
