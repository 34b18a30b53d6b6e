"""The loader: leases shards for a rank, hands their rows to DataLoader workers as tickets, and yields their batches.

A worker that dies, or is killed because it makes no progress, costs its active item one attempt; new workers start, and
take the tickets that were not delivered. A file that cannot be read at the moment costs its item an attempt, too, and
is tried again after all other tickets. An item without attempts left becomes a failure once it is known that the
environment works (`pending_failures.py`).
"""

import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

from torch.utils.data import DataLoader

from datamodules.corpus import Item
from datamodules.errors import EnvironmentFailure, ListingError
from datamodules.loading.batch import Batch, ItemSummary, idle_batch
from datamodules.loading.fetching import Fetching
from datamodules.loading.pending_failures import PendingFailures
from datamodules.loading.request import FrameRequest
from datamodules.loading.stream import FrameStream
from datamodules.loading.tickets import LocalTickets, Ticket, Tickets, tickets
from datamodules.loading.video_fetcher import VideoFetcher
from datamodules.loading.worker_progress import WorkerProgress
from datamodules.loading.workers import CHECK_SECONDS, WorkerDied, Workers
from datamodules.malloc import keep_freed_memory
from datamodules.objects import is_remote
from datamodules.run.rank import Rank
from datamodules.worker_process import begin_worker, fork_server

_MAX_IDLE_SECONDS = (
    5.0  # an idle rank checks this often whether another has died or lags; at each beat if that is rarer
)
_MAX_IDLE_DEATHS = 3  # in a row, of workers without an active item
_FETCHING = Fetching()
_TRANSIENT = ("io", "memory")  # failures that a later attempt may avoid


