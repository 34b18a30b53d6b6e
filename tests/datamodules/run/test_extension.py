"""Extending a run: new items of its corpus get shards of their own, and nothing else changes."""

import logging
import pickle
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.corpus import Item
from datamodules.errors import CorpusError, RunError
from datamodules.run.cleanup import clean_up
from datamodules.run.extension import EXTENDED, Changes, extend
from datamodules.run.folder import Run
from datamodules.run.plan import ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.reader import CommittedSamples
from preprocess.commands.merge import merge
from preprocess.integrity import coverage, verify
from support.retry_runs import do, make_failing_run, named, open_retry
from support.runs import FINGERPRINT, Listed, listing, make_run, some_items, start, tars, work

SIZE = ShardSize(max_items=2, min_shards=1)
ITEMS = some_items(10) + some_items(3, "dev")


def extended(folder: Path, items: Sequence[Item], began: float | None = None) -> Run:
    """Extend a run as a command does that began at this time; None: now, some time after all before."""
    if began is None:
        time.sleep(0.05)  # file systems give times of some ms
    return extend(Run(folder), Listed(items), FINGERPRINT, SIZE, time.time() if began is None else began)


def names(run: Run) -> list[str]:
    return [shard.name for shard in run.plan.shards]


def keys(run: Run) -> list[str]:
    return [key for shard in run.plan.shards for key in run.plan.keys(shard.number)]


def test_new_items_get_further_shards_and_nothing_else_changes(tmp_path: Path) -> None:
    make_run(tmp_path, [*ITEMS[:4], *ITEMS[10:12]], per_shard=2)
    work(tmp_path)
    before = {name: facts for name, facts in listing(tmp_path).items() if "." in name and name[:4] != "work"}

    run = extended(tmp_path, ITEMS)
    assert names(run) == [
        "train-000000",
        "train-000001",
        "dev-000000",
        *(f"train-{n:06d}" for n in (2, 3, 4)),
        "dev-000001",
    ]
    assert [shard.number for shard in run.plan.shards] == list(range(7))
    assert sorted(keys(run)) == sorted(item.key for item in ITEMS)
    assert run.plan.num_items == 13
    assert [run.plan.place(position) for position in (0, 5, 6, 12)] == [(0, 0), (2, 1), (3, 0), (6, 0)]
    assert run.plan.item(6, 0).key == ITEMS[12].key
    assert not run.is_complete()
    assert coverage(run).missing == 7

    work(tmp_path)
    after = listing(tmp_path)
    assert {name: after[name] for name in before} == before
    run = Run(tmp_path)
    assert run.is_complete()
    assert list(verify(run)) == []
    assert {key for key, _ in CommittedSamples(run)} == {item.key for item in ITEMS}


def test_its_tars_are_those_of_a_run_with_all_items(tmp_path: Path) -> None:
    make_run(tmp_path / "whole", ITEMS[:10], per_shard=2)
    work(tmp_path / "whole")
    make_run(tmp_path / "grown", ITEMS[:4], per_shard=2)
    extended(tmp_path / "grown", ITEMS[:8])
    extended(tmp_path / "grown", ITEMS[:10])
    work(tmp_path / "grown")
    assert tars(tmp_path / "grown") == tars(tmp_path / "whole")
    assert len(Run(tmp_path / "grown").plan.parts) == 3


def test_without_new_items_nothing_is_planned(tmp_path: Path) -> None:
    make_run(tmp_path, 4)
    assert names(extended(tmp_path, some_items(4))) == ["train-000000"]
    assert not (tmp_path / "plan-extension001.arrow").exists()
    assert (tmp_path / EXTENDED).exists()


def test_a_rank_of_the_same_command_does_not_list_the_corpus_again(tmp_path: Path) -> None:
    make_run(tmp_path, 4)
    began = time.time() - 1
    extended(tmp_path, some_items(6), began)
    assert len(keys(extended(tmp_path, some_items(8), began))) == 6
    assert len(keys(extended(tmp_path, some_items(8)))) == 8  # of a command that begins now


def add_and_work(folder: Path, num_items: int, began: float) -> None:
    extended(folder, some_items(num_items), began)
    work(folder)


def test_ranks_that_extend_at_once_plan_one_extension(tmp_path: Path) -> None:
    make_run(tmp_path, 4)
    began = time.time()
    processes = [start(add_and_work, tmp_path, 12, began) for _ in range(3)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    run = Run(tmp_path)
    assert len(run.plan.parts) == 2
    assert run.is_complete()
    assert list(verify(run)) == []
    assert sorted(keys(run)) == sorted(item.key for item in some_items(12))


def test_a_rank_that_was_taken_for_dead_does_not_extend_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)

    class Overtaken(Listed):
        """Another rank extends the run while this one lists the corpus."""

        def items(self):  # type: ignore[no-untyped-def]
            write_plan(some_items(6)[4:], run.store, FINGERPRINT, SIZE, extended=run.plan)
            yield from some_items(6)

    grown = extend(run, Overtaken([]), FINGERPRINT, SIZE, time.time())
    assert len(grown.plan.parts) == 2
    assert sorted(keys(grown)) == sorted(item.key for item in some_items(6))


