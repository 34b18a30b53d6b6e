"""Tickets: the pieces of work that a rank hands to its workers, and the queues through which it does so."""

import queue
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from multiprocessing.context import BaseContext
from typing import NamedTuple, Protocol

from datamodules.run.open_shard import OpenShard


class Ticket(NamedTuple):
    """A piece of work for one worker.

    Attributes:
        shard: index of the shard in the plan.
        rows: rows of that shard, ascending: one item, or several single images.
        videos: folder into which the rank fetches the item's video from an object store; None: it fetches none.
    """

    shard: int
    rows: tuple[int, ...]
    videos: str | None = None


class TicketQueue(Protocol):
    """Queue from which a worker takes its tickets."""

    def get(self) -> Ticket | None:
        """Wait for the next ticket and return it; None if no more will come."""
        ...


class LocalTickets(queue.SimpleQueue[Ticket | None]):
    """Queue of a rank that reads by itself, without workers."""

    def take_back(self) -> Iterator[Ticket]:
        """Remove and yield the tickets that were not taken."""
        with suppress(queue.Empty):
            while ticket := self.get_nowait():
                yield ticket


class Tickets:
    """Queue for worker processes: multiprocessing's SimpleQueue, but tickets that no worker took can be taken back."""

    def __init__(self, context: BaseContext) -> None:
        self._reader, self._writer = context.Pipe(duplex=False)
        self._reading = context.Lock()

    def put(self, ticket: Ticket | None) -> None:
        """Add a ticket for any worker, or None, which ends the worker that takes it."""
        self._writer.send(ticket)

    def get(self) -> Ticket | None:
        """Wait for the next ticket and return it."""
        with self._reading:
            ticket: Ticket | None = self._reader.recv()
        return ticket

    def take_back(self) -> Iterator[Ticket]:
        """Remove and yield the tickets that no worker took."""
        # A worker that waits for a ticket holds the lock. Then the queue is empty, so do not wait for the lock.
        if self._reading.acquire(timeout=0.1):
            try:
                while self._reader.poll():
                    yield self._reader.recv()
            finally:
                self._reading.release()


def tickets(opened: OpenShard, num_images: int) -> Iterator[Ticket]:
    """Yield the tickets of a shard that have a row without a result; rows that a retry keeps belong to none.

    The cuts depend on the plan alone: each video or frame sequence is a ticket, and so are up to `num_images`
    consecutive single images. A ticket that was done in part is done again as a whole, because its slices are the
    extractor's micro-batches: they must hold the same frames however often a run is interrupted.

    Args:
        opened: the leased shard.
        num_images: maximum number of single images in a ticket.
    """
    missing = set(opened.missing)
    rows_to_try = [row for row in range(len(opened.items)) if row not in opened.kept]
    for is_image, group in groupby(rows_to_try, key=lambda row: len(opened.items[row].frames) == 1):
        rows = list(group)
        step = num_images if is_image else 1
        for start in range(0, len(rows), step):
            ticket = Ticket(opened.shard.number, tuple(rows[start : start + step]))
            if missing.intersection(ticket.rows):
                yield ticket
