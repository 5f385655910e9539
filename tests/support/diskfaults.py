"""Faults of the disk, injected into a process: the n-th operation that writes below a folder fails, or the process ends there.

An operation is a file that is opened for writing, a write to it, a rename, a removal, or a file that safetensors writes.
"""

import builtins
import errno
import io
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUFFER = 1 << 20
"""Bytes that a file collects before it writes them: a run then writes a few hundred times instead of some thousands."""


@dataclass
class Fault:
    """What happens, and when.

    Attributes:
        folder: operations below it count.
        at: which operation it strikes, from 1; 0: none, they are only counted.
        kind: ``kill`` (the process ends), ``full`` (no space left), ``io`` (an I/O error), ``short`` (half of the bytes are
            written, then no space is left). All but ``kill`` go on for every later operation.
        count: file that the number of operations is written to.
    """

    folder: str
    at: int = 0
    kind: str = "full"
    count: str = ""
    seen: int = 0

    def install(self) -> None:
        """Let the functions that write count and fail in this process."""
        import safetensors.torch

        for module, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "mkdir"), (os, "fsync")):
            setattr(module, name, self._watched(getattr(module, name)))
        safetensors.torch.save_file = self._watched(safetensors.torch.save_file, place=1)
        real = io.open

        def open_(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self._concerns(file):
                return real(file, mode, buffering, *args, **options)
            self._strike(file)
            raw = _File(file, mode.replace("b", "").replace("t", ""), self)
            if "b" in mode and buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw, BUFFER) if "+" in mode else io.BufferedWriter(raw, BUFFER)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **options)

        io.open = builtins.open = open_  # type: ignore[assignment]

    def _concerns(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(Path(path).absolute()).startswith(self.folder)

    def _watched(self, function: Any, place: int = 0) -> Any:
        def watched(*args: Any, **options: Any) -> Any:
            target = args[place] if len(args) > place else None
            if isinstance(target, int):
                target = os.readlink(f"/proc/self/fd/{target}")
            if self._concerns(target):
                self._strike(target)
            return function(*args, **options)

        return watched

    def _strike(self, path: Any) -> bool:
        """Count an operation; end the process or fail where it is due. Return whether half of a write goes through first."""
        self.seen += 1
        if self.count:
            descriptor = os.open(self.count, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.write(descriptor, str(self.seen).encode())
            os.close(descriptor)
        if not self.at or self.seen < self.at:
            return False
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "short" and self.seen == self.at:
            return True
        number = errno.EIO if self.kind == "io" else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(path))


class _File(io.FileIO):
    """A file whose writes are operations."""

    def __init__(self, path: Any, mode: str, fault: Fault) -> None:
        super().__init__(path, mode)
        self._fault = fault

    def write(self, content: Any) -> int:
        """Write what there is, or half of it."""
        view = memoryview(content).cast("B")
        return super().write(view[: max(1, len(view) // 2)] if self._fault._strike(self.name) else view)
