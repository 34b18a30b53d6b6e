import errno
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from datamodules.corpus import Item
from datamodules.errors import EnvironmentFailure
from datamodules.loading import reading as reading_module
from datamodules.loading.loader import FrameLoader
from datamodules.loading.request import Batching, FrameRequest
from datamodules.loading.tickets import LocalTickets, Ticket, Tickets, tickets
from datamodules.media.content import read_file
from datamodules.run.folder import Run
from datamodules.run.open_shard import OpenShard
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.result import Result
from support.crashing_transforms import FatalBrightness, FatalTransform, HangingStart
from support.frame_corpora import consume, consume_in_process, corpus_run, gray_of, write_image
from support.runs import lease, make_run, start, tars, wait_for


def check(run: Run, copies: Any) -> None:
    """That the run is whole, and its samples are the frames of `write_corpus`."""
    records = list(run.records())
    assert [record.shard for record in records] == [shard.name for shard in run.plan.shards]
    assert sum(record.failed for record in records) == 4 * copies
    found = {key: json.loads(members["json"]) for key, members in CommittedSamples(run)}
    assert len(found) == sum(record.committed for record in records) == 7 * copies
    for n in range(copies):
        assert [found[f"{n}/images/{k}"] for k in (0, 1, 2, 3, 6)] == [[0], [10], [20], [30], [60]]
        assert found[f"{n}/whole"] == [100, 101, 102, 103, 104]
        assert all(abs(value - gray_of(k)) < 4 for k, value in enumerate(found[f"{n}/video"]))
        assert len(found[f"{n}/video"]) == 23


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
    left = [p for p in psutil.Process().children(recursive=True) if p not in children and _is_worker(p)]
    assert left == []


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.ppid() != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_tars_are_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    runs = [corpus_run(tmp_path / "media", tmp_path / str(n), per_shard=5) for n in (0, 2)]
    for run, num_workers in zip(runs, (0, 2), strict=True):
        consume(run, tmp_path / "media", num_workers)
    assert tars(runs[0].folder) == tars(runs[1].folder) != {}


def test_two_processes_share_a_run(tmp_path: Path) -> None:
    run = corpus_run(tmp_path / "media", tmp_path / "run", per_shard=3, copies=4)
    processes = [start(consume_in_process, run.folder, tmp_path / "media", 0, 0.02) for _ in range(2)]
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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = psutil.Popen([sys.executable, str(script), str(run.folder), str(tmp_path / "media")], env=environment)
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
    wait_for(
        lambda: not [p for p in psutil.Process().children(recursive=True) if p.pid not in before and _is_worker(p)]
    )
    assert time.monotonic() - started < 1


def test_a_shard_that_another_rank_committed_is_worked_on_no_further(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 60), per_shard=60)
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


def _images(root: Path, count: int) -> list[Item]:
    for k in range(count):
        write_image(root / "i" / f"{k}.png", k)
    return [Item(f"i/{k}", "train", "i", (f"{k}.png",), cost=1) for k in range(count)]


def test_tickets_group_single_images_and_depend_on_the_plan_alone(tmp_path: Path) -> None:
    run = corpus_run(tmp_path / "media", tmp_path / "run")
    opened = OpenShard(run, run.plan.shards[0], "rank", lambda _: None)
    everything = [(0, 1, 2), (3, 4, 5), (6,), (7,), (8,), (9,), (10,)]
    assert [ticket.rows for ticket in tickets(opened, 3)] == everything
    for row in (4, 6, 9):
        opened.spool.append(_result(row), {})
    assert [ticket.rows for ticket in tickets(opened, 3)] == [(0, 1, 2), (3, 4, 5), (7,), (8,), (10,)]
    opened.spool.close()


def _result(row: int) -> Result:
    return Result(row, reason="x", reason_class="decode")


def failing_reads(monkeypatch: pytest.MonkeyPatch, root: Path, names: Any, how: Any) -> None:
    """`read_file` raises what `how` gives for images of these names."""
    read = read_file

    def reading(path: Path) -> bytes:
        if path.name in names and (error := how(path)):
            raise error
        return read(path)

    monkeypatch.setattr(reading_module, "read_file", reading)


def consumed(run: Run, root: Path) -> dict[str, Any]:
    """The results of a run by one rank without workers."""
    consume(run, root, 0, slice_frames=1)
    tables = [run.table(shard.name).to_pylist() for shard in run.plan.shards]
    return {row["key"]: row for rows in tables for row in rows}


