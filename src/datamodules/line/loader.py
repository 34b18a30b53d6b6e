"""The loader: leases shards for a rank, hands their rows to DataLoader workers as tickets, and yields their batches.

Workers are started by a fork server: forking a process that has threads or CUDA can deadlock, and spawning imports
torch anew for each worker (about 4 s of CPU; a fork from the server costs 0.05 s, after one such import in all).
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from multiprocessing.connection import wait
from typing import Any

from torch.utils.data import DataLoader

from datamodules.errors import EnvironmentFailure
from datamodules.line.frames import Batch, FrameRequest, FrameStream, Ticket
from datamodules.line.rank import OpenShard, Rank

_IDLE_SECONDS = 0.5
_MAX_PATIENCE_SECONDS = 5.0  # an idle rank looks that often whether another has died or lags
_LOOK_SECONDS = 2.0  # whether another rank has committed one of this rank's shards


class FrameLoader:
    """The batches of all shards that `rank` gets to lease, until nothing is left to do for anyone.

    Args:
        rank: leases shards, and is given their results by whoever consumes the batches.
        root: folder that items' paths are relative to.
        request: what the extractor wants.
        num_workers: worker processes; 0: read in this process.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self, rank: Rank, root: str, request: FrameRequest, num_workers: int, pin_memory: bool = False
    ) -> None:
        self._rank, self._root, self._request = rank, root, request
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._tickets: Any = None
        self._waiting: deque[Ticket] = deque()  # of leased shards, not yet with the workers
        self._with_workers: dict[tuple[int, int], Ticket] = {}  # by shard and last row, whose end is the ticket's
        self._next_lease = self._next_look = 0.0
        self._patience = _IDLE_SECONDS

    def __iter__(self) -> Iterator[Batch]:
        others = set(multiprocessing.active_children())
        batches = iter(self._start())
        try:
            idle = False
            while not self._hand_out():
                if self._with_workers:
                    idle = False
                    yield self._next(batches)
                else:  # Lightning asks for a batch before it hands over the one before: give it its turn
                    if idle:
                        time.sleep(_IDLE_SECONDS)
                    idle = True
                    yield Batch(shard=-1, rows=[], frame_idx=[], ends=[], results=[])
        finally:
            self._stop(set(multiprocessing.active_children()) - others)
            del batches  # DataLoader's own end: it waits for its workers

    def _start(self) -> DataLoader[Batch]:
        context: Any = None
        if self._num_workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
        self._tickets = context.SimpleQueue() if context else queue.SimpleQueue()
        self._rank.activity.workers = self._num_workers
        return DataLoader(
            FrameStream(self._rank.run.plan.path, self._root, self._tickets, self._request),
            batch_size=None,
            num_workers=self._num_workers,
            multiprocessing_context=context,
            worker_init_fn=die_with_parent if context else None,
            in_order=False,
            pin_memory=self._pin_memory,
        )

    def _next(self, batches: Iterator[Batch]) -> Batch:
        started = time.monotonic()
        try:
            batch = next(batches)
        except EnvironmentFailure as error:  # DataLoader puts the worker's traceback before its message
            raise EnvironmentFailure(str(error).strip().rpartition("EnvironmentFailure: ")[2]) from error
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise EnvironmentFailure(
                f"a worker process died ({error}); what was finished is safe: run the same command again"
            ) from error
        self._rank.activity.spend("wait", time.monotonic() - started)
        for end in batch["ends"]:
            self._rank.activity.spend("read", end["read_seconds"])
            self._rank.activity.spend("transform", end["transform_seconds"])
            self._with_workers.pop((batch["shard"], end["row"]), None)
        return batch

    def _stop(self, workers: set[Any]) -> None:
        for worker in workers:
            if self._with_workers:  # left early: nothing waits for what is in hand, which may take long
                worker.kill()
            else:
                self._tickets.put(None)

    def _hand_out(self) -> bool:
        """Keep the workers in tickets, leasing as they run short; whether nothing is left to do, for any rank."""
        if time.monotonic() > self._next_look:
            self._rank.abandon_committed()
            self._next_look = time.monotonic() + _LOOK_SECONDS
        while len(self._with_workers) < 2 * max(1, self._num_workers) and (self._waiting or self._lease()):
            ticket = self._waiting.popleft()
            if ticket.shard in self._rank.open:  # else another rank has committed it
                self._with_workers[ticket.shard, ticket.rows[-1]] = ticket
                self._tickets.put(ticket)
        return not self._with_workers and self._rank.finished()

    def _lease(self) -> bool:
        if time.monotonic() < self._next_lease:
            return False
        opened = self._rank.lease()
        if opened is None:
            self._next_lease = time.monotonic() + self._patience
            self._patience = min(2 * self._patience, _MAX_PATIENCE_SECONDS)
            return False
        self._patience = _IDLE_SECONDS
        self._waiting.extend(tickets(opened, self._request.slice_frames))
        return True


def tickets(opened: OpenShard, slice_frames: int) -> Iterator[Ticket]:
    """The tickets of a shard that still have a row without a result.

    They depend on the plan alone: a video or frame sequence is one, and so are up to `slice_frames` single images in a
    row. One that was done in part is done again whole, because its slices are the extractor's micro-batches.
    """
    missing = set(opened.missing)
    for is_image, group in groupby(range(len(opened.items)), key=lambda row: len(opened.items[row].frames) == 1):
        rows = list(group)
        step = slice_frames if is_image else 1
        for start in range(0, len(rows), step):
            ticket = Ticket(opened.shard.number, tuple(rows[start : start + step]))
            if missing.intersection(ticket.rows):
                yield ticket


def die_with_parent(worker: int) -> None:
    """Make this worker process end when its rank does, however that ends, and leave signals to the rank.

    Workers are children of the fork server, so DataLoader's own watch, over the parent's process id, sees nothing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = multiprocessing.parent_process()
    assert rank is not None

    def watch() -> None:
        wait([rank.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-rank", daemon=True).start()
