import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Item
from datamodules.errors import ConfigError, EnvironmentFailure
from datamodules.run import rank as rank_module
from datamodules.run import schedule
from datamodules.run.activity import read_activity
from datamodules.run.cleanup import clean_up
from datamodules.run.commit import commit
from datamodules.run.folder import Run
from datamodules.run.leases import RANKS, Leases
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.shard_files import write_tar
from datamodules.run.store import Folder
from support.run_paths import folder_of
from support.runs import (
    die_at_an_item,
    finish,
    lease,
    make_run,
    some_items,
    start,
    tars,
    touch_and_leave,
    wait_for,
    work,
    work_slowly,
)
from support.spies import spied

context = multiprocessing.get_context("forkserver")


def checked(run: Run) -> dict[str, bytes]:
    """Return the tars of a complete run, after a check that its tables have every planned item once."""
    records = list(run.records())
    assert [record.shard for record in records] == [shard.name for shard in run.plan.shards]
    assert sum(record.planned for record in records) == run.plan.num_items
    assert all(record.planned == record.committed + record.failed for record in records)
    content = tars(folder_of(run))
    assert list(content) == sorted(f"{record.shard}.tar" for record in records)
    return content


def serial(folder: Path, items: Any, per_shard: int = 4) -> dict[str, bytes]:
    run = make_run(folder, items, per_shard)
    assert work(folder) == len(run.plan.shards)
    return checked(run)


def test_one_rank_commits_every_shard(tmp_path: Path) -> None:
    items = [*some_items(9), Item("train/bad", "train", "bad", ("x.png",)), *some_items(3, "dev")]
    assert len(serial(tmp_path, items)) == 4
    assert list((tmp_path / "work" / "leases").iterdir()) == []
    assert list((tmp_path / "work" / "spool").iterdir()) == []
    assert list((tmp_path / "work" / "staging").iterdir()) == []
    assert list((tmp_path / "work" / "ranks").iterdir()) == []
    assert sum(record.failed for record in Run(tmp_path).records()) == 1


def test_a_rank_that_joins_a_complete_run_does_nothing(tmp_path: Path) -> None:
    serial(tmp_path, 5)
    with Rank(Run(tmp_path)) as rank:
        assert rank.finished()
        assert rank.lease() is None


def test_two_ranks_of_one_process_share_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "two", 20)
    with Rank(run) as one, Rank(run, position=0.5) as other:
        mine: list[str] = []
        theirs: list[str] = []
        while not (one.finished() and other.finished()):
            for rank, leased in ((one, mine), (other, theirs)):
                if opened := rank.lease():
                    leased.append(opened.shard.name)
                    finish(rank, opened)
    assert sorted(mine + theirs) == [shard.name for shard in run.plan.shards]
    assert mine
    assert theirs
    assert checked(run) == serial(tmp_path / "one", 20)


def test_no_shard_is_leased_twice_while_others_wait(tmp_path: Path) -> None:
    run = make_run(tmp_path, 12)
    with Rank(run) as one, Rank(run) as other:
        leased = [lease(rank).shard.name for rank in (one, other, one)]
        assert sorted(leased) == [shard.name for shard in run.plan.shards]
        assert one.lease() is None
        assert other.lease() is None
        assert not one.finished()


def test_costly_shards_come_first_wherever_a_rank_begins(tmp_path: Path) -> None:
    items = [replace(item, cost={7: 50, 13: 90}.get(number, 1)) for number, item in enumerate(some_items(20))]
    run = make_run(tmp_path, items, per_shard=1)
    with Rank(run) as one, Rank(run, position=0.5) as other:
        assert [lease(rank).shard.index for rank in (one, other)] == [13, 7]
        assert {lease(rank).shard.index for rank in (one, other) for _ in range(9)} == {*range(20)} - {13, 7}


