import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import EnvironmentFailure
from datamodules.loading.loader import FrameLoader
from datamodules.loading.request import Batching, FrameRequest
from datamodules.loading.workers import Workers
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.result import Result
from support.crashing_transforms import FatalBrightness, FatalTransform, HangingStart
from support.frame_corpora import image_items
from support.runs import make_run, tars, wait_for
from support.worker_processes import children, is_worker


def fatal(reads: Any, size: int = 1) -> Any:
    """A transform that does to its worker what `reads` says, by the value of the image: crash, hang, kill, break."""
    return partial(FatalTransform, reads, size)


def results(
    run: Run, root: Path, transform: Any, num_workers: int, timeout_seconds: float = 120.0, disturb: Any = None
) -> dict[str, Any]:
    """Run one rank whose workers apply `transform`: (reason, class, attempts) of the failures, by key.

    `disturb` is called after the first batch.
    """
    with Rank(run) as rank:
        loader = FrameLoader(rank, str(root), FrameRequest(1, transform), num_workers, timeout_seconds=timeout_seconds)
        for batch in loader:
            for summary in batch["summaries"]:
                rank.add(
                    batch["shard"],
                    Result(summary.row, reason=summary.reason, reason_class=summary.reason_class),
                    {},
                )
            if disturb and batch["rows"]:
                disturb()
                disturb = None
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    return {row["key"]: (row["reason"], row["reason_class"], row["attempts"]) for row in rows if row["reason"]}


def test_a_worker_that_dies_while_another_hangs_leaves_no_process_and_both_items_fail_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 12), per_shard=12)
    before = {p.pid for p in children()}
    failed = results(run, tmp_path / "media", fatal({3: "crash", 4: "hang", 8: "kill"}), 2, timeout_seconds=1)
    assert failed == {
        "i/3": ("crashed: SIGSEGV", "crash", 3),
        "i/4": ("timed out after 1 s", "timeout", 3),
        "i/8": ("its process was killed (SIGKILL: out of memory?)", "crash", 3),
    }
    wait_for(lambda: not [p for p in children() if p.pid not in before and is_worker(p)])


def test_workers_that_are_killed_while_they_wait_are_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 40), per_shard=40)
    before = {p.pid for p in children()}

    def disturb() -> None:
        for process in children():
            if process.pid not in before and is_worker(process):
                process.kill()

    assert results(run, tmp_path / "media", fatal({}), 2, disturb=disturb) == {}


@pytest.mark.timeout(60)
def test_workers_that_are_killed_while_one_holds_a_lock_do_not_hang_their_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 40), per_shard=40)
    before, iterators, start = {p.pid for p in children()}, [], Workers.__init__

    def remember(workers: Workers, *arguments: Any) -> None:
        start(workers, *arguments)
        iterators.append(workers._batches)

    def disturb() -> None:
        iterators[0]._workers_done_event._cond.acquire()  # each worker holds this lock whenever it gets a ticket
        for process in children():
            if process.pid not in before and is_worker(process):
                process.kill()

    monkeypatch.setattr(Workers, "__init__", remember)
    assert results(run, tmp_path / "media", fatal({}), 2, disturb=disturb) == {}


def test_a_worker_that_dies_within_a_message_to_its_rank_does_not_hang_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 30), per_shard=30)
    reads = dict.fromkeys((3, 17), "kill")
    failed = results(run, tmp_path / "media", fatal(reads, size=500_000), 2)
    assert failed.keys() == {f"i/{k}" for k in reads}


def test_an_unexpected_error_of_a_transform_fails_its_item_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 6), per_shard=6)
    failed = results(run, tmp_path / "media", fatal({2: "break"}), 2)
    assert failed == {"i/2": ("crashed: exit status 1", "crash", 3)}


def windows(run: Run, root: Path, fatal_values: Any, num_workers: int, disturb: Any = lambda batch: None) -> list[Any]:
    """Run one rank that groups images by size, windows of 6 into batches of 2; the values of each batch."""
    request = FrameRequest(2, partial(FatalBrightness, fatal_values), batching=Batching(6))
    gathered: dict[tuple[int, int], int] = {}
    batches = []
    with Rank(run) as rank:
        for batch in FrameLoader(rank, str(root), request, num_workers):
            disturb(batch)
            batches.append([result.value for result in batch["results"]])
            gathered |= {(batch["shard"], row): r.value for row, r in zip(batch["rows"], batch["results"], strict=True)}
            for summary in batch["summaries"]:
                value = gathered.pop((batch["shard"], summary.row))
                rank.add(batch["shard"], Result(summary.row, num_frames=1), {"json": str(value).encode()})
    assert gathered == {}
    assert {key: int(members["json"]) for key, members in CommittedSamples(run)} == {f"i/{k}": k for k in range(24)}
    return batches


def test_a_worker_that_is_killed_within_a_window_loses_and_repeats_nothing(tmp_path: Path) -> None:
    images = image_items(tmp_path / "media", 24)
    whole = make_run(tmp_path / "whole", images, per_shard=12)
    expected = windows(whole, tmp_path / "media", tmp_path / "fatal_values", 0)
    assert expected[:3] == [[5, 4], [3, 2], [1, 0]]  # from small to large
    (tmp_path / "fatal_values").mkdir()
    for value in (3, 14, 22):
        (tmp_path / "fatal_values" / str(value)).touch()
    disturbed = make_run(tmp_path / "disturbed", images, per_shard=12)
    batches = windows(disturbed, tmp_path / "media", tmp_path / "fatal_values", 2)
    assert list((tmp_path / "fatal_values").iterdir()) == []
    assert {tuple(batch) for batch in batches} - {()} == {tuple(batch) for batch in expected} - {()}
    assert tars(tmp_path / "disturbed") == tars(tmp_path / "whole") != {}
    rows = [row for shard in disturbed.plan.shards for row in disturbed.table(shard.name).to_pylist()]
    charged = {row["key"]: row["attempts"] for row in rows if row["attempts"] > 1}
    # a worker that dies just when all are killed because of another one's death is charged with nothing
    assert {} != charged.items() <= {"i/3": 2, "i/14": 2, "i/22": 2}.items()


def test_a_window_is_read_again_as_a_whole_if_its_worker_dies_between_its_batches(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 24), per_shard=24)
    killed: list[Any] = []

    def kill(batch: Any) -> None:
        if not killed and batch["rows"] and not batch["summaries"]:
            killed.extend(process for process in multiprocessing.active_children())
            for process in killed:
                process.kill()

    windows(run, tmp_path / "media", tmp_path / "fatal_values", 1, kill)
    assert killed


def test_workers_that_neither_work_nor_deliver_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.loading.workers._START_SECONDS", 1.0)
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 2), per_shard=2)
    with pytest.raises(EnvironmentFailure, match=r"no worker has delivered anything for \d s, .* Is /dev/shm full"):
        results(run, tmp_path / "media", HangingStart, 1, timeout_seconds=1)
