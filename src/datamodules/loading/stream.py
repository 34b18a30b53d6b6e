"""The stream of batches that one DataLoader worker reads: it takes tickets and yields the slices of their items."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from torch.utils.data import IterableDataset, get_worker_info

from datamodules.corpus import Item, located
from datamodules.errors import DecodeError, EnvironmentFailure, FramemillError, ItemError
from datamodules.loading.batch import Batch, Slice, by_size
from datamodules.loading.fetching import Fetching
from datamodules.loading.image_fetcher import ImageFetcher
from datamodules.loading.item_files import ItemFiles
from datamodules.loading.reading import ItemReader
from datamodules.loading.request import FrameRequest, FrameTransform, GroupTransform
from datamodules.loading.tickets import Ticket, TicketQueue
from datamodules.objects import is_remote
from datamodules.run.plan import Plan

_FETCHING = Fetching()


class ActivityMonitor(Protocol):
    """Records which items a process works on, so that its death or hang is charged to exactly these items."""

    def mark_active(self, shard: int, rows: Sequence[int]) -> None:
        """Record that the process works on the items in these rows of a shard from now on."""
        ...

    def mark_idle(self) -> None:
        """Record that the process works on no item from now on."""
        ...


class FrameStream(IterableDataset[Batch]):
    """The slices of the tickets that this process takes: a worker, or a rank that reads by itself.

    Args:
        plan: has the items.
        root: folder or URL that items' paths are relative to.
        tickets: queue shared by the workers of one rank.
        request: which frames to read, and in what form.
        monitor: records which item is being read.
        fetching: limits on images of an object store.
    """

    def __init__(
        self,
        plan: Plan,
        root: str,
        tickets: TicketQueue,
        request: FrameRequest,
        monitor: ActivityMonitor,
        fetching: Fetching = _FETCHING,
    ) -> None:
        self._plan, self._root, self._tickets, self._request = plan, root, tickets, request
        self._monitor, self._fetching = monitor, fetching

    def __iter__(self) -> Iterator[Batch]:
        transform = self._request.transform() if self._request.transform else None
        fetcher = ImageFetcher(self._root, self._fetching)
        reader = _TicketReader(self._plan, self._root, self._request, transform, self._monitor, fetcher)
        is_worker = get_worker_info() is not None
        while (ticket := self._tickets.get()) is not None:
            batches = reader.batches(ticket)
            while batch := _next(batches, is_worker):
                self._monitor.mark_idle()  # waiting until the batch is taken must not count against the item
                yield batch


def _next(batches: Iterator[Batch], is_worker: bool) -> Batch | None:
    """Return the next batch; an unexpected error ends a worker's process.

    DataLoader would send the error to the rank and end the run. An exit instead is charged to the item that is marked
    active, as any other death of a worker is.
    """
    try:
        return next(batches, None)
    except FramemillError:
        raise
    except Exception:
        if not is_worker:
            raise
        sys.excepthook(*sys.exc_info())  # `begin_worker` has set one that escapes what it writes
        os._exit(1)


class _TicketReader:
    """Reads the items of one ticket after another."""

    def __init__(
        self,
        plan: Plan,
        root: str,
        request: FrameRequest,
        transform: FrameTransform | GroupTransform | None,
        monitor: ActivityMonitor,
        fetcher: ImageFetcher,
    ) -> None:
        self._plan, self._root, self._request = plan, root, request
        self._transform, self._monitor, self._fetcher = transform, monitor, fetcher

    def batches(self, ticket: Ticket) -> Iterator[Batch]:
        """Yield the slices of a ticket's items; single images are grouped by size if the request says so."""
        batching = self._request.batching
        if batching is None or len(self._plan.item(ticket.shard, ticket.rows[0]).frames) != 1:
            yield from self._slices(ticket, self._request.slice_frames)
            return
        for window in self._slices(ticket, batching.window):  # one window: a ticket has no more images than that
            yield from by_size(window, self._request.slice_frames, batching)

    def _slices(self, ticket: Ticket, slice_frames: int) -> Iterator[Batch]:
        current = Slice(ticket.shard, self._transform is not None)
        items = [located(self._plan.item(ticket.shard, row), self._root) for row in ticket.rows]
        self._fetcher.expect(item for item in items if is_remote(self._root, item.path))
        for row, item in zip(ticket.rows, items, strict=True):
            mark_active = partial(self._monitor.mark_active, ticket.shard, (row,))
            files = ItemFiles(item, self._root, self._fetcher, ticket.videos, mark_active)
            reader = ItemReader(item, files, self._request, self._transform, mark_active)
            reason = reason_class = None
            try:
                for frame in reader.frames():
                    if len(current) == slice_frames:
                        current.add_seconds(reader.take_seconds())
                        yield current.batch()
                        current = Slice(ticket.shard, self._transform is not None)
                    if frame.frame_idx == 0:
                        current.begin(row, item, reader.num_planned)
                    current.add(row, *frame)
            except (ItemError, OSError, MemoryError) as error:
                reason, reason_class = self._failure(item, error)
            current.add_seconds(reader.take_seconds())
            current.end(reader.summary(row, reason, reason_class))
        yield current.batch()

    def _failure(self, item: Item, error: ItemError | OSError | MemoryError) -> tuple[str, str]:
        """Return (reason, class) of the failure of `item`.

        Raises:
            EnvironmentFailure: the whole corpus is gone, so its items cannot be read.
        """
        if isinstance(error, (DecodeError, OSError)):
            _require_corpus(item, self._root)
        if isinstance(error, OSError):  # EIO, ESTALE, EACCES, …: of the file, or of its mount
            return f"{item.source} cannot be read: {error.strerror or error}", "io"
        if isinstance(error, MemoryError):
            return "out of memory", "memory"
        return str(error), error.reason_class


def _require_corpus(item: Item, root: str) -> None:
    """Raise EnvironmentFailure if the corpus root is missing or empty, as after an unmount."""
    if is_remote(root, item.path):
        return  # an error of the store as a whole is an EnvironmentFailure already
    try:
        with os.scandir(root) as entries:
            is_empty = next(entries, None) is None
    except OSError:
        is_empty = True
    if is_empty:
        raise EnvironmentFailure(
            f"the corpus root {root} is gone, or empty. Finished work is safe. Bring it back and rerun the same command"
        )
