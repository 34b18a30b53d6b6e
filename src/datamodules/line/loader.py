"""The loader: leases shards for a rank, hands their rows to DataLoader workers as tickets, and yields their batches.

Workers are started by a fork server: forking a process that has threads or CUDA can deadlock, and spawning imports
torch and the extractor's module anew for each worker (4 to 8 s of CPU; a fork from the server costs 0.05 s, after one
such import in all).

A worker that dies, or makes no progress for too long and is killed, costs the item that it has stamped one attempt;
new workers go on with what was not delivered. So does a file that cannot be read for now, which is tried again later.
An item without attempts left becomes a failure (`Rank.strike`), as soon as another one is read well: if none is, but
one after another uses up its attempts, it is not the items that are bad.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import Any

from torch.utils.data import DataLoader

from datamodules.errors import EnvironmentFailure
from datamodules.line.frames import GIVEN_UP, Batch, End, FrameRequest, FrameStream, Ticket
from datamodules.line.rank import OpenShard, Rank
from datamodules.line.stamps import Stamps

_IDLE_SECONDS = 0.5
_MAX_PATIENCE_SECONDS = 5.0  # an idle rank looks that often whether another has died or lags
_LOOK_SECONDS = 2.0  # whether another rank has committed one of this rank's shards
_LOOK_AT_WORKERS_SECONDS = 0.5
_MAX_IDLE_DEATHS = 3  # in a row
_MAX_DOUBTFUL = 20
_TRANSIENT = ("io", "memory")  # what a worker that lives may say of an item that is worth another attempt


class FrameLoader:
    """The batches of all shards that `rank` gets to lease, until nothing is left to do for anyone, or it is to stop.

    Args:
        rank: leases shards, and is given their results by whoever consumes the batches.
        root: folder that items' paths are relative to.
        request: what the extractor wants.
        num_workers: worker processes; 0: read in this process.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
        timeout_seconds: a worker that makes no progress for so long is killed; with workers only.
    """

    def __init__(
        self,
        rank: Rank,
        root: str,
        request: FrameRequest,
        num_workers: int,
        pin_memory: bool = False,
        timeout_seconds: float = 120.0,
    ) -> None:
        self._rank, self._root, self._request = rank, root, request
        self._num_workers, self._pin_memory, self._timeout_seconds = num_workers, pin_memory, timeout_seconds
        self._waiting: deque[Ticket] = deque()  # of leased shards, not yet with the workers
        self._with_workers: dict[tuple[int, int], Ticket] = {}  # by shard and last row, whose end is the ticket's
        self._again: set[tuple[int, int]] = set()  # shard and row of items in these that are to be tried again
        self._doubtful: dict[tuple[int, int], tuple[str, str]] = {}  # their last strike, since one was read well
        self._has_read = False
        self._num_idle_deaths = 0
        self._overdue: dict[int, str] = {}  # pid: why its worker was killed
        self._next_lease = self._next_look = 0.0
        self._patience = _IDLE_SECONDS

    def __iter__(self) -> Iterator[Batch]:
        while True:
            with self._workers() as (batches, workers, stamps):
                try:
                    yield from self._batches(batches, workers)
                    return
                except _WorkerDied:
                    self._charge(workers, stamps)
                    for worker in workers:  # also one that hangs: what they have in hand is handed out anew
                        worker.kill()

    def _batches(self, batches: Iterator[Batch], workers: list[Any]) -> Iterator[Batch]:
        idle = False
        while not self._hand_out():
            if self._with_workers:
                idle = False
                yield self._next(batches, workers)
            else:  # Lightning asks for a batch before it hands over the one before: give it its turn
                if idle:
                    time.sleep(_IDLE_SECONDS)
                idle = True
                yield Batch(shard=-1, rows=[], frame_idx=[], ends=[], results=[])

    @contextmanager
    def _workers(self) -> Iterator[tuple[Iterator[Batch], list[Any], Stamps | None]]:
        """Workers that take tickets, watched; the iterator over what they yield, their processes, their stamps."""
        context: Any = multiprocessing.get_context("forkserver")
        stamps = Stamps(context, self._num_workers) if self._num_workers else None
        self._tickets: Tickets | LocalTickets = Tickets(context) if self._num_workers else LocalTickets()
        others = set(multiprocessing.active_children())
        batches = iter(self._dataloader(context, stamps))
        workers = list(set(multiprocessing.active_children()) - others)
        watching = threading.Event()
        if stamps:
            threading.Thread(target=self._watch, args=(stamps, watching), name="watchdog", daemon=True).start()
        try:
            yield batches, workers, stamps
        finally:
            watching.set()
            for worker in workers:
                if self._with_workers or worker.exitcode is not None:  # nothing waits for what is in hand any more
                    worker.kill()
                else:
                    self._tickets.put(None)
            del batches  # DataLoader's own end: it waits for its workers

    def _dataloader(self, context: Any, stamps: Stamps | None) -> DataLoader[Batch]:
        transform: Any = self._request.transform
        needed = [getattr(transform, "func", transform).__module__] if transform else []
        context.set_forkserver_preload([__name__, *needed])
        self._rank.activity.workers = self._num_workers
        return DataLoader(
            FrameStream(self._rank.run.plan.path, self._root, self._tickets, self._request, stamps or self._rank),
            batch_size=None,
            collate_fn=_as_it_is,  # the default would make a tensor, and a file descriptor, of each array in `results`
            num_workers=self._num_workers,
            multiprocessing_context=context if self._num_workers else None,
            worker_init_fn=die_with_parent if self._num_workers else None,
            in_order=False,
            timeout=_LOOK_AT_WORKERS_SECONDS if self._num_workers else 0,
            pin_memory=self._pin_memory,
        )

    def _next(self, batches: Iterator[Batch], workers: list[Any]) -> Batch:
        started = time.monotonic()
        batch = None
        while batch is None:
            if any(worker.exitcode is not None for worker in workers):  # DataLoader looks only when nothing has come
                raise _WorkerDied
            try:
                batch = next(batches)
            except EnvironmentFailure as error:  # DataLoader puts the worker's traceback before its message
                raise EnvironmentFailure(str(error).strip().rpartition("EnvironmentFailure: ")[2]) from error
            except RuntimeError as error:
                if "exited unexpectedly" not in str(error) and "timed out after" not in str(error):
                    raise
        self._num_idle_deaths = 0
        self._rank.activity.spend("wait", time.monotonic() - started)
        batch["alone"] = self._rank.is_suspect(batch["shard"], batch["rows"])
        for end in batch["ends"]:
            self._rank.activity.spend("read", end["read_seconds"])
            self._rank.activity.spend("transform", end["transform_seconds"])
        batch["ends"] = [end for end in batch["ends"] if self._is_final(batch["shard"], end)]
        return batch

    def _is_final(self, shard: int, end: End) -> bool:
        """Take note of an item's end; whether it is one, or the item is to be tried again."""
        place, failed = (shard, end["row"]), end["reason_class"]
        ticket = self._with_workers.pop(place, None)
        if failed in _TRANSIENT:
            assert end["reason"] is not None
            if self._strike(*place, end["reason"], failed):
                self._again.add(place)
        elif failed != GIVEN_UP:
            self._has_read = True
            self._fail_doubtful()
        if ticket and (again := {(shard, row) for row in ticket.rows} & self._again):
            self._again -= again
            self._waiting.append(ticket)  # behind all others: it may be a matter of time
        return failed not in (*_TRANSIENT, GIVEN_UP)

    def _strike(self, shard: int, row: int, reason: str, reason_class: str) -> bool:
        """`Rank.strike`, but with the item's last one wait until another item is read well."""
        if self._rank.num_strikes(shard, row) + 1 < self._rank.tolerance.max_attempts:
            return self._rank.strike(shard, row, reason, reason_class)
        self._doubtful[shard, row] = reason, reason_class
        if len(self._doubtful) > _MAX_DOUBTFUL:
            raise self._no_input(reason)
        return False

    def _fail_doubtful(self) -> None:
        while self._doubtful:
            place, strike = self._doubtful.popitem()
            self._rank.strike(*place, *strike)

    def _no_input(self, reason: str) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"{len(self._doubtful)} items in a row failed, the last one: {reason}. Is something wrong with the mount, "
            "the memory or the installation? What is done is safe: mend it, and run the same command again"
        )

    def _watch(self, stamps: Stamps, done: threading.Event) -> None:
        while not done.wait(min(1.0, self._timeout_seconds / 4)):
            for stamp in stamps.read():
                if stamp.seconds > self._timeout_seconds:
                    with suppress(ProcessLookupError):  # it has died by itself
                        os.kill(stamp.pid, signal.SIGKILL)
                        self._overdue[stamp.pid] = f"timed out after {self._timeout_seconds:g} s"

    def _charge(self, workers: list[Any], stamps: Stamps | None) -> None:
        """Charge each dead worker to the item it had stamped, and take back all tickets that are not delivered."""
        assert stamps is not None
        died = {worker.pid: worker.exitcode for worker in workers if worker.exitcode is not None}
        charged = [stamp for stamp in stamps.read() if stamp.pid in died]
        self._num_idle_deaths += not charged
        if self._num_idle_deaths >= _MAX_IDLE_DEATHS:
            raise EnvironmentFailure(
                f"workers died before they touched an item (exit codes {sorted(died.values())}): out of memory, "
                "or a broken installation? What is done is safe: mend it, and run the same command again"
            )
        for stamp in charged:
            overdue = self._overdue.get(stamp.pid) if died[stamp.pid] == -signal.SIGKILL else None
            self._strike(stamp.shard, stamp.row, overdue or _death(died[stamp.pid]), "timeout" if overdue else "crash")
        self._waiting.extendleft(reversed(self._with_workers.values()))
        self._with_workers.clear()

    def _hand_out(self) -> bool:
        """Keep the workers in tickets, leasing as they run short; whether nothing is left to do, for any rank."""
        if time.monotonic() > self._next_look:
            self._rank.abandon_committed()
            self._next_look = time.monotonic() + _LOOK_SECONDS
        if self._rank.stopping:
            return self._take_back()
        while len(self._with_workers) < 2 * max(1, self._num_workers) and (self._waiting or self._lease()):
            ticket = self._waiting.popleft()
            opened = self._rank.open.get(ticket.shard)
            if opened:  # else another rank has committed it
                self._with_workers[ticket.shard, ticket.rows[-1]] = ticket
                failed = opened.failed | {row for shard, row in self._doubtful if shard == ticket.shard}
                self._tickets.put(ticket._replace(given_up=failed.intersection(ticket.rows)))
        if self._with_workers:
            return False
        if len(self._doubtful) > 1 and not self._has_read:
            raise self._no_input(next(iter(self._doubtful.values()))[0])
        self._fail_doubtful()  # nothing is left to tell by
        return self._rank.finished()

    def _take_back(self) -> bool:
        """Take back the tickets that no worker has begun; whether no worker has one."""
        for ticket in self._tickets.take_back():
            self._with_workers.pop((ticket.shard, ticket.rows[-1]), None)
        return not self._with_workers

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


