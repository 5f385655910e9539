"""The output file of ``predict``: written beside its place, continued after a kill, renamed at the end."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mmprofile.config.settings import PredictConfig
from mmprofile.errors import UserError
from mmprofile.files import write_json


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
        target = Path(str(cfg.output)).expanduser()
        if target.is_dir():
            raise UserError(f"output={cfg.output}: this is a folder; give the name of a file")
        if cfg.input == "-":
            return cls(target, None)
        source, run = Path(cfg.input).expanduser(), Path(cfg.run).expanduser()
        if target.resolve() == source.resolve():
            raise UserError(f"output={cfg.output} is the input, which would be lost: give another name")
        weights = [path for path in (run / "model.safetensors", run / "model" / "model.safetensors") if path.is_file()]
        stamps = {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in (source, *weights)}
        return cls(target, {"files": stamps, "beams": cfg.beams, "batch_size": cfg.batch_size})

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

    def resume(self, batch_size: int, unusable: Counter[str]) -> int:
        """Return the number of users whose rows a killed command has written, in whole batches; the rest is cut off.

        Args:
            batch_size: users of a batch.
            unusable: the reasons why photos of these users could not be used are added to it.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            if self._said() is None or self._said() != self.identity:
                self._partial.unlink(missing_ok=True)
            if self.identity is not None:
                write_json(self._about, self.identity)
            self._partial.touch()
        except OSError as error:
            raise UserError(f"output={self.target}: cannot be written ({error.strerror})") from error
        end = done = 0
        batch: list[dict[str, Any]] = []
        with self._partial.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                batch.append(json.loads(line))
                if len(batch) == batch_size:
                    done, end = done + batch_size, file.tell()
                    unusable.update(reason for row in batch for reason in row["used"]["unusable_photos"].values())
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

    def finish(self, bad: int) -> None:
        """Put the rows in their place; an empty list of bad rows goes away."""
        self._partial.replace(self.target)
        self._about.unlink(missing_ok=True)
        if not bad:
            self.errors.unlink(missing_ok=True)
