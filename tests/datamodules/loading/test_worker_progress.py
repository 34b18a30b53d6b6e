import multiprocessing
import os
import time
from types import SimpleNamespace

import pytest

from datamodules.loading import worker_progress
from datamodules.loading.worker_progress import WorkerProgress


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> WorkerProgress:
    """Progress of two workers; this process is the second one."""
    monkeypatch.setattr(worker_progress, "get_worker_info", lambda: SimpleNamespace(id=1))
    return WorkerProgress(multiprocessing.get_context("forkserver"), 2, timeout_seconds=600.0)


def test_the_rank_reads_which_item_a_worker_works_on_until_the_worker_waits(progress: WorkerProgress) -> None:
    assert progress.read() == []
    progress.mark_active(3, (7,))
    [item] = progress.read()
    assert (item.pid, item.shard, item.row) == (os.getpid(), 3, 7)
    assert 0 <= item.seconds < 60
    progress.mark_idle()
    assert progress.read() == []


class Racing:
    """Cells of one worker that begins an item while they are read: the first read gets the time of the item before."""

    def __init__(self) -> None:
        self._times = iter([0, time.monotonic_ns()])

    def __getitem__(self, cells: slice) -> list[int]:
        return [1, next(self._times), 7, 3]


def test_an_item_that_begins_while_it_is_read_does_not_look_like_a_timeout(
    progress: WorkerProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_cells", Racing())
    [item] = progress.read()
    assert (item.shard, item.row) == (3, 7)
    assert 0 <= item.seconds < 60