def test_processes_that_share_a_run_make_the_tars_of_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "many", 60, per_shard=2)
    processes = [start(work, folder_of(run), 0.002) for _ in range(4)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert checked(run) == serial(tmp_path / "one", 60, per_shard=2)


def test_a_killed_ranks_shard_is_taken_over_with_what_it_had_spooled(tmp_path: Path) -> None:
    run = make_run(tmp_path / "killed", 4)
    done = context.Queue()
    process = start(work_slowly, folder_of(run), 3, done)
    assert done.get(timeout=30) == "train-000000"
    with Rank(run) as rank:
        assert rank.lease() is None
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        opened = lease(rank)
        assert opened.missing == [3]
        finish(rank, opened)
        assert rank.finished()
    assert checked(run) == serial(tmp_path / "one", 4)
    assert list((run.work / "leases").iterdir()) == []


def test_a_shard_whose_holder_died_just_before_the_commit_is_committed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 4)
    with monkeypatch.context() as replaced:
        replaced.setattr(rank_module, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with Rank(run) as rank, pytest.raises(KeyboardInterrupt):
            finish(rank, lease(rank))
    with Rank(run) as rank:
        assert rank.lease() is None
        assert rank.finished()
    checked(run)


def test_a_backup_of_a_slow_ranks_shard_runs_and_the_first_to_commit_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_BACKUP_AFTER_SECONDS", 0.05)
    run = make_run(tmp_path / "backup", 8)
    with Rank(run) as slow, Rank(run) as fast:
        slowly = lease(slow)
        finish(slow, slowly, rows=[0])
        finish(fast, lease(fast))
        slow.publish()
        wait_for(lambda: fast.lease() is not None)
        [backup] = fast.open.values()
        assert backup.shard == slowly.shard
        assert backup.missing == [1, 2, 3]
        finish(fast, backup)
        assert slow.finished()
        finish(slow, slowly)
        assert slow.open == {}
    assert checked(run) == serial(tmp_path / "one", 8)
    assert run.record(slowly.shard.name).rank == fast.name


def test_a_rank_whose_commit_is_refused_counts_no_commit(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as slow:
        slowly = lease(slow)
        slow.leases.clear(slowly.shard.name)
        work(tmp_path)
        finish(slow, slowly)
        assert slow.num_committed == 0


def test_a_rank_abandons_shards_that_others_committed(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as slow:
        slowly = lease(slow)
        slow.leases.clear(slowly.shard.name)
        work(tmp_path)
        slow.abandon_committed()
        assert slow.open == {}
        slow.add(slowly.shard.number, Result(0), {"json": b"late"})
    checked(run)


def test_a_rank_that_never_committed_backs_up_a_hanging_ranks_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_BACKUP_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(schedule, "_UNKNOWN_SECONDS", 0.05)
    run = make_run(tmp_path, 4)
    with Rank(run) as hanging, Rank(run) as late:
        assert hanging.lease()
        hanging.publish()
        time.sleep(0.3)
        assert late.lease() is not None


def test_shards_that_a_stale_listing_shows_as_free_are_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 12)
    with Rank(run) as first, Rank(run) as second:
        held = [lease(first) for _ in range(3)]
        tried: list[str] = []
        spy = spied(second.leases.claim, lambda name, *_: tried.append(name))
        monkeypatch.setattr(second.leases, "claim", spy)
        monkeypatch.setattr(second.leases, "claimed", set)
        second._schedule._todo = []
        assert second.lease() is None
        assert sorted(tried) == [opened.shard.name for opened in held]


def test_a_rank_that_finds_a_shard_committed_lists_anew_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 20)
    with Rank(run) as first, Rank(run) as second:
        for _ in range(len(run.plan.shards) - 1):
            finish(second, lease(second))
        tried: list[str] = []
        monkeypatch.setattr(first.leases, "claim", spied(first.leases.claim, lambda name, *_: tried.append(name)))
        last = lease(first).shard.name
    assert tried == [run.plan.shards[0].name, last]


def test_cleaning_up_asks_for_no_rank_of_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as rank:
        finish(rank, lease(rank))
    (run.work / "ranks" / "elsewhere-1-abc").write_text(json.dumps({"identity": vars(rank.leases.identity)}))
    read: list[str] = []
    monkeypatch.setattr(Folder, "read", spied(Folder.read, lambda _, name: read.append(name)))
    clean_up(run)
    assert [name for name in read if name.startswith(RANKS)] == []
    assert run.store.names(RANKS) == ["elsewhere-1-abc"]


def test_cleaning_up_a_complete_run_removes_only_what_dead_ranks_left(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    process = start(work_slowly, tmp_path, 1, (done := context.Queue()))
    done.get()
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    (dead,) = run.store.names(RANKS)
    (run.work / "ranks" / f"{dead}.7.partial").write_text("cut")
    (run.work / "ranks" / "torn-1-abc").write_text("")
    (run.work / "spool" / ".nfs0001").write_text("removed, but still open somewhere")
    (run.work / "planning" / "plan.arrow.abcd").mkdir()
    (run.work / "planning" / "plan.arrow.abcd" / "train").write_text("")
    with Rank(run) as living:
        finish(living, lease(living))
        os.link(run.work / "ranks" / living.name, run.work / "leases" / "train-000000.000009")
        living.publish()
        clean_up(run)
        left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
        assert sorted(map(str, left)) == [
            run.plan.rows_name,
            "plan.arrow",
            "records/train-000000.json",
            "tables/train-000000.parquet",
            "train-000000.tar",
            f"work/ranks/{living.name}",
            "work/spool/.nfs0001",
        ]
        assert list((run.work / "planning").iterdir()) == []


def test_only_leases_every_nth_shard_and_others_do_the_rest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "split", 20)
    for part in range(3):
        with Rank(run, only=(part, 3)) as rank:
            while opened := rank.lease():
                assert opened.shard.number % 3 == part
                finish(rank, opened)
            assert rank.finished()
    assert checked(run) == serial(tmp_path / "one", 20)


@pytest.mark.parametrize("only", [(3, 3), (-1, 2), (0, 0)])
def test_an_only_out_of_range_is_refused(tmp_path: Path, only: tuple[int, int]) -> None:
    run = make_run(tmp_path, 1)
    with pytest.raises(ConfigError, match=rf"only = {only[0]}/{only[1]}: give i/n"):
        Rank(run, only=only)


def test_a_late_or_duplicate_result_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as rank:
        opened = lease(rank)
        rank.add(99, Result(0), {"json": b"of no open shard"})
        finish(rank, opened, rows=[0])
        rank.add(opened.shard.number, Result(0), {"json": b"again"})
        assert rank.activity.items == 1
        finish(rank, opened)
    assert checked(run) == serial(tmp_path / "one", 4)


def test_activity_reports_what_a_rank_is_doing(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*some_items(3), Item("bad", "train", "bad", ("x.png",))])
    with Rank(run, measure=lambda: {"cpu_percent": 1.0}) as rank:
        opened = lease(rank)
        finish(rank, opened, rows=[3, 0])
        rank.publish()
        activity = read_activity(run.store, rank.name)
        assert activity is not None
        assert (activity.items, activity.failed) == (2, 1)
        assert list(activity.shards) == ["train-000000"]
        progress = activity.shards["train-000000"]
        assert (progress.rows, progress.num_rows, progress.frames) == (2, 4, 1)
    assert read_activity(run.store, rank.name) is None