class FrameLoader:
    """The batches of all shards that `rank` gets to lease, until no rank has work left, or the rank is to stop.

    The consumer must pass the results of the batches to the rank.

    Args:
        rank: leases the shards.
        root: folder or URL that items' paths are relative to.
        request: which frames to read, and in what form.
        num_workers: number of worker processes; 0: read in this process.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
        timeout_seconds: a worker that makes no progress for this long is killed. Without workers it has no effect.
        fetching: limits on what is fetched ahead from an object store.
    """

    def __init__(
        self,
        rank: Rank,
        root: str,
        request: FrameRequest,
        num_workers: int,
        pin_memory: bool = False,
        timeout_seconds: float = 120.0,
        fetching: Fetching = _FETCHING,
    ) -> None:
        self._rank, self._root, self._request = rank, root, request
        self._num_workers, self._pin_memory, self._timeout_seconds = num_workers, pin_memory, timeout_seconds
        self._waiting: deque[Ticket] = deque()  # of leased shards, not yet with the workers
        # By shard and last row. A ticket is delivered when that row's summary comes: workers go through rows in order.
        self._with_workers: dict[tuple[int, int], Ticket] = {}
        self._to_retry: set[tuple[int, int]] = set()  # (shard, row) of items in `_with_workers` to retry
        self._pending = PendingFailures(rank, root, request.decoding)
        self._fetching = fetching
        self._videos = VideoFetcher(root, fetching, num_workers, lambda: rank.scratch)
        self._num_idle_deaths = 0
        self._next_lease = self._next_check = 0.0  # in monotonic s
        self._beat_seconds = rank.run.store.beat_seconds  # also of the checks whether others have committed its shards
        self._idle_seconds = self._beat_seconds / 4
        self._lease_interval = self._idle_seconds
        self._started: Generator[Batch, None, None] | None = None  # by `start`: its next batch is the first one

    def start(self) -> None:
        """Start the workers and hand out the first tickets, so that they read while this process loads its models."""
        self._started = self._run()
        next(self._started)

    def close(self) -> None:
        """End the workers that `start` has started, if no iteration has begun."""
        if self._started:
            self._started.close()

    def __iter__(self) -> Iterator[Batch]:
        if self._started is None:
            self.start()
        assert self._started is not None
        batches, self._started = self._started, None
        yield from batches

    def _run(self) -> Generator[Batch, None, None]:
        """Yield an idle batch when the workers have their first tickets, and then the batches."""
        keep_freed_memory()
        is_started = False
        while True:
            with self._workers() as workers:
                try:
                    if not is_started:
                        self._hand_out()
                        is_started = True
                        yield idle_batch()
                    yield from self._batches(workers)
                    return
                except WorkerDied:
                    self._charge(workers)

    def _batches(self, workers: Workers) -> Iterator[Batch]:
        was_idle = False
        while not self._hand_out():
            if self._with_workers:
                was_idle = False
                yield self._next(workers)
            else:
                # Lightning asks for one batch ahead. Before this rank sleeps, an empty batch lets it hand over the last
                # real one, whose results may complete a shard.
                if was_idle:
                    time.sleep(self._idle_seconds)
                was_idle = True
                yield idle_batch()

    @contextmanager
    def _workers(self) -> Iterator[Workers]:
        context = fork_server(self._preload()) if self._num_workers else None
        progress = WorkerProgress(context, self._num_workers, self._timeout_seconds) if context else None
        self._tickets: Tickets | LocalTickets = Tickets(context) if context else LocalTickets()
        workers = Workers(self._dataloader(context, progress), progress, self._timeout_seconds)
        is_done = False
        try:
            yield workers
            is_done = not self._with_workers
        finally:
            workers.end(self._tickets, at_once=not is_done)

    def _preload(self) -> list[str]:
        """Return the names of the modules that every worker needs."""
        transform: Any = self._request.transform
        return [__name__, getattr(transform, "func", transform).__module__] if transform else [__name__]

    def _dataloader(self, context: BaseContext | None, progress: WorkerProgress | None) -> DataLoader[Batch]:
        self._rank.activity.workers, plan = self._num_workers, self._rank.run.plan
        return DataLoader(
            FrameStream(plan, self._root, self._tickets, self._request, progress or self._rank, self._fetching),
            batch_size=None,  # the stream yields whole batches
            collate_fn=_unchanged,
            num_workers=self._num_workers,
            multiprocessing_context=context,
            worker_init_fn=begin_worker if context else None,
            in_order=False,  # a worker with a slow item must not hold up the batches of the others
            timeout=CHECK_SECONDS if context else 0,  # returns to `Workers.next`, which checks that all workers live
            pin_memory=self._pin_memory,
        )

    def _next(self, workers: Workers) -> Batch:
        started = time.monotonic()
        batch = workers.next()
        shard = batch["shard"]
        self._num_idle_deaths = 0
        self._rank.add_seconds(shard, "wait", time.monotonic() - started)
        batch["alone"] = self._rank.is_suspect(shard, batch["rows"])
        for phase, seconds in batch["seconds"].items():
            self._rank.add_seconds(shard, phase, seconds)
        batch["summaries"] = [summary for summary in batch["summaries"] if self._note_end(batch, summary)]
        return batch

    def _note_end(self, batch: Batch, summary: ItemSummary) -> bool:
        """Record the end of an item, and requeue its ticket if needed.

        Returns:
            Whether the summary is final: False if the item is retried or its failure is pending.
        """
        shard, row = batch["shard"], summary.row
        is_transient = summary.reason_class in _TRANSIENT
        if is_transient:
            assert summary.reason is not None
            assert summary.reason_class is not None
            if self._pending.add_attempt(shard, row, summary.reason, summary.reason_class):
                self._to_retry.add((shard, row))
        elif summary.reason_class != ListingError.reason_class:  # says nothing of the environment: no file was opened
            opened = self._rank.open.get(shard)
            self._pending.confirm(opened.items[row] if opened and summary.reason is None else None)
        if ticket := self._with_workers.pop((shard, row), None):
            self._videos.discard(shard, row)
            self._requeue(ticket)
        return not is_transient

    def _requeue(self, ticket: Ticket) -> None:
        """Queue a delivered ticket last if an item of it is to be tried again: the cause may be gone by then."""
        if again := {(ticket.shard, row) for row in ticket.rows} & self._to_retry:
            self._to_retry -= again
            self._waiting.append(ticket)

    def _charge(self, workers: Workers) -> None:
        """Charge dead workers to the items that were active in them, and take back all undelivered tickets."""
        exit_codes, crashed = workers.deaths()
        self._num_idle_deaths += not crashed
        if self._num_idle_deaths >= _MAX_IDLE_DEATHS:
            raise EnvironmentFailure(
                f"workers died before they began an item (exit codes {exit_codes}). Is memory exhausted, or the "
                "installation broken? Finished work is safe. Fix the problem and rerun the same command"
            )
        for item, reason, reason_class in crashed:
            self._pending.add_attempt(item.shard, item.row, reason, reason_class)
        self._waiting.extendleft(reversed(self._with_workers.values()))
        self._with_workers.clear()

    def _hand_out(self) -> bool:
        """Keep the workers supplied with tickets, and lease shards for them.

        Returns:
            Whether iteration ends: no rank has work left, or this rank is stopping and its workers have finished.
        """
        if time.monotonic() > self._next_check:
            self._rank.abandon_committed()
            self._next_check = time.monotonic() + self._beat_seconds
        if self._rank.stopping:
            return self._take_back()
        # two tickets for each worker, mostly: one in work, and one to begin next without waiting for this process
        max_tickets = max(2, self._fetching.videos) * max(1, self._num_workers)
        while (
            len(self._with_workers) < max_tickets
            and (self._waiting or self._lease())
            and self._has_room(self._waiting[0])
        ):
            self._hand_out_without_failed(self._waiting.popleft())
        if self._with_workers:
            return False
        if self._pending:  # no other item is left that could show whether the environment is at fault
            self._pending.decide()
        return self._rank.finished()

    def _hand_out_without_failed(self, ticket: Ticket) -> None:
        """Give the workers a ticket without the rows that have failed since it was made; drop it if no row is left."""
        opened = self._rank.open.get(ticket.shard)
        rows: tuple[int, ...] = ()
        if opened is not None:  # if not, another rank has committed the shard
            failed = opened.failed | self._pending.rows(ticket.shard)
            rows = tuple(row for row in ticket.rows if row not in failed)
        if opened is None or not rows:
            self._videos.discard(ticket.shard, ticket.rows[-1])  # of a ticket that a dead worker had
            return
        item = opened.items[rows[-1]]
        videos = self._videos.start(ticket.shard, rows[-1], item) if self._is_remote_video(item) else None
        ticket = Ticket(ticket.shard, rows, videos)
        self._with_workers[ticket.shard, rows[-1]] = ticket
        self._tickets.put(ticket)

    def _has_room(self, ticket: Ticket) -> bool:
        """Return whether the workers may have another ticket: two each, or as many videos as may be fetched."""
        opened = self._rank.open.get(ticket.shard)
        item = opened.items[ticket.rows[-1]] if opened is not None else None
        if item is not None and self._is_remote_video(item):
            return self._videos.has_room(item)
        return len(self._with_workers) < 2 * max(1, self._num_workers)

    def _is_remote_video(self, item: Item) -> bool:
        return not item.frames and item.problem is None and is_remote(self._root, item.path)

    def _take_back(self) -> bool:
        """Take back the tickets that no worker has begun; return whether the workers have finished the others."""
        for ticket in self._tickets.take_back():
            self._with_workers.pop((ticket.shard, ticket.rows[-1]), None)
            self._videos.discard(ticket.shard, ticket.rows[-1])
        return not self._with_workers

    def _lease(self) -> bool:
        """Lease a shard and queue its tickets; return False if none can be leased now."""
        if time.monotonic() < self._next_lease:
            return False
        opened = self._rank.lease()
        if opened is None:
            self._next_lease = time.monotonic() + self._lease_interval
            self._lease_interval = min(2 * self._lease_interval, max(_MAX_IDLE_SECONDS, self._beat_seconds))
            return False
        self._lease_interval = self._idle_seconds
        # Tickets with items that failed before come last: if they crash this rank, the rest of the shard has been
        # processed.
        tried_before = opened.spool.failed_attempts.keys()
        made = tickets(opened, self._request.images_in_ticket)
        self._waiting.extend(sorted(made, key=lambda ticket: not tried_before.isdisjoint(ticket.rows)))
        return True


def _unchanged(batch: Any) -> Any:
    """Return the batch. The default would make a tensor, and a file descriptor, of each array in `results`."""
    return batch