def test_a_file_that_cannot_be_read_for_a_while_is_tried_again_later_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 12), per_shard=12)
    tried: Counter[str] = Counter()

    def twice(path: Path) -> OSError | None:
        tried[path.name] += 1
        return OSError(errno.EIO, "Input/output error") if tried[path.name] <= 2 else None

    failing_reads(monkeypatch, tmp_path / "media", {"3.png", "7.png"}, twice)
    rows = consumed(run, tmp_path / "media")
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["i/3"]["attempts"] == rows["i/7"]["attempts"] == 3
    assert rows["i/4"]["attempts"] == 1
    samples = {key: json.loads(members["json"]) for key, members in CommittedSamples(run)}
    assert samples == {f"i/{k}": [k] for k in range(12)}


def test_a_bad_sector_costs_its_item_after_three_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 12), per_shard=4)
    failing_reads(monkeypatch, tmp_path / "media", {"3.png"}, lambda _: OSError(errno.EIO, "Input/output error"))
    rows = consumed(run, tmp_path / "media")
    failed = {key: (row["reason"], row["reason_class"], row["attempts"]) for key, row in rows.items() if row["reason"]}
    assert failed == {"i/3": ("i/3.png cannot be read: Input/output error", "io", 3)}


def test_memory_that_a_file_exhausts_costs_its_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 4), per_shard=4)
    failing_reads(monkeypatch, tmp_path / "media", {"2.png"}, lambda _: MemoryError())
    rows = consumed(run, tmp_path / "media")
    assert [(row["reason"], row["reason_class"]) for row in rows.values() if row["reason"]] == [
        ("out of memory", "memory")
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_mount_that_gives_errors_stops_the_run_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 40), per_shard=4)
    reads = itertools.count()
    with monkeypatch.context() as patch:
        names = {f"{k}.png" for k in range(40)}
        gone = OSError(number, os.strerror(number))
        failing_reads(patch, tmp_path / "media", names, lambda _: gone if next(reads) >= 10 else None)
        expected = rf"items in a row failed, the last one: i/\d+\.png cannot be read: {os.strerror(number)}"
        with pytest.raises(EnvironmentFailure, match=expected):
            consume(run, tmp_path / "media", 0, slice_frames=1)
    assert next(reads) <= 10 + 3 * (21 + 3)  # not three attempts at each of all that is left
    assert all(record.failed == 0 for record in run.records())
    assert {row["status"] for row in consumed(run, tmp_path / "media").values()} == {"ok"}


def test_many_bad_files_in_a_row_fail_if_others_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 80), per_shard=80)
    bad = {f"{k}.png" for k in range(20, 60)}
    failing_reads(monkeypatch, tmp_path / "media", bad, lambda _: OSError(errno.EIO, "Input/output error"))
    rows = consumed(run, tmp_path / "media")
    assert {key for key, row in rows.items() if row["reason_class"] == "io"} == {f"i/{k}" for k in range(20, 60)}


def test_items_that_are_all_that_is_left_fail_if_others_were_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 6), per_shard=6)
    with Rank(run) as rank:
        opened = lease(rank)
        for row in range(4):
            rank.add(0, Result(row, num_frames=1), {"json": b"[]"})
        assert opened.missing == [4, 5]
    bad = {"4.png", "5.png"}
    failing_reads(monkeypatch, tmp_path / "media", bad, lambda _: OSError(errno.EIO, "Input/output error"))
    rows = consumed(run, tmp_path / "media")
    assert {key for key, row in rows.items() if row["reason_class"] == "io"} == {"i/4", "i/5"}


@pytest.mark.parametrize(("count", "bad"), [(3, 3), (12, 10), (12, 1)])
def test_a_small_corpus_that_cannot_be_read_stops_the_run_unless_some_of_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, bad: int
) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", count), per_shard=2)
    names = {f"{k}.png" for k in range(bad)}
    failing_reads(monkeypatch, tmp_path / "media", names, lambda _: OSError(errno.EIO, "Input/output error"))
    if bad == count:
        with pytest.raises(EnvironmentFailure, match="3 items in a row failed"):
            consume(run, tmp_path / "media", 0, slice_frames=1)
        assert run.committed() == set()
    else:
        rows = consumed(run, tmp_path / "media")
        assert {key for key, row in rows.items() if row["reason_class"] == "io"} == {f"i/{k}" for k in range(bad)}


