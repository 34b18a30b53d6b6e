"""Reads of a run's files, several at once where its store answers them faster that way."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from datamodules.run.store import Store

_Name = TypeVar("_Name")
_Content = TypeVar("_Content")


def read_each(store: Store, read: Callable[[_Name], _Content], names: Sequence[_Name]) -> Iterator[_Content]:
    """Yield `read(name)` for each of `names`, in order.

    If the caller stops early, reads that have not begun are dropped.

    Args:
        store: where the reads go; `Store.num_reads_at_once` of them are in flight.
        read: called in several threads at once. Its first call is alone, as it may read what all calls need.
        names: what to read.
    """
    if store.num_reads_at_once == 1:
        yield from map(read, names)
        return
    yield from map(read, names[:1])
    with ThreadPoolExecutor(store.num_reads_at_once) as pool:
        try:
            yield from pool.map(read, names[1:])
        finally:
            pool.shutdown(cancel_futures=True)
