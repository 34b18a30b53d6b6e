"""Stamps: which item each worker touches, and since when, in shared memory that outlives the worker.

A death or a hang is charged to exactly the item that is stamped.
"""

import faulthandler
import os
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

_NOTHING = -1
_CELLS = 4  # pid, monotonic nanoseconds, row, shard: written in this order, so that no time is taken for another's


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
        timeout_seconds: a worker that makes no progress ends itself after twice this time, rank or no rank.
    """

    def __init__(self, context: BaseContext, num_workers: int, timeout_seconds: float) -> None:
        self._cells = context.RawArray("q", [_NOTHING] * (_CELLS * num_workers))
        self._timeout_seconds = timeout_seconds

    def of(self, worker: int) -> "WorkerStamp":
        """The stamp of worker number `worker`, this process."""
        return WorkerStamp(self._cells, worker * _CELLS, self._timeout_seconds)

    def read(self) -> list[Stamp]:
        """The items that are being active."""
        cells, now = self._cells[:], time.monotonic_ns()
        stamps = [cells[start : start + _CELLS] for start in range(0, len(cells), _CELLS)]
        return [Stamp(pid, shard, row, (now - since) / 1e9) for pid, since, row, shard in stamps if shard != _NOTHING]


class WorkerStamp:
    """What this worker touches: one item at a time.

    Should its rank be gone, nobody else would end a worker that is stuck in native code and holds the GIL: a timer of
    faulthandler, which needs no Python, does.
    """

    def __init__(self, cells: Any, start: int, timeout_seconds: float) -> None:
        self._cells, self._start, self._timeout_seconds = cells, start, timeout_seconds
        self._armed = 0.0  # when the timer was set; 0: it is not

    def mark_active(self, shard: int, rows: Sequence[int]) -> None:
        """It goes on with the item in the one row in `rows`."""
        (row,) = rows
        now = time.monotonic()
        if now - self._armed > self._timeout_seconds / 2:
            faulthandler.dump_traceback_later(2 * self._timeout_seconds, exit=True)
            self._armed = now
        self._cells[self._start : self._start + _CELLS] = [os.getpid(), time.monotonic_ns(), row, shard]

    def mark_idle(self) -> None:
        """It touches nothing: it waits for a ticket, or for its slice to be taken."""
        self._cells[self._start + _CELLS - 1] = _NOTHING
        if self._armed:
            faulthandler.cancel_dump_traceback_later()
            self._armed = 0.0