def test_items_that_the_listing_failed_are_no_sign_that_files_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = [Item(f"faulty/{k}", "train", "", ("0.png",), problem="it is reversed") for k in range(3)]
    run = make_run(tmp_path / "run", [*_images(tmp_path / "media", 3), *faulty], per_shard=1)
    names = {f"{k}.png" for k in range(3)}
    failing_reads(monkeypatch, tmp_path / "media", names, lambda _: OSError(errno.EIO, "Input/output error"))
    with pytest.raises(EnvironmentFailure, match="3 items in a row failed"):
        consume(run, tmp_path / "media", 0, slice_frames=1)
    assert sorted(run.committed()) == ["train-000003", "train-000004", "train-000005"]


def test_a_corpus_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 4), per_shard=4)
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFailure, match=r"media is gone, or empty\. Finished work is safe"):
        consume(run, tmp_path / "media", 0)


def test_strikes_survive_the_rank_that_found_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as rank:
        rank.lease()
        assert rank.add_failed_attempt(0, 2, "crashed: SIGSEGV", "crash")
    with Rank(run) as successor:
        opened = lease(successor)
        assert [attempt.reason for attempt in opened.spool.failed_attempts[2]] == ["crashed: SIGSEGV"]
        assert successor.add_failed_attempt(0, 2, "crashed: SIGSEGV", "crash")
        assert not successor.add_failed_attempt(0, 2, "timed out after 9 s", "timeout")
        result = opened.spool.results[2]
        assert (result.reason, result.reason_class, result.attempts) == ("timed out after 9 s", "timeout", 3)


def test_tickets_that_nobody_has_taken_are_taken_back() -> None:
    for tickets_of_a_kind in (Tickets(multiprocessing.get_context("forkserver")), LocalTickets()):
        for row in range(3):
            tickets_of_a_kind.put(Ticket(0, (row,)))
        assert tickets_of_a_kind.get() == Ticket(0, (0,))
        assert list(tickets_of_a_kind.take_back()) == [Ticket(0, (1,)), Ticket(0, (2,))]
        assert list(tickets_of_a_kind.take_back()) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_rank_that_is_to_stop_finishes_what_is_in_hand_and_begins_nothing(tmp_path: Path, num_workers: int) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 40), per_shard=40)
    with Rank(run) as rank:
        batches = iter(FrameLoader(rank, str(tmp_path / "media"), FrameRequest(1), num_workers))
        next(batches)
        rank.stopping = signal.SIGTERM
        left = [row for batch in batches for row in batch["rows"]]
        assert len(left) <= 2 * num_workers + 1


def fatal(reads: Any, size: int = 1) -> Any:
    """An image that is all of one value of these does that to the worker that reads it."""
    return partial(FatalTransform, reads, size)


def results(
    run: Run, root: Path, transform: Any, num_workers: int, timeout_seconds: float = 120.0, blow: Any = None
) -> dict[str, Any]:
    """What becomes of a run by one rank whose workers apply `transform`; `blow` is called after the first batch."""
    with Rank(run) as rank:
        loader = FrameLoader(rank, str(root), FrameRequest(1, transform), num_workers, timeout_seconds=timeout_seconds)
        for batch in loader:
            for summary in batch["summaries"]:
                rank.add(
                    batch["shard"],
                    Result(summary.row, reason=summary.reason, reason_class=summary.reason_class),
                    {},
                )
            if blow and batch["rows"]:
                blow()
                blow = None
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    return {row["key"]: (row["reason"], row["reason_class"], row["attempts"]) for row in rows if row["reason"]}


def test_a_worker_that_dies_while_another_hangs_leaves_no_process_and_both_items_fail_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 12), per_shard=12)
    before = {p.pid for p in _children()}
    failed = results(run, tmp_path / "media", fatal({3: "crash", 4: "hang", 8: "kill"}), 2, timeout_seconds=1)
    assert failed == {
        "i/3": ("crashed: SIGSEGV", "crash", 3),
        "i/4": ("timed out after 1 s", "timeout", 3),
        "i/8": ("its process was killed (SIGKILL: out of memory?)", "crash", 3),
    }
    wait_for(lambda: not [p for p in _children() if p.pid not in before and _is_worker(p)])


