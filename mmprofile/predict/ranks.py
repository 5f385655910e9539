"""The processes that share the work of ``predict``: ``torchrun --nproc-per-node 2 -m mmprofile.predict run=... ...``.

Of every ``count`` batches process ``rank`` computes one, so batches are those of a single process and so are the rows.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from torch import distributed

from mmprofile.errors import UserError

T = TypeVar("T")
WAIT = timedelta(days=30)
"""How long a process waits for the others: torchrun ends all if one fails."""


@dataclass(frozen=True)
class Ranks:
    """A process (from 0) among those of a command."""

    rank: int
    count: int

    @property
    def first(self) -> bool:
        """Whether this process checks the command, joins what the others have written, and speaks to the user."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    def wait(self) -> None:
        """Return when all processes are here.

        Raises:
            UserError: one of them has ended.
        """
        if self.alone:
            return
        try:
            distributed.barrier()
        except RuntimeError as error:
            raise UserError("another process of this command has ended, which has said why") from error

    def share(self, users: Iterable[T], batch_size: int) -> Iterator[T]:
        """Yield the users of this process's batches."""
        return (user for number, user in enumerate(users) if number // batch_size % self.count == self.rank)


@contextmanager
def started_ranks() -> Iterator[Ranks]:
    """Give this process among those that torchrun has started, joined so that they can wait for each other."""
    ranks = Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if ranks.alone:
        yield ranks
        return
    distributed.init_process_group("gloo", timeout=WAIT)
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()
