"""The time that a run took, from its records."""

from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.run.effort import Effort
from datamodules.run.folder import Run
from datamodules.run.record import Record, Timing
from support.runs import make_run, work


@pytest.fixture
def record(tmp_path: Path) -> Record:
    make_run(tmp_path, 4)
    work(tmp_path)
    return next(Run(tmp_path).records())


def timed(record: Record, began: float, seconds: float, rank: str = "a", **phases: float) -> Record:
    return replace(record, rank=rank, seconds=seconds, timing=Timing(began, 1, phases))


def test_time_in_which_no_rank_worked_does_not_count(record: Record) -> None:
    records = [timed(record, 100, 20), timed(record, 110, 30, "b"), timed(record, 115, 5), timed(record, 1000, 7)]
    effort = Effort.of(records)
    assert (effort.ranks, effort.items, effort.frames, effort.seconds) == (2, 16, 16, 40 + 7)


def test_phases_are_summed_and_unknown_or_impossible_ones_left_out(record: Record) -> None:
    records = [timed(record, 1, 1, compute=2.5, read=1.0), timed(record, 1, 1, compute=1.5, sleep=9.0, write=-1.0)]
    assert Effort.of(records).phases == {"compute": 4.0, "read": 1.0}


@pytest.mark.parametrize(("began", "seconds"), [(0.0, 5.0), (-3.0, 5.0), (1e308, 1e308), (1.0, -1.0)])
def test_the_time_is_unknown_if_a_record_does_not_say_it(record: Record, began: float, seconds: float) -> None:
    assert Effort.of([timed(record, 5, 5), timed(record, began, seconds)]).seconds == 0.0


def test_a_run_that_was_worked_on_took_some_time(tmp_path: Path) -> None:
    make_run(tmp_path, 4)
    work(tmp_path, pause=0.01)
    effort = Effort.of(Run(tmp_path).records())
    assert 0.0 < effort.seconds < 10
    assert (effort.ranks, effort.items) == (1, 4)