def test_workers_that_are_killed_while_they_wait_are_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 40), per_shard=40)
    before = {p.pid for p in _children()}

    def blow() -> None:
        for process in _children():
            if process.pid not in before and _is_worker(process):
                process.kill()

    assert results(run, tmp_path / "media", fatal({}), 2, blow=blow) == {}


def test_a_worker_that_dies_within_a_message_to_its_rank_does_not_hang_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 30), per_shard=30)
    reads = dict.fromkeys((3, 10, 17, 24), "kill")
    failed = results(run, tmp_path / "media", fatal(reads, size=500_000), 2)
    assert failed.keys() == {f"i/{k}" for k in reads}


def test_an_item_on_which_a_transform_breaks_fails_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 6), per_shard=6)
    failed = results(run, tmp_path / "media", fatal({2: "break"}), 2)
    assert failed == {"i/2": ("crashed: exit status 1", "crash", 3)}


def windows(run: Run, root: Path, mines: Any, num_workers: int, blow: Any = lambda batch: None) -> list[Any]:
    """The batches of a run by one rank, images by size in windows of 6, batches of 2, as lists of values."""
    request = FrameRequest(2, partial(FatalBrightness, mines), batching=Batching(6))
    gathered: dict[tuple[int, int], int] = {}
    batches = []
    with Rank(run) as rank:
        for batch in FrameLoader(rank, str(root), request, num_workers):
            blow(batch)
            batches.append([result.value for result in batch["results"]])
            gathered |= {(batch["shard"], row): r.value for row, r in zip(batch["rows"], batch["results"], strict=True)}
            for summary in batch["summaries"]:
                value = gathered.pop((batch["shard"], summary.row))
                rank.add(batch["shard"], Result(summary.row, num_frames=1), {"json": str(value).encode()})
    assert gathered == {}
    assert {key: int(members["json"]) for key, members in CommittedSamples(run)} == {f"i/{k}": k for k in range(24)}
    return batches


def test_a_worker_that_is_killed_within_a_window_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    images = _images(tmp_path / "media", 24)
    whole = make_run(tmp_path / "whole", images, per_shard=12)
    expected = windows(whole, tmp_path / "media", tmp_path / "mines", 0)
    assert expected[:3] == [[5, 4], [3, 2], [1, 0]]  # from small to large
    (tmp_path / "mines").mkdir()
    for value in (3, 14, 22):
        (tmp_path / "mines" / str(value)).touch()
    disturbed = make_run(tmp_path / "disturbed", images, per_shard=12)
    made = windows(disturbed, tmp_path / "media", tmp_path / "mines", 2)
    assert list((tmp_path / "mines").iterdir()) == []
    assert {tuple(batch) for batch in made} - {()} == {tuple(batch) for batch in expected} - {()}
    assert tars(tmp_path / "disturbed") == tars(tmp_path / "whole") != {}
    rows = [row for shard in disturbed.plan.shards for row in disturbed.table(shard.name).to_pylist()]
    charged = {row["key"]: row["attempts"] for row in rows if row["attempts"] > 1}
    # one that dies at the moment in which workers are ended for another's death is charged with nothing
    assert {} != charged.items() <= {"i/3": 2, "i/14": 2, "i/22": 2}.items()


def test_a_worker_that_is_killed_between_the_batches_of_a_window_has_all_of_it_done_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 24), per_shard=24)
    killed: list[Any] = []

    def kill(batch: Any) -> None:
        if not killed and batch["rows"] and not batch["summaries"]:
            killed.extend(process for process in multiprocessing.active_children())
            for process in killed:
                process.kill()

    windows(run, tmp_path / "media", tmp_path / "mines", 1, kill)
    assert killed


def test_what_cost_a_process_before_comes_last(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 5), per_shard=5)
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


def test_a_mount_that_goes_away_under_a_rank_without_workers_costs_no_attempt(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 4), per_shard=4)
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    for _ in range(3):
        with pytest.raises(EnvironmentFailure, match="is gone, or empty"):
            consume(run, tmp_path / "media", 0)
    with Rank(run) as rank:
        assert lease(rank).spool.failed_attempts == {}


def test_workers_that_neither_work_nor_deliver_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.loading.workers._START_SECONDS", 1.0)
    run = make_run(tmp_path / "run", _images(tmp_path / "media", 2), per_shard=2)
    with pytest.raises(EnvironmentFailure, match=r"no worker has delivered anything for \d s, .* Is /dev/shm full"):
        results(run, tmp_path / "media", HangingStart, 1, timeout_seconds=1)