def test_an_item_in_progress_counts_by_its_extracted_frames(tmp_path: Path) -> None:
    frames = tuple(f"{number}.png" for number in range(10))
    run = make_run(tmp_path, [Item("a", "train", "a", frames, cost=999), Item("b", "train", "b", frames, cost=99)])

    def published() -> tuple[int, int, int, int]:
        rank.publish()
        activity = read_activity(run.store, rank.name)
        assert activity is not None
        progress = activity.shards["train-000000"]
        return activity.frames, activity.cost, progress.frames, progress.cost

    with Rank(run) as rank:
        opened = lease(rank)
        rank.add_frame(99, 0, 0, 10)  # of no open shard
        assert published() == (0, 0, 0, 0)
        for frame_idx in range(3):
            rank.add_frame(opened.shard.number, 0, frame_idx, 10)
        assert published() == (3, 300, 3, 300)
        rank.add_frame(opened.shard.number, 0, 0, 10)  # the item is read anew: its first attempt is work, not progress
        assert published() == (4, 400, 1, 100)
        rank.add(opened.shard.number, Result(0, num_frames=10), {"json": b"{}"})
        assert published() == (4, 1300, 10, 1000)
        rank.add(opened.shard.number, Result(1, reason="it is bad", reason_class="decode"), {})
    assert rank.activity.items == 2


