"""Which item each worker works on, and since when: in shared memory, which outlives a worker that dies.

So a death or a hang is charged to exactly the item that the worker had marked active.
"""

import faulthandler
import os
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from typing import NamedTuple

from torch.utils.data import get_worker_info

_IDLE = -1  # the shard of a worker that waits
_CELLS = 4  # of each worker, in the order in which they are written: process id, time in monotonic ns, row, shard


class ActiveItem(NamedTuple):
    """An item that a worker works on.

    Attributes:
        pid: process id of the worker.
        shard: index of the item's shard in the plan.
        row: row of the item in that shard.
        seconds: time since the worker last made progress.
    """

    pid: int
    shard: int
    row: int
    seconds: float


class WorkerProgress:
    """Progress of the workers of one rank: an `ActivityMonitor` in each worker, which the rank reads.

    The rank makes it before the workers start, and they inherit its memory.

    A worker that is stuck in native code and holds the GIL can be ended only from outside, by its rank. If the rank is
    gone, a timer of faulthandler, which runs without Python, ends the worker.

    Args:
        context: starts the workers.
        num_workers: number of workers.
        timeout_seconds: a worker without progress ends itself after twice this time.
    """

    def __init__(self, context: BaseContext, num_workers: int, timeout_seconds: float) -> None:
        self._cells = context.RawArray("q", [_IDLE] * (_CELLS * num_workers))
        self._timeout_seconds = timeout_seconds
        self._armed_at = 0.0  # when this worker's timer was set, in monotonic s; 0: it is not set

    def read(self) -> list[ActiveItem]:
        """Return the active items of all workers."""
        # A worker writes the time before the item, and here the time is read after the item. So an item may get the
        # time of the next one, which does no harm, but never that of the one before, which could look like a timeout.
        cells = self._cells[:]
        later, now = self._cells[:], time.monotonic_ns()
        active = []
        for start in range(0, len(cells), _CELLS):
            pid, _, row, shard = cells[start : start + _CELLS]
            if shard != _IDLE:
                active.append(ActiveItem(pid, shard, row, (now - later[start + 1]) / 1e9))
        return active

    def mark_active(self, shard: int, rows: Sequence[int]) -> None:
        """Note that this worker makes progress with an item. `rows` has the item's row only."""
        (row,) = rows
        now = time.monotonic()
        if now - self._armed_at > self._timeout_seconds / 2:  # not at every frame: setting the timer starts a thread
            faulthandler.dump_traceback_later(2 * self._timeout_seconds, exit=True)
            self._armed_at = now
        start = self._start()
        self._cells[start : start + _CELLS] = [os.getpid(), time.monotonic_ns(), row, shard]

    def mark_idle(self) -> None:
        """Note that this worker waits: for a ticket, or for its batch to be taken."""
        self._cells[self._start() + _CELLS - 1] = _IDLE
        if self._armed_at:
            faulthandler.cancel_dump_traceback_later()
            self._armed_at = 0.0

    def _start(self) -> int:
        worker = get_worker_info()
        assert worker is not None  # a rank without workers records its own activity
        return worker.id * _CELLS
