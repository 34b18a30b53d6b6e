"""Retries of samples: shards of the retry replace the shards of these samples, and keep what is not retried."""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from datamodules.errors import ConfigError, RunError
from datamodules.run.commit import finalize_all
from datamodules.run.failures import count_failures, failures
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from preprocess.commands.merge import merge
from preprocess.commands.repair import repair
from preprocess.integrity import verify
from support.retry_runs import do, make_failing_run, open_retry
from support.run_paths import folder_of
from support.runs import tars

KEYS = [
    "train/a", "train/b-cut-once", "train/c-bad-twice", "train/d", "train/e", "train/f-bad-once",
    "train/g-cut-twice", "train/h-cut-always", "dev/x", "dev/y-cut-once",
]  # fmt: skip
CUT = [key for key in KEYS if "-cut-" in key]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards: `train-000000` to `-000002` with 3, 3 and 2 items, `dev-000000` with 2."""
    return make_failing_run(tmp_path / "run", KEYS)


def texts(folder: Path) -> dict[str, str]:
    """Return the texts of the samples of `CUT`, read by `CommittedSamples`."""
    samples = dict(CommittedSamples(Run(folder)))
    return {key: files["txt"].decode() for key, files in samples.items() if "txt" in files}


def keys_in_tars(folder: Path) -> list[str]:
    """Return the key of every sample in the folder's tars, read by `tarfile`."""
    keys = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            keys += [name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json")]
    return keys


def committed_keys(folder: Path) -> list[str]:
    return [key for key, _ in CommittedSamples(Run(folder))]


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in verify(Run(folder))]


def statuses(folder: Path, shard: str) -> list[tuple[str, str, str]]:
    rows = Run(folder).rows(shard, ["key", "status"]).to_pylist()
    return [(row["key"], row["status"], row["shard"]) for row in rows]


def test_samples_of_a_status_are_retried_and_the_rest_of_their_shards_kept(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    retry = open_retry(folder, "truncated")
    assert [(shard.name, shard.replaces, retry.plan.keys(shard.number)) for shard in retry.plan.shards] == [
        ("train-retry001-000000", "train-000000", KEYS[:3]),
        ("train-retry001-000001", "train-000002", KEYS[6:8]),
        ("dev-retry001-000000", "dev-000000", KEYS[8:]),
    ]
    do(retry)
    assert texts(folder) == dict(zip(CUT, ["ok in 1", "truncated in 1", "truncated in 1", "ok in 1"], strict=True))
    assert sorted(path.name for path in folder.glob("*.tar")) == [
        "dev-retry001-000000.tar", "train-000001.tar", "train-retry001-000000.tar", "train-retry001-000001.tar",
    ]  # fmt: skip
    hidden = {path.name: path.read_bytes() for path in folder.glob("superseded/*.tar")}
    assert hidden == {name: before[name] for name in ("train-000000.tar", "train-000002.tar", "dev-000000.tar")}
    assert statuses(folder, "train-000000") == [
        ("train/a", "ok", "train-retry001-000000"),
        ("train/b-cut-once", "ok", "train-retry001-000000"),
        ("train/c-bad-twice", "failed", "train-retry001-000000"),
    ]
    outcome = Run(folder).outcome()
    assert (outcome.committed, outcome.num_frames, outcome.statuses) == (8, 8, {"ok": 6, "truncated": 2})
    assert outcome.failure_classes == {"decode": 2}
    assert problems(folder) == []


def test_a_sample_whose_retry_fails_is_kept(tmp_path: Path) -> None:
    folder = make_failing_run(tmp_path / "run", ["train/a", "train/b-cut-then-bad", "train/c-cut-once"])
    before = dict(CommittedSamples(Run(folder)))
    retry = open_retry(folder, "truncated")
    do(retry)
    after = dict(CommittedSamples(Run(folder)))
    assert after.keys() == before.keys()
    assert after["train/b-cut-then-bad"] == before["train/b-cut-then-bad"]
    assert after["train/c-cut-once"]["txt"] == b"ok in 1"
    assert Run(folder).outcome().statuses == {"ok": 2, "truncated": 1}
    assert problems(folder) == []


def test_samples_of_a_damaged_tar_are_not_copied(folder: Path) -> None:
    tar = folder / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    with pytest.raises(RunError, match=r"train-000000\.tar has changed, so .*\. Run `preprocess verify --repair`"):
        do(open_retry(folder, "truncated"))
    assert len(problems(folder)) > 0


def test_only_retried_rows_are_extracted(folder: Path) -> None:
    with Rank(open_retry(folder, "truncated")) as rank:
        opened = rank.lease()
        assert opened is not None
        assert (opened.missing, opened.kept) == ([1], {0, 2})


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stock_reader_sees_every_sample_once_at_every_moment(folder: Path) -> None:  # it leaves files open
    retry = open_retry(folder, "truncated")
    for num_shards in (1, 1, 1):
        do(retry, num_shards)
        assert sorted(keys_in_tars(folder)) == sorted(committed_keys(folder))
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    seen = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)]
    assert sorted(seen) == sorted(key for key in KEYS if "-bad-" not in key)


