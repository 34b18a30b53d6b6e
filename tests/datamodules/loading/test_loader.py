import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from datamodules.loading.loader import FrameLoader
from datamodules.loading.request import FrameRequest
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.result import Result
from support.environment import process_environment
from support.frame_corpora import consume, consume_in_process, corpus_run, gray_of, image_items
from support.run_paths import folder_of
from support.runs import make_run, start, tars, wait_for
from support.worker_processes import is_worker


def check(run: Run, copies: Any) -> None:
    """Check that the run is complete, and that its samples are the frames of `write_corpus`."""
    records = list(run.records())
    assert [record.shard for record in records] == [shard.name for shard in run.plan.shards]
    assert sum(record.failed for record in records) == 4 * copies
    samples = {key: json.loads(members["json"]) for key, members in CommittedSamples(run)}
    assert len(samples) == sum(record.committed for record in records) == 7 * copies
    for n in range(copies):
        assert [samples[f"{n}/images/{k}"] for k in (0, 1, 2, 3, 6)] == [[0], [10], [20], [30], [60]]
        assert samples[f"{n}/whole"] == [100, 101, 102, 103, 104]
        assert all(abs(value - gray_of(k)) < 4 for k, value in enumerate(samples[f"{n}/video"]))
        assert len(samples[f"{n}/video"]) == 23


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_frame_comes_exactly_once_and_in_order_per_item(tmp_path: Path, num_workers: int) -> None:
    run = corpus_run(tmp_path / "media", tmp_path / "run", per_shard=8, copies=2)
    children = set(psutil.Process().children(recursive=True))
    batches = consume(run, tmp_path / "media", num_workers)
    check(run, 2)
    seen: dict[tuple[int, int], list[int]] = {}
    for batch in batches:
        assert len(batch.get("frames", [])) == len(batch["rows"]) <= 4
        for row, index in zip(batch["rows"], batch["frame_idx"], strict=True):
            seen.setdefault((batch["shard"], row), []).append(index)
    assert all(indices == list(range(len(indices))) for indices in seen.values())
    assert len([summary for batch in batches for summary in batch["summaries"]]) == 22
    left = [p for p in psutil.Process().children(recursive=True) if p not in children and is_worker(p)]
    assert left == []


def test_the_tars_are_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    runs = [corpus_run(tmp_path / "media", tmp_path / str(n), per_shard=5) for n in (0, 2)]
    for run, num_workers in zip(runs, (0, 2), strict=True):
        consume(run, tmp_path / "media", num_workers)
    assert tars(folder_of(runs[0])) == tars(folder_of(runs[1])) != {}


def test_two_processes_share_a_run(tmp_path: Path) -> None:
    run = corpus_run(tmp_path / "media", tmp_path / "run", per_shard=3, copies=4)
    processes = [start(consume_in_process, folder_of(run), tmp_path / "media", 0, 0.02) for _ in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    check(run, 4)
    assert len({record.rank for record in run.records()}) == 2


RANK = """
import sys
from pathlib import Path
from support.frame_corpora import consume_in_process
if __name__ == "__main__":
    consume_in_process(Path(sys.argv[1]), Path(sys.argv[2]), 2, 0.5)
"""


def test_no_worker_outlives_a_rank_killed_by_sigkill_and_another_finishes_the_run(tmp_path: Path) -> None:
    run = corpus_run(tmp_path / "media", tmp_path / "run", per_shard=3)
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    process = psutil.Popen(
        [sys.executable, str(script), str(folder_of(run)), str(tmp_path / "media")], env=process_environment()
    )
    spools = run.work / "spool"
    wait_for(lambda: run.committed() or (spools.exists() and any(p.stat().st_size for p in spools.iterdir())), 60)
    children = process.children(recursive=True)
    assert len(children) >= 3  # fork server, two workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    psutil.wait_procs(children, timeout=20)
    assert [c.cmdline() for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] == []
    assert not run.committed() >= {shard.name for shard in run.plan.shards}
    consume(run, tmp_path / "media", 0)
    check(run, 1)


def test_a_loader_that_is_left_early_ends_its_workers(tmp_path: Path) -> None:
    run = corpus_run(tmp_path / "media", tmp_path / "run")
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with Rank(run) as rank:
        batches: Any = iter(FrameLoader(rank, str(tmp_path / "media"), FrameRequest(4), 2))  # a generator
        next(batches)
        assert {p.pid for p in psutil.Process().children(recursive=True)} - before
        batches.close()
    started = time.monotonic()
    wait_for(lambda: not [p for p in psutil.Process().children(recursive=True) if p.pid not in before and is_worker(p)])
    assert time.monotonic() - started < 1


def test_a_started_loader_has_workers_that_read_before_it_is_iterated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 3), per_shard=3)
    with Rank(run) as rank:
        loader = FrameLoader(rank, str(tmp_path / "media"), FrameRequest(1), 1)
        loader.start()
        assert list(rank.open) == [0]
        wait_for(lambda: any(is_worker(p) for p in psutil.Process().children(recursive=True)))
        rows = []
        for batch in loader:
            rows += batch["rows"]
            for summary in batch["summaries"]:
                rank.add(batch["shard"], Result(summary.row, num_frames=1), {"json": b"1"})
        assert rows == [0, 1, 2]


def test_closing_a_started_loader_ends_its_workers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 3), per_shard=3)
    with Rank(run) as rank:
        loader = FrameLoader(rank, str(tmp_path / "media"), FrameRequest(1), 1)
        loader.start()
        loader.close()
    wait_for(lambda: not any(is_worker(p) for p in psutil.Process().children(recursive=True)))


def test_a_shard_that_another_rank_commits_is_abandoned(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 60), per_shard=60)
    with Rank(run) as rank:
        batches = iter(FrameLoader(rank, str(tmp_path / "media"), FrameRequest(1), 0))
        next(batches)
        rank.leases.clear("train-000000")
        consume(run, tmp_path / "media", 0, slice_frames=30)
        begun, left = time.monotonic(), 0
        for _ in batches:
            left += 1
            time.sleep(0.05)
            assert time.monotonic() - begun < 10
    assert left < 59


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_rank_that_is_to_stop_finishes_the_tickets_in_work_and_begins_no_other(
    tmp_path: Path, num_workers: int
) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 40), per_shard=40)
    with Rank(run) as rank:
        batches = iter(FrameLoader(rank, str(tmp_path / "media"), FrameRequest(1), num_workers))
        next(batches)
        rank.stopping = signal.SIGTERM
        left = [row for batch in batches for row in batch["rows"]]
        assert len(left) <= 2 * num_workers + 1


def test_items_with_failed_attempts_come_last(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 5), per_shard=5)
    with Rank(run) as rank:
        rank.lease()
        rank.add_failed_attempt(0, 1, "its process was killed", "crash")
    with Rank(run) as rank:
        batches = FrameLoader(rank, str(tmp_path / "media"), FrameRequest(1), 0)
        rows = []
        for batch in batches:
            rows += batch["rows"]
            for summary in batch["summaries"]:
                rank.add(batch["shard"], Result(summary.row, num_frames=1), {"json": b"1"})
        assert rows == [0, 2, 3, 4, 1]
