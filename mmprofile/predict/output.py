"""The output file of ``predict``: written beside its place, continued after a kill, renamed at the end."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from mmprofile.config.settings import PredictConfig
from mmprofile.errors import UserError
from mmprofile.files import write_json


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

    def resume(self, batch_size: int, add: Callable[[Mapping[str, Any]], None]) -> int:
        """Return the number of users whose rows a killed command has written, in whole batches; the rest is cut off.

        Args:
            batch_size: users of a batch.
            add: is called with each of these rows.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            if self._said() is None or self._said() != self.identity:
                self.discard()
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if self.identity is not None:
                write_json(self._about, self.identity)
            self._partial.touch()
        except OSError as error:
            raise UserError(f"output={self.target}: cannot be written ({error.strerror})") from error
        end = done = 0
        batch: list[dict[str, Any]] = []
        with self._partial.open("r+b") as file:
            for line in file:
                try:
                    batch.append(json.loads(line if line.endswith(b"\n") else b""))
                except ValueError:  # cut off, or damaged when the machine went down
                    break
                if len(batch) == batch_size:
                    done, end = done + batch_size, file.tell()
                    for row in batch:
                        add(row)
                    batch = []
            file.truncate(end)
        return done

    def _said(self) -> Any:
        """Return what the rows there are of; None where that is not known."""
        try:
            return json.loads(self._about.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @contextmanager
    def rows(self) -> Iterator[TextIO]:
        """Give the file that rows are added to."""
        with self._writing(), self._partial.open("a", encoding="utf-8") as file:
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
        self._partial.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def finish(self, bad: int) -> None:
        """Put the rows in their place; an empty list of bad rows goes away."""
        self._partial.replace(self.target)
        self._about.unlink(missing_ok=True)
        if not bad:
            self.errors.unlink(missing_ok=True)