def test_a_retry_of_a_retry_replaces_it(folder: Path) -> None:
    do(open_retry(folder, "decode"))  # failures first, whose retry lies beside the others
    do(open_retry(folder, "truncated"))
    do(open_retry(folder, "truncated", "decode"))
    assert Run(folder).retries[2].plan.replaces == ["train-retry001-000000", "train-retry002-000001"]
    assert texts(folder) == dict(zip(CUT, ["ok in 2", "ok in 2", "truncated in 3", "ok in 2"], strict=True))
    assert keys_in_tars(folder).count("train/a") == 1
    assert sorted(keys_in_tars(folder)) == sorted(committed_keys(folder)) == sorted(KEYS)
    assert problems(folder) == []


def test_statuses_are_classes_only_where_they_are_named(folder: Path) -> None:
    assert count_failures(Run(folder)) == {"decode": 2}
    assert count_failures(Run(folder), ["truncated"]) == {"truncated": 4}
    truncated = list(failures(Run(folder), ["truncated"]))
    assert [(failure.item.key, failure.reason, failure.reason_class) for failure in truncated] == [
        (key, "truncated", "truncated") for key in CUT
    ]
    with pytest.raises(ConfigError, match=r"--class ok: no item of .* has this class\. Use one of decode, truncated"):
        count_failures(Run(folder), ["ok"])


def test_bytes_do_not_depend_on_interruptions(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    do(open_retry(folder, "truncated"))
    with Rank(open_retry(other, "truncated")) as rank:
        rank.lease()  # and dies: what was kept is spooled
    do(open_retry(other, "truncated"), 1)
    do(open_retry(other, "truncated"))
    assert tars(other) == tars(folder)


@pytest.mark.parametrize("moved", [True, False])
def test_a_commit_that_was_cut_off_before_its_tar_showed_is_finished_by_the_next(folder: Path, moved: bool) -> None:
    do(open_retry(folder, "truncated"))
    done = tars(folder)
    (folder / "work" / "staging").mkdir(exist_ok=True)
    record = Run(folder).retries[0].record("train-retry001-000000")
    os.rename(folder / record.tar.name, folder / "work" / "staging" / f"{record.attempt}.tar")
    if not moved:
        os.rename(folder / "superseded" / "train-000000.tar", folder / "train-000000.tar")
    assert finalize_all(Run(folder))
    assert tars(folder) == done
    assert problems(folder) == []


def test_a_damaged_replacement_is_redone_and_the_replaced_shard_is_read_meanwhile(folder: Path) -> None:
    do(open_retry(folder, "truncated"))
    done = tars(folder)
    (folder / "train-retry001-000000.tar").write_bytes(b"rot")
    problems_found = list(verify(Run(folder)))
    assert [str(problem) for problem in problems_found] == ["train-retry001-000000.tar: 3 bytes instead of 10,240"]
    assert list(repair(Run(folder), problems_found)) == [
        "train-retry001-000000: deleted; rerun the same `retry` command to make it again",
        f"superseded/train-000000.tar: moved back to {folder}, as its shard is not superseded",
    ]
    assert sorted(keys_in_tars(folder)) == sorted(committed_keys(folder))
    do(open_retry(folder, "truncated"))
    assert tars(folder) == done


def test_a_damaged_table_of_a_replaced_shard_withdraws_the_retry(folder: Path) -> None:
    before = tars(folder)
    do(open_retry(folder, "truncated"))
    (folder / "tables" / "train-000000.parquet").unlink()
    problems_found = list(verify(Run(folder)))
    actions = list(repair(Run(folder), problems_found))
    assert actions[0] == "retry 1: withdrawn; its items are as they were before, so retry them again"
    assert sorted(keys_in_tars(folder)) == sorted(committed_keys(folder))
    assert tars(folder) == {name: content for name, content in before.items() if name != "train-000000.tar"}


def test_a_replaced_tar_that_reappeared_is_found_and_moved_away(folder: Path) -> None:
    do(open_retry(folder, "truncated"))
    shutil.copy(folder / "superseded" / "train-000000.tar", folder / "train-000000.tar")
    problems_found = list(verify(Run(folder)))
    assert [str(problem) for problem in problems_found] == [
        "train-000000.tar: a stray file, as its shard is superseded"
    ]
    assert list(repair(Run(folder), problems_found)) == ["train-000000.tar: moved to stray/train-000000.tar"]


def test_merged_runs_keep_replacements_and_replaced_shards(folder: Path, tmp_path: Path) -> None:
    do(open_retry(folder, "truncated"))
    other = make_failing_run(tmp_path / "other", ["train/k", "train/l-cut-once"])
    merged = merge([folder, other], tmp_path / "merged")
    assert problems(folder_of(merged)) == []
    assert sorted(keys_in_tars(folder_of(merged))) == sorted(committed_keys(folder) + committed_keys(other))
    do(open_retry(folder_of(merged), "truncated", fingerprint=merged.plan.fingerprint))
    assert problems(folder_of(merged)) == []


def test_samples_that_are_moved_while_read_are_found(folder: Path) -> None:
    reading: Any = CommittedSamples(Run(folder))
    do(open_retry(folder, "truncated"))
    assert [key for key, _ in reading] == [key for key in KEYS if "-bad-" not in key]
