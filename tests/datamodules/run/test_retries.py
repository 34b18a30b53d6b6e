"""Retries of failed items: every sample is in one tar, and the rest of the folder is unchanged."""

import multiprocessing
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import webdataset

from datamodules.errors import ConfigError, RunError
from datamodules.run.failures import count_failures, failures
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from support.retry_runs import KEYS, do, make_failing_run, named, open_retry, retry_at_once
from support.runs import FINGERPRINT, make_run, members_of, start, tars, work

BAD = ["train/b-bad-once", "train/d-bad-twice", "train/e-bad-always", "train/g-crash", "dev/x-bad-once"]


def whole(folder: Path) -> list[str]:
    """The key of every sample in the folder's tars, sorted."""
    keys = []
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            keys += [name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json")]
    return sorted(keys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_failing_run(tmp_path / "run")


def committed(folder: Path) -> dict[str, Any]:
    return dict(CommittedSamples(Run(folder)))


def failed(folder: Path, *classes: Any) -> list[Any]:
    return [(failure.item.key, failure.shard, failure.reason) for failure in failures(Run(folder), classes)]


def test_failures_are_listed_in_planned_order_with_their_items(folder: Path) -> None:
    failures_of_run = list(failures(Run(folder)))
    assert [failure.item for failure in failures_of_run] == [named(key) for key in BAD]
    assert [(failure.shard, failure.reason_class) for failure in failures_of_run] == [
        ("train-000000", "decode"),
        ("train-000001", "decode"),
        ("train-000001", "decode"),
        ("train-000002", "crash"),
        ("dev-000000", "decode"),
    ]
    assert [failure.item.key for failure in failures(Run(folder), ["crash"])] == ["train/g-crash"]
    assert [failure.item.key for failure in failures(Run(folder), split="dev")] == ["dev/x-bad-once"]
    assert count_failures(Run(folder)) == {"crash": 1, "decode": 4}


def test_a_retry_plans_the_failed_items_alone(folder: Path) -> None:
    retry = open_retry(folder)
    assert retry.retry == 1
    assert [(shard.name, retry.plan.keys(shard.number)) for shard in retry.plan.shards] == [
        ("train-retry001-000000", ["train/b-bad-once", "train/d-bad-twice"]),
        ("train-retry001-000001", ["train/e-bad-always", "train/g-crash"]),
        ("dev-retry001-000000", ["dev/x-bad-once"]),
    ]
    assert retry.plan.items(2) == [named("dev/x-bad-once")]
    retried = {"of": Run(folder).fingerprint_digest, "classes": None, "keys": None}
    assert retry.plan.fingerprint == {**FINGERPRINT, "retry": retried}


def test_a_retry_changes_no_committed_file_and_every_sample_is_read_once(folder: Path) -> None:
    before = tars(folder)
    do(open_retry(folder))
    after = tars(folder)
    assert {name: after[name] for name in before} == before
    good = sorted(KEYS)
    for key in ("train/d-bad-twice", "train/e-bad-always", "train/g-crash"):
        good.remove(key)
    assert whole(folder) == good
    assert committed(folder) == {key: members_of(named(key)) for key in good}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_each_key_once(folder: Path) -> None:  # it leaves its files open
    do(open_retry(folder))
    do(open_retry(folder))
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=webdataset.split_by_node)
    keys = sorted(sample["__key__"] for sample in dataset)
    assert keys == sorted(set(KEYS) - {"train/e-bad-always"})


def test_samples_of_retries_are_read_in_place_of_the_rows_they_supersede(folder: Path) -> None:
    do(open_retry(folder))
    do(open_retry(folder))
    assert [key for key, _ in CommittedSamples(Run(folder), "train")] == [
        key for key in KEYS[:7] if "always" not in key
    ]
    assert [key for key, _ in CommittedSamples(Run(folder), "dev")] == ["dev/x-bad-once", "dev/y"]


def test_rows_come_from_the_last_retry_and_name_their_shard(folder: Path) -> None:
    do(open_retry(folder))
    do(open_retry(folder))
    run = Run(folder)
    rows = run.rows("train-000001", ["key", "reason", "supersedes"]).to_pylist()
    assert rows == [
        {"key": "train/d-bad-twice", "reason": None, "supersedes": "train-retry001-000000",
         "shard": "train-retry002-000000"},
        {"key": "train/e-bad-always", "reason": "bad in 2", "supersedes": "train-retry001-000001",
         "shard": "train-retry002-000000"},
        {"key": "train/f", "reason": None, "supersedes": None, "shard": "train-000001"},
    ]  # fmt: skip
    assert Run(folder, 1).table("train-retry001-000000", ["key", "supersedes"]).to_pylist() == [
        {"key": "train/b-bad-once", "supersedes": "train-000000"},
        {"key": "train/d-bad-twice", "supersedes": "train-000001"},
    ]


def test_counts_need_only_records_and_leave_out_failures_that_a_retry_resolved(folder: Path) -> None:
    do(open_retry(folder))
    for table in (folder / "tables").iterdir():
        table.rename(table.with_suffix(".away"))
    after_one = Run(folder).outcome()
    assert (after_one.committed, after_one.failed, after_one.failure_classes) == (6, 3, {"crash": 1, "decode": 2})
    for table in (folder / "tables").iterdir():
        table.rename(table.with_suffix(".parquet"))
    assert failed(folder) == [
        ("train/d-bad-twice", "train-retry001-000000", "bad in 1"),
        ("train/e-bad-always", "train-retry001-000001", "bad in 1"),
        ("train/g-crash", "train-retry001-000001", "crashed: SIGSEGV"),
    ]
    do(open_retry(folder))
    assert failed(folder) == [("train/e-bad-always", "train-retry002-000000", "bad in 2")]
    assert Run(folder).outcome("train").failure_classes == {"decode": 1}
    assert Run(folder).outcome("dev").failed == 0


def test_a_retry_by_class_leaves_the_others_to_the_next(folder: Path) -> None:
    do(open_retry(folder, "crash"))
    assert failed(folder, "crash") == [("train/g-crash", "train-retry001-000000", "crashed: SIGSEGV")]
    do(open_retry(folder, "decode"))
    record = Run(folder, 2).record("train-retry002-000000")
    assert (record.superseded_classes, record.failure_classes) == ({"decode": 2}, {})
    do(open_retry(folder))
    assert [key for key, _, _ in failed(folder)] == ["train/e-bad-always"]
    assert whole(folder) == sorted(set(KEYS) - {"train/e-bad-always"})


def test_an_interrupted_retry_resumes_by_the_same_command_only(folder: Path) -> None:
    do(open_retry(folder), num_shards=1)
    with pytest.raises(RunError, match=r"unfinished retry, retry 1, with other settings.*version: 1 there, 2 here"):
        open_retry(folder, fingerprint={**FINGERPRINT, "version": 2})
    with pytest.raises(RunError, match=r"retry\.classes: None there, \['crash'\] here"):
        open_retry(folder, "crash")
    retry = open_retry(folder)
    assert retry.retry == 1
    do(retry)
    assert Run(folder, 1).is_complete()
    assert committed(folder).keys() == set(whole(folder))


def test_ranks_that_start_before_a_retry_ends_join_it_and_later_ones_make_another(folder: Path) -> None:
    began = time.time()
    do(open_retry(folder, began=began))
    assert open_retry(folder, began=began).retry == 1
    assert open_retry(folder, "crash", began=began).retry == 2


def test_processes_that_retry_at_once_get_one_retry(folder: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    ready, numbers = context.Barrier(2), context.Queue()
    processes = [start(retry_at_once, folder, ready, numbers) for _ in range(2)]
    assert [numbers.get(timeout=60) for _ in processes] == [1, 1]
    for process in processes:
        process.join(10)
    assert [retry.retry for retry in Run(folder).retries] == [1]
    assert committed(folder).keys() == set(whole(folder))


def test_a_run_that_is_not_complete_cannot_be_retried(tmp_path: Path) -> None:
    do(make_run(tmp_path, [named("train/a-bad-once"), named("train/b")], per_shard=1), num_shards=1)
    with pytest.raises(RunError, match=r"is not complete\. Finish it with the same command first"):
        open_retry(tmp_path)


def test_a_run_without_failures_has_nothing_to_retry(tmp_path: Path) -> None:
    make_run(tmp_path, 2)
    work(tmp_path)
    assert count_failures(Run(tmp_path)) == {}
    with pytest.raises(RunError, match="has nothing to retry"):
        open_retry(tmp_path)


def test_a_class_without_failures_is_refused_and_the_existing_classes_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--class extract: no item of .* has this class\. Use one of crash, decode"):
        count_failures(Run(folder), ["extract"])


def test_a_missing_retry_fails(folder: Path) -> None:
    with pytest.raises(RunError, match=r"it has no plan-001\.arrow"):
        Run(folder, 1)


def test_rows_of_a_run_without_retries_are_its_tables(folder: Path) -> None:
    run = Run(folder)
    rows = run.rows("dev-000000")
    assert rows.drop_columns(["shard"]).equals(run.table("dev-000000"))
    assert rows["shard"].to_pylist() == ["dev-000000"] * 2


def test_the_items_of_a_retry_are_laid_out_over_shards_as_the_size_says(tmp_path: Path) -> None:
    make_failing_run(tmp_path, [f"train/{number}-bad-once" for number in range(5)])
    assert [shard.num_items for shard in open_retry(tmp_path).plan.shards] == [2, 2, 1]