def test_a_full_disk_is_an_environment_failure_and_the_run_can_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 8)
    with Rank(run) as rank:
        finish(rank, lease(rank))
        opened = lease(rank)
        with monkeypatch.context() as replaced:
            replaced.setattr(opened.spool, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
            with pytest.raises(EnvironmentFailure, match=r"No space left.* 1 of 2 shards are committed and safe"):
                finish(rank, opened)
    work(tmp_path)
    checked(run)


def test_a_spool_that_cannot_be_opened_is_an_environment_failure(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    (run.work / "spool").write_text("a file where a folder should be")
    with Rank(run) as rank, pytest.raises(EnvironmentFailure, match="cannot be written to"):
        rank.lease()


def test_a_heartbeat_that_failed_once_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "beat_seconds", 0.01)
    run = make_run(tmp_path, 4)
    failures = [OSError(5, "Input/output error")]
    with Rank(run) as rank:
        beat, beats = rank.leases.beat, []

        def once() -> None:
            beats.append(1)
            if failures:
                raise failures.pop()
            beat()

        monkeypatch.setattr(rank.leases, "beat", once)
        wait_for(lambda: len(beats) > 3)
        finish(rank, lease(rank))
    checked(run)


def test_cleaning_up_between_another_ranks_record_and_rename_loses_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 4)
    rename = os.rename

    def cleans_up_before(source: Any, destination: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        assert run.committed() == {"train-000000"}  # so the other rank takes the run for complete
        clean_up(run)
        rename(source, destination)

    monkeypatch.setattr(os, "rename", cleans_up_before)
    work(tmp_path)
    checked(run)


def test_a_rank_whose_staged_files_were_cleaned_up_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, 4)
    link = os.link

    def cleans_up_before(source: Any, target: Any) -> None:
        if target.parent.name == "records":
            monkeypatch.setattr(os, "link", link)
            for claim in (run.work / "leases").iterdir():
                claim.unlink()
            work(tmp_path)
            clean_up(run)
        link(source, target)

    with Rank(run) as dead:
        opened = lease(dead)
        monkeypatch.setattr(rank_module, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish(dead, opened)
        monkeypatch.setattr(rank_module, "commit", commit)
    monkeypatch.setattr(os, "link", cleans_up_before)
    with Rank(run) as late:
        assert late.lease() is None
        assert late.finished()
        assert late.num_committed == 0
    assert checked(run) == serial(tmp_path / "one", 4)


def test_others_finish_the_renames_of_a_rank_killed_after_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 8)
    with Rank(run) as survivor:
        with Rank(run) as dying, monkeypatch.context() as replaced:
            replaced.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                finish(dying, lease(dying))
        while not survivor.finished():
            finish(survivor, lease(survivor))
    clean_up(run)
    checked(run)


def test_ranks_killed_at_any_moment_lose_nothing_and_the_tars_are_the_same(tmp_path: Path) -> None:
    expected = serial(tmp_path / "whole", 24, per_shard=3)
    chance = random.Random(0)
    for attempt in range(3):
        run = make_run(tmp_path / str(attempt), 24, per_shard=3)
        for _ in range(5):
            process = start(work, folder_of(run), 0.01)
            time.sleep(chance.uniform(0.02, 0.25))
            os.kill(process.pid, signal.SIGKILL)
            process.join(10)
        work(folder_of(run))
        assert checked(run) == expected


