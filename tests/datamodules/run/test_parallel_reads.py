"""Reads of several files at once, in stores that say that this is faster."""

import threading
from pathlib import Path

import pytest

from datamodules.run.folder import Run
from datamodules.run.parallel_reads import read_each
from datamodules.run.store import Folder
from preprocess.integrity import coverage
from support.runs import make_run, work


class TwoAtOnce(Folder):
    """A folder in which a read of a record, but for the first, waits until another one is in flight."""

    num_reads_at_once = 2

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._num_reads, self._barrier = 0, threading.Barrier(2, timeout=10)

    def read(self, name: str) -> bytes:
        if name.startswith("records/"):
            self._num_reads += 1
            if self._num_reads > 1:
                self._barrier.wait()
        return super().read(name)


def test_results_come_in_order_and_the_first_read_is_alone(tmp_path: Path) -> None:
    active = set()
    alone = []

    def read(name: int) -> int:
        active.add(name)
        alone.append(len(active) == 1)
        if name:
            barrier.wait()
        active.remove(name)
        return -name

    barrier = threading.Barrier(2, timeout=10)
    assert list(read_each(TwoAtOnce(tmp_path), read, range(5))) == [0, -1, -2, -3, -4]
    assert alone[0]
    assert list(read_each(Folder(tmp_path), abs, [-1, 2])) == [1, 2]
    assert list(read_each(TwoAtOnce(tmp_path), abs, [])) == []


def test_reads_that_have_not_begun_are_dropped_when_the_caller_stops(tmp_path: Path) -> None:
    names: list[int] = []
    results = read_each(TwoAtOnce(tmp_path), names.append, range(1000))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert names == [0]


def test_an_error_of_a_read_is_raised_in_its_place(tmp_path: Path) -> None:
    results = read_each(TwoAtOnce(tmp_path), lambda name: 1 // name, [2, 1, 0, 1])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_records_are_read_several_at_once(tmp_path: Path) -> None:
    make_run(tmp_path, 5, per_shard=1)
    work(tmp_path)
    covered = coverage(Run(TwoAtOnce(tmp_path)))
    assert (covered.planned, covered.committed, covered.problems) == (5, 5, [])
    assert [record.shard for record in Run(TwoAtOnce(tmp_path)).records()] == [f"train-{k:06d}" for k in range(5)]
