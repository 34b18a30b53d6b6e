"""Stamps: which item each worker touches, and since when, in shared memory that outlives the worker.

A death or a hang is charged to exactly the item that is stamped.
"""

import os
import time
from multiprocessing.context import BaseContext
from typing import NamedTuple

_NOTHING = -1
_CELLS = 4  # pid, shard, row, monotonic nanoseconds


class Stamp(NamedTuple):
    """What the worker `pid` touches: a row of a shard, without progress for `seconds`."""

    pid: int
    shard: int
    row: int
    seconds: float


class Stamps:
    """The stamps of the workers of one rank, made before they start.

    Args:
        context: that starts them.
        num_workers: how many there are.
    """

    def __init__(self, context: BaseContext, num_workers: int) -> None:
        self._cells = context.RawArray("q", [_NOTHING] * (_CELLS * num_workers))

    def touch(self, worker: int, shard: int, row: int) -> None:
        """Worker number `worker`, this process, goes on with an item."""
        start = worker * _CELLS
        self._cells[start : start + _CELLS] = [os.getpid(), shard, row, time.monotonic_ns()]

    def leave(self, worker: int) -> None:
        """Worker number `worker` touches nothing: it waits for a ticket, or for its slice to be taken."""
        self._cells[worker * _CELLS + 1] = _NOTHING

    def read(self) -> list[Stamp]:
        """The items that are being touched."""
        cells, now = self._cells[:], time.monotonic_ns()
        stamps = [cells[start : start + _CELLS] for start in range(0, len(cells), _CELLS)]
        return [Stamp(pid, shard, row, (now - since) / 1e9) for pid, shard, row, since in stamps if shard != _NOTHING]