def test_an_active_item_of_a_shard_that_others_committed_is_released(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as slow:
        slowly = lease(slow)
        slow.mark_active(slowly.shard.number, [0])
        slow.leases.clear(slowly.shard.name)
        work(tmp_path)
        slow.abandon_committed()
        slow.mark_idle()
        assert slow.open == {}
    checked(run)


@pytest.mark.parametrize(("stopping", "charged"), [(None, [0]), (signal.SIGTERM, [])])
def test_a_process_that_is_killed_charges_its_item_unless_it_was_asked_to_stop_before(
    tmp_path: Path, stopping: int | None, charged: list[int]
) -> None:
    run = make_run(tmp_path, 4)
    start(die_at_an_item, tmp_path, stopping).join(30)
    with Rank(run) as rank:
        assert list(lease(rank).spool.failed_attempts) == charged


def test_the_timer_of_a_closed_rank_does_not_end_the_process(tmp_path: Path) -> None:
    process = start(touch_and_leave, folder_of(make_run(tmp_path, 4)))
    process.join(30)
    assert process.exitcode == 0


def test_a_scratch_folder_that_cannot_be_made_fails_no_item(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1)
    (run.work / "scratch").write_bytes(b"")
    with Rank(run) as rank, pytest.raises(EnvironmentFailure, match=r"cannot be written to: .* Fix the problem"):
        _ = rank.scratch


def test_a_store_that_cannot_be_listed_either_gives_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as rank:
        opened = lease(rank)

        def unreachable(*_: Any, **__: Any) -> Any:
            raise OSError(113, "No route to host")

        with monkeypatch.context() as cut_off:
            for method in ("names", "staged"):
                cut_off.setattr(run.store, method, unreachable)
            with pytest.raises(EnvironmentFailure, match=r"No route to host\. Committed"):
                finish(rank, opened)


def test_a_record_says_how_its_rank_spent_the_time_and_who_had_the_shard_before(tmp_path: Path) -> None:
    run = make_run(tmp_path, 8)
    before = time.time()
    done = context.Queue()
    process = start(work_slowly, folder_of(run), 3, done)
    taken = done.get(timeout=30)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    [claim] = Leases(Folder(tmp_path)).list_claims()[taken]
    assert claim.holder is not None
    with Rank(run) as rank:
        rank.activity.workers = 2
        while opened := rank.lease():
            rank.add_seconds(opened.shard.number, "compute", 1.5)
            rank.add_seconds(opened.shard.number, "compute", 0.25)
            finish(rank, opened)
        rank.add_seconds(0, "wait", 4.0)  # of a shard that is committed: counts for the rank only
        assert rank.activity.seconds["wait"] == 4.0
        assert rank.activity.seconds["compute"] == 3.5

    records = {record.shard: record for record in run.records()}
    assert records.keys() == {"train-000000", "train-000001"}
    for name, record in records.items():
        timing = record.timing
        assert before - 1 < timing.began <= time.time()
        assert timing.workers == 2
        assert (timing.phases["compute"], timing.phases["wait"], timing.phases["read"]) == (1.75, 0.0, 0.0)
        assert 0 <= timing.phases["write"] <= record.seconds
        assert timing.holders == ([claim.holder.rank] if name == taken else [])


def test_the_time_in_which_the_files_of_a_shard_are_written_is_in_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.run.commit.write_tar", spied(write_tar, lambda *_: time.sleep(0.1)))
    run = make_run(tmp_path, 1)
    with Rank(run) as rank:
        finish(rank, lease(rank))
    [record] = run.records()
    assert 0.1 <= record.timing.phases["write"] <= record.seconds < 10
