"""The loader: leases shards for a rank, hands their rows to DataLoader workers as tickets, and yields their batches.

A worker that dies, or makes no progress for too long and is killed, costs the item that it has stamped one attempt;
new workers go on with what was not delivered. So does a file that cannot be read for now, which is tried again later.
An item without attempts left becomes a failure (`Rank.attempt`), as soon as another one is read. If none is, but one
after another uses up its attempts, an item that was read well before tells whether they are bad, or the environment.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from multiprocessing.context import BaseContext
from typing import Any

from torch.utils.data import DataLoader

from datamodules.corpus import Item
from datamodules.errors import EnvironmentFailure, ListingError
from datamodules.loading.frames import GIVEN_UP, Batch, FrameRequest, FrameStream, ItemSummary, Ticket, is_readable
from datamodules.loading.worker_progress import Stamps
from datamodules.loading.workers import CHECK_SECONDS, LocalTickets, Tickets, WorkerDied, Workers
from datamodules.malloc import keep_freed_memory
from datamodules.run.folder import Run
from datamodules.run.rank import OpenShard, Rank
from datamodules.worker_process import begin_worker, fork_server

_IDLE_SECONDS = 0.5
_MAX_PATIENCE_SECONDS = 5.0  # an idle rank looks that often whether another has died or lags
_CHECK_SECONDS = 2.0  # whether another rank has committed one of this rank's shards
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
        self._doubtful: dict[tuple[int, int], tuple[str, str]] = {}  # their last attempt, since one was read well
        self._good: Item | None = None  # one that was read well
        self._num_idle_deaths = 0
        self._next_lease = self._next_check = 0.0
        self._patience = _IDLE_SECONDS

    def __iter__(self) -> Iterator[Batch]:
        keep_freed_memory()
        while True:
            with self._workers() as workers:
                try:
                    yield from self._batches(workers)
                    return
                except WorkerDied:
                    self._charge(workers)

    def _batches(self, workers: Workers) -> Iterator[Batch]:
        idle = False
        while not self._hand_out():
            if self._with_workers:
                idle = False
                yield self._next(workers)
            else:  # Lightning asks for a batch before it hands over the one before: give it its turn
                if idle:
                    time.sleep(_IDLE_SECONDS)
                idle = True
                yield Batch(shard=-1, rows=[], frame_idx=[], pts_seconds=[], summaries=[], results=[])

    @contextmanager
    def _workers(self) -> Iterator[Workers]:
        context = fork_server(self._preload()) if self._num_workers else None
        stamps = Stamps(context, self._num_workers, self._timeout_seconds) if context else None
        self._tickets: Tickets | LocalTickets = Tickets(context) if context else LocalTickets()
        workers = Workers(self._dataloader(context, stamps), stamps, self._timeout_seconds)
        is_done = False
        try:
            yield workers
            is_done = not self._with_workers
        finally:
            workers.end(self._tickets, at_once=not is_done)

    def _preload(self) -> list[str]:
        """Names of the modules that every worker needs."""
        transform: Any = self._request.transform
        return [__name__, getattr(transform, "func", transform).__module__] if transform else [__name__]

    def _dataloader(self, context: BaseContext | None, stamps: Stamps | None) -> DataLoader[Batch]:
        self._rank.activity.workers = self._num_workers
        return DataLoader(
            FrameStream(self._rank.run.plan.path, self._root, self._tickets, self._request, stamps or self._rank),
            batch_size=None,
            collate_fn=_as_it_is,  # the default would make a tensor, and a file descriptor, of each array in `results`
            num_workers=self._num_workers,
            multiprocessing_context=context,
            worker_init_fn=begin_worker if context else None,
            in_order=False,
            timeout=CHECK_SECONDS if context else 0,
            pin_memory=self._pin_memory,
        )

    def _next(self, workers: Workers) -> Batch:
        started = time.monotonic()
        batch = workers.next()
        self._num_idle_deaths = 0
        self._rank.activity.add_seconds("wait", time.monotonic() - started)
        batch["alone"] = self._rank.is_suspect(batch["shard"], batch["rows"])
        for summary in batch["summaries"]:
            self._rank.activity.add_seconds("read", summary["read_seconds"])
            self._rank.activity.add_seconds("transform", summary["transform_seconds"])
        batch["summaries"] = [summary for summary in batch["summaries"] if self._is_final(batch["shard"], summary)]
        return batch

    def _is_final(self, shard: int, summary: ItemSummary) -> bool:
        """Take note of an item's end; whether it is one, or the item is to be tried again."""
        place, failed = (shard, summary["row"]), summary["reason_class"]
        ticket = self._with_workers.pop(place, None)
        if failed in _TRANSIENT:
            assert summary["reason"] is not None
            if self._add_failed_attempt(*place, summary["reason"], failed):
                self._again.add(place)
        elif failed not in (GIVEN_UP, ListingError.reason_class):  # of which nothing was read
            self._fail_doubtful()
            if failed is None and shard in self._rank.open:
                self._good = self._rank.open[shard].items[summary["row"]]
        if ticket and (again := {(shard, row) for row in ticket.rows} & self._again):
            self._again -= again
            self._waiting.append(ticket)  # behind all others: it may be a matter of time
        return failed not in (*_TRANSIENT, GIVEN_UP)

    def _add_failed_attempt(self, shard: int, row: int, reason: str, reason_class: str) -> bool:
        """`Rank.attempt`, but with the item's last one wait until another item is read well."""
        if self._rank.num_failed_attempts(shard, row) + 1 < self._rank.tolerance.max_attempts:
            return self._rank.add_failed_attempt(shard, row, reason, reason_class)
        self._doubtful[shard, row] = reason, reason_class
        if len(self._doubtful) > _MAX_DOUBTFUL:
            self._judge_doubtful()
        return False

    def _fail_doubtful(self) -> None:
        while self._doubtful:
            place, attempt = self._doubtful.popitem()
            self._rank.add_failed_attempt(*place, *attempt)

    def _judge_doubtful(self) -> None:
        """Fail them, unless they failed in a row because the environment failed."""
        reason, _ = next(reversed(self._doubtful.values()))
        good = self._good_item()
        is_io = any(reason_class == "io" for _, reason_class in self._doubtful.values())
        is_gone = good and is_io and not is_readable(good, self._root, self._request.decoding)
        if is_gone or (good is None and len(self._doubtful) > 1):
            raise EnvironmentFailure(
                f"{len(self._doubtful)} items in a row failed, the last one: {reason}. Is something wrong with the "
                "mount, the memory or the installation? Finished work is safe. Fix the problem and rerun the same "
                "command"
            )
        self._fail_doubtful()

    def _good_item(self) -> Item | None:
        """One that was read well, by this rank or by any that has spooled or committed; None if none is known."""
        if self._good:
            return self._good
        for opened in self._rank.open.values():
            for row, result in opened.spool.results.items():
                if result.reason is None:
                    return opened.items[row]
        run = Run(self._rank.run.folder)
        committed = run.committed()
        for shard in (shard for shard in run.plan.shards if shard.name in committed):
            if run.record(shard.name).committed:
                classes = run.table(shard.name, ["reason_class"])["reason_class"].to_pylist()
                if None in classes:
                    return run.plan.item(shard.number, classes.index(None))
        return None

    def _charge(self, workers: Workers) -> None:
        """Charge dead workers to the items they had stamped, and take back all tickets that are not delivered."""
        exit_codes, charged = workers.deaths()
        self._num_idle_deaths += not charged
        if self._num_idle_deaths >= _MAX_IDLE_DEATHS:
            raise EnvironmentFailure(
                f"workers died before they active an item (exit codes {exit_codes}): out of memory, or a broken "
                "installation? Finished work is safe. Fix the problem and rerun the same command"
            )
        for stamp, reason, reason_class in charged:
            self._add_failed_attempt(stamp.shard, stamp.row, reason, reason_class)
        self._waiting.extendleft(reversed(self._with_workers.values()))
        self._with_workers.clear()

    def _hand_out(self) -> bool:
        """Keep the workers in tickets, leasing as they run short; whether nothing is left to do, for any rank."""
        if time.monotonic() > self._next_check:
            self._rank.abandon_committed()
            self._next_check = time.monotonic() + _CHECK_SECONDS
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
        if self._doubtful:  # and nothing is left to tell by
            self._judge_doubtful()
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
        tried_before = opened.spool.failed_attempts.keys()
        made = tickets(opened, self._request.images_in_ticket)  # those that cost a process before, last
        self._waiting.extend(sorted(made, key=lambda ticket: not tried_before.isdisjoint(ticket.rows)))
        return True


def _as_it_is(batch: Any) -> Any:
    return batch


def tickets(opened: OpenShard, num_images: int) -> Iterator[Ticket]:
    """The tickets of a shard that still have a row without a result, without rows that a retry keeps.

    They depend on the plan alone: a video or frame sequence is one, and so are up to `num_images` single images in a
    row. One that was done in part is done again whole, because its slices are the extractor's micro-batches.
    """
    missing = set(opened.missing)
    wanted = [row for row in range(len(opened.items)) if row not in opened.kept]
    for is_image, group in groupby(wanted, key=lambda row: len(opened.items[row].frames) == 1):
        rows = list(group)
        step = num_images if is_image else 1
        for start in range(0, len(rows), step):
            ticket = Ticket(opened.shard.number, tuple(rows[start : start + step]))
            if missing.intersection(ticket.rows):
                yield ticket