def test_what_changed_and_what_is_gone_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planned = [replace(item, modified=1000.0) for item in some_items(6)]
    make_run(tmp_path, planned)
    now = [
        replace(planned[0], cost=2),
        replace(planned[1], modified=1001.0),  # within the precision of file systems
        replace(planned[2], modified=2000.0),
        replace(planned[3], modified=None),  # not compared
        *some_items(8)[6:],
    ]
    with caplog.at_level(logging.WARNING):
        run = extended(tmp_path, now)
    assert [record.getMessage() for record in caplog.records] == [
        "new: 2 items are planned beside the 6 of this run",
        "gone: 2 planned items are no longer in the corpus. Their samples stay",
        "changed: 2 items have another size, time or ETag than when they were planned (train/item000, train/item002). "
        f"Their samples stay; `preprocess retry {tmp_path} --keys FILE` makes them again",
    ]
    assert run.plan.item(0, 0).cost == 1


def test_changes_are_found_by_etag_where_there_is_one(tmp_path: Path) -> None:
    planned = [replace(item, modified=1000.0, version="a") for item in some_items(3)]
    changes = Changes(make_run(tmp_path, planned).plan)
    now = [replace(planned[0], modified=9e9), replace(planned[1], version="b"), replace(planned[2], version=None)]
    assert list(changes.new_items(now)) == []
    assert (changes.num_changed, changes.changed, changes.num_gone) == (1, ["train/item001"], 0)


def test_new_items_whose_fields_have_another_type_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, 4)
    before = listing(tmp_path)
    new = some_items(5)[4]
    for meta, problem in (({"number": "five"}, "is int64"), ({"number": 5, "signer": "a"}, "'signer' is missing")):
        with pytest.raises(CorpusError, match=problem):
            extended(tmp_path, [*some_items(4), replace(new, meta=meta)])
    assert {name for name in listing(tmp_path) if not name.startswith("work")} == {
        name for name in before if not name.startswith("work")
    }
    assert len(keys(extended(tmp_path, [*some_items(4), replace(new, meta={"number": None})]))) == 5


def test_two_new_items_with_one_key_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, 2)
    new = some_items(3)[2]
    with pytest.raises(CorpusError, match="two items have the key 'train/item002'"):
        extended(tmp_path, [*some_items(2), new, new])
    assert len(Run(tmp_path).plan.parts) == 1


def test_an_extension_of_another_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, 2)
    write_plan(some_items(3)[2:], run.store, {**FINGERPRINT, "version": 2}, SIZE, extended=run.plan)
    with pytest.raises(RunError, match=r"plan-extension001\.arrow extends another run"):
        Run(tmp_path)


def test_an_extended_run_is_retried_merged_cleaned_and_pickled(tmp_path: Path) -> None:
    folder = make_failing_run(tmp_path / "run", ["train/a", "train/b-bad-once"])
    grown = [named(key) for key in ("train/a", "train/b-bad-once", "train/c", "train/d-bad-once")]
    run = extend(Run(folder), Listed(grown), Run(folder).plan.fingerprint, SIZE, time.time())
    do(run)
    assert coverage(Run(folder)).failed == 2
    do(open_retry(folder))
    run = Run(folder)
    assert (coverage(run).committed, coverage(run).failed) == (4, 0)
    assert list(verify(run)) == []
    clean_up(run)
    assert Run(folder).plan.num_items == 4

    other = make_failing_run(tmp_path / "other", ["train/x"])
    merged = merge([folder, other], tmp_path / "merged")
    assert sorted(keys(merged)) == ["train/a", "train/b-bad-once", "train/c", "train/d-bad-once", "train/x"]
    assert len(merged.plan.parts) == 1
    assert list(verify(merged)) == []

    plan = pickle.loads(pickle.dumps(run.plan))
    assert [plan.keys(shard.number) for shard in plan.shards] == [run.plan.keys(s.number) for s in run.plan.shards]


def test_a_damaged_extension_is_found(tmp_path: Path) -> None:
    run = make_run(tmp_path, 2)
    grown = extended(tmp_path, some_items(4))
    rows = tmp_path / grown.plan.parts[1].rows_name
    rows.write_bytes(rows.read_bytes()[:-1] + b"\0")
    with pytest.raises(RunError, match=r"plan-extension001\.[0-9a-f]{16}\.zst is damaged"):
        Run(tmp_path).plan.require_intact()
    run.plan.require_intact()
