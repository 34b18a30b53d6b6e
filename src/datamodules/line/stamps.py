"""Stamps: which item each worker touches, and since when, in shared memory that outlives the worker.

A death or a hang is charged to exactly the item that is stamped.
"""

import os
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

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

    def of(self, worker: int) -> "WorkerStamp":
        """The stamp of worker number `worker`, this process."""
        return WorkerStamp(self._cells, worker * _CELLS)

    def read(self) -> list[Stamp]:
        """The items that are being touched."""
        cells, now = self._cells[:], time.monotonic_ns()
        stamps = [cells[start : start + _CELLS] for start in range(0, len(cells), _CELLS)]
        return [Stamp(pid, shard, row, (now - since) / 1e9) for pid, shard, row, since in stamps if shard != _NOTHING]


class WorkerStamp:
    """What this worker touches: one item at a time."""

    def __init__(self, cells: Any, start: int) -> None:
        self._cells, self._start = cells, start

    def touch(self, shard: int, rows: Sequence[int]) -> None:
        """It goes on with the item in the one row in `rows`."""
        (row,) = rows
        self._cells[self._start : self._start + _CELLS] = [os.getpid(), shard, row, time.monotonic_ns()]

    def let_go(self) -> None:
        """It touches nothing: it waits for a ticket, or for its slice to be taken."""
        self._cells[self._start + 1] = _NOTHING