def _as_it_is(batch: Any) -> Any:
    return batch


class LocalTickets(queue.SimpleQueue[Ticket | None]):
    """Tickets for the process itself."""

    def take_back(self) -> Iterator[Ticket]:
        """All that nobody has taken."""
        with suppress(queue.Empty):
            while ticket := self.get_nowait():
                yield ticket


class Tickets:
    """Tickets for worker processes: like multiprocessing's SimpleQueue, but they can be taken back."""

    def __init__(self, context: BaseContext) -> None:
        self._reader, self._writer = context.Pipe(duplex=False)
        self._reading = context.Lock()

    def put(self, ticket: Ticket | None) -> None:
        """For any worker; None for one that is to end."""
        self._writer.send(ticket)

    def get(self) -> Ticket | None:
        """Wait for the next one."""
        with self._reading:
            ticket: Ticket | None = self._reader.recv()
        return ticket

    def take_back(self) -> Iterator[Ticket]:
        """All that nobody has taken."""
        if self._reading.acquire(timeout=0.1):  # else a worker waits for one, so there is none
            try:
                while self._reader.poll():
                    yield self._reader.recv()
            finally:
                self._reading.release()


class _WorkerDied(Exception):
    """A worker ended that was to go on."""


def _death(exitcode: int) -> str:
    if exitcode == -signal.SIGKILL:  # not by the watchdog
        return "its process was killed (SIGKILL: out of memory?)"
    return f"crashed: {signal.Signals(-exitcode).name if exitcode < 0 else f'exit status {exitcode}'}"


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
