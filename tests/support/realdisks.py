"""Small file systems that only the commands see, which run in a namespace of their own: they are full, or read-only."""

import shutil
import subprocess
from pathlib import Path

from tests.support.forkedruns import ForkedRuns

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
"""Starts a process that may mount what nobody else sees."""


def may_mount() -> bool:
    """Return whether this system lets us mount in a namespace of our own."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0


class Disk:
    """A file system in memory, mounted where the commands run.

    Args:
        runs: started inside :data:`NAMESPACE`; the disk is gone when it ends.
        folder: where it is mounted.
        options: of tmpfs, such as ``size=10m`` or ``nr_inodes=20``.
    """

    def __init__(self, runs: ForkedRuns, folder: Path, options: str) -> None:
        self.runs, self.folder = runs, folder
        self.seen.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", options, "none")

    @property
    def seen(self) -> Path:
        """The same folder for this process, which sees no such disk."""
        return Path(f"/proc/{self.runs.process.pid}/root{self.folder}")

    def remount(self, options: str) -> None:
        """Give it another size (``size=1g``), or make it read-only or writable (``ro``, ``rw``).

        Raises:
            subprocess.CalledProcessError: a file is open for writing, say.
        """
        self._mount("-o", f"remount,{options}")

    def _mount(self, *words: str) -> None:
        inside = ["nsenter", f"--target={self.runs.process.pid}", "--user", "--mount", "--preserve-credentials"]
        subprocess.run([*inside, "mount", *words, str(self.folder)], check=True, capture_output=True)
